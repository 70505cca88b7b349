package ci

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func distribution(action, media, repo, digest, tag, host string) string {
	return fmt.Sprintf(`{"id":"1","timestamp":"2026-01-01T00:00:00Z","action":%q,"target":{"mediaType":%q,"size":1,"digest":%q,"repository":%q,"url":"https://%s/v2/%s/manifests/x","tag":%q},"request":{"host":%q},"actor":{},"source":{}}`,
		action, media, digest, repo, host, repo, tag, host)
}

func TestNotifications(t *testing.T) {
	push := distribution("push", manifestType, "team/app", digestA, "1", "reg.example")
	harbor := `{"resources":[{"digest":"` + digestA + `","tag":"1","resource_url":"reg.example/team/app:1"}],"repository":{"name":"app","namespace":"team","repo_full_name":"team/app"}}`
	const want = "registry:reg.example/team/app@" + digestA
	tests := []struct {
		name, query, body string
		code              int
		image             string // of the one scan; "" for none
		skipped           string // reason of the first
	}{
		{"a push", "", `{"events":[` + push + `]}`, 202, want, ""},
		{"a push told twice", "", `{"events":[` + push + `,` + push + `]}`, 202, want, ""},
		{"a pull", "", `{"events":[` + distribution("pull", manifestType, "team/app", digestA, "1", "reg.example") + `]}`, 202, "", "no push"},
		{"a blob", "", `{"events":[` + distribution("push", "application/octet-stream", "team/app", digestA, "", "reg.example") + `]}`, 202, "", "no manifest"},
		{"a signature", "", `{"events":[` + distribution("push", manifestType, "team/app", digestA, "sha256-"+strings.Repeat("a", 64)+".sig", "reg.example") + `]}`, 202, "", "signature"},
		{"another registry", "", `{"events":[` + distribution("push", manifestType, "team/app", digestA, "1", "evil.example") + `]}`, 202, "", "--scan-registry"},
		{"by its own name", "?registry=reg.example", `{"events":[` + distribution("push", manifestType, "team/app", digestA, "1", "10.0.0.1:5000") + `]}`, 202, want, ""},
		{"a path for a host", "", `{"events":[` + distribution("push", manifestType, "team/app", digestA, "1", "reg.example/x") + `]}`, 202, "", "registry"},
		{"a repository that climbs", "", `{"events":[` + distribution("push", manifestType, "../../v2/_catalog", digestA, "1", "reg.example") + `]}`, 202, "", "repository"},
		{"a digest that is none", "", `{"events":[` + distribution("push", manifestType, "team/app", "sha256:x", "1", "reg.example") + `]}`, 202, "", "digest"},
		{"no event", "", `{"events":[]}`, 202, "", ""},
		{"Harbor", "", `{"type":"PUSH_ARTIFACT","occur_at":1,"operator":"x","event_data":` + harbor + `}`, 202, want, ""},
		{"Harbor, CloudEvents", "", `{"specversion":"1.0","type":"harbor.artifact.pushed","data":` + harbor + `}`, 202, want, ""},
		{"Harbor, a deletion", "", `{"type":"DELETE_ARTIFACT","event_data":` + harbor + `}`, 202, "", "no push"},
		{"generic", "", `{"image":"reg.example/team/app:1@` + digestA + `"}`, 202, want, ""},
		{"generic without a digest", "", `{"image":"reg.example/team/app:1"}`, 400, "", ""},
		{"nothing that is known", "", `{"hello":1}`, 400, "", ""},
		{"no JSON", "", `<xml>`, 400, "", ""},
		{"too many", "", `{"events":[` + strings.TrimSuffix(strings.Repeat(push+",", maxEvents+1), ",") + `]}`, 400, "", ""},
		{"too large", "", `{"events":"` + strings.Repeat("x", maxNotifyBody) + `"}`, 413, "", ""},
		{"a rule that is none", "?failOn=awful", `{"events":[` + push + `]}`, 400, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := start(t, nil)
			var n Notified
			into := any(&n)
			if tt.code != 202 {
				into = nil
			}
			code, text := w.call("alice", "POST", "/v1/notifications/registry"+tt.query, tt.body, http.Header{"Content-Type": {"application/vnd.docker.distribution.events.v2+json"}}, into)
			if code != tt.code {
				t.Fatalf("%d, %s", code, text)
			}
			ids := map[string]bool{}
			for _, s := range n.Scans {
				ids[s.ID] = true
				if s.Image != tt.image || !s.Event {
					t.Errorf("a scan of %s, want %q", s.Image, tt.image)
				}
				if r := w.wait("alice", s.ID); r.Verdict != VerdictPass {
					t.Errorf("%+v", r.Scan)
				}
			}
			if want := tt.image != ""; want != (len(ids) == 1) {
				t.Errorf("%d scans: %s", len(ids), text)
			}
			if tt.skipped != "" && (len(n.Skipped) == 0 || !strings.Contains(n.Skipped[0].Reason, tt.skipped)) {
				t.Errorf("skipped %+v", n.Skipped)
			}
		})
	}
}

// TestNotificationVersions: a push by either version of Distribution's envelope: of the second, and of the first, which
// says how long a thing is twice.
func TestNotificationVersions(t *testing.T) {
	push := distribution("push", manifestType, "team/app", digestA, "1", "reg.example")
	for version, event := range map[string]string{"v1": strings.Replace(push, `"size":1`, `"size":1,"length":1`, 1), "v2": push} {
		w := start(t, nil)
		var n Notified
		media := http.Header{"Content-Type": {"application/vnd.docker.distribution.events." + version + "+json"}}
		if code, text := w.call("alice", "POST", "/v1/notifications/registry", `{"events":[`+event+`]}`, media, &n); code != 202 || len(n.Scans) != 1 || n.Scans[0].Image != "registry:reg.example/team/app@"+digestA {
			t.Errorf("%s: %d, %s", version, code, text)
		}
	}
}

// TestNotificationsRefused: a caller whom no policy lets queues nothing; a full queue is told, so
// that the registry tries again.
func TestNotificationsRefused(t *testing.T) {
	w := start(t, func(o *Options) { o.MaxPending = 1 })
	w.images.gate = make(chan struct{})
	defer close(w.images.gate)
	body := func(digest string) string {
		return `{"events":[` + distribution("push", manifestType, "team/app", digest, "1", "reg.example") + `]}`
	}
	var n Notified
	if code, text := w.call("mallory", "POST", "/v1/notifications/registry", body(digestA), nil, &n); code != 202 || len(n.Scans) != 0 || len(n.Skipped) != 1 {
		t.Errorf("mallory: %d, %s", code, text)
	}
	if code, text := w.call("alice", "POST", "/v1/notifications/registry", body(digestA), nil, nil); code != 202 {
		t.Errorf("%d, %s", code, text)
	}
	if code, text := w.call("alice", "POST", "/v1/notifications/registry", body(digestB), nil, nil); code != 429 {
		t.Errorf("a full queue: %d, %s", code, text)
	}
}

func FuzzNotification(f *testing.F) {
	f.Add([]byte(`{"events":[`+distribution("push", manifestType, "team/app", digestA, "1", "reg.example")+`]}`), "")
	f.Add([]byte(`{"type":"PUSH_ARTIFACT","event_data":{"resources":[{"digest":"`+digestA+`","resource_url":"r.example/a/b:1"}],"repository":{"repo_full_name":"a/b"}}}`), "reg.example:5000")
	f.Add([]byte(`{"image":"reg.example/app@`+digestA+`"}`), "")
	f.Fuzz(func(t *testing.T, body []byte, registry string) {
		list, err := parseNotification(body, registry)
		if err != nil {
			return
		}
		if len(list) > maxEvents {
			t.Fatalf("%d events", len(list))
		}
		for i := range list {
			if list[i].skip != "" {
				continue
			}
			// What is to be scanned is the name of one image, by digest, in one registry.
			ref, err := parseImage(registryPrefix + list[i].image())
			if err != nil {
				continue // newJob refuses it
			}
			if want := strings.ToLower(list[i].host); ref.host != want && (want != "index.docker.io" || ref.host != dockerHub) {
				t.Errorf("%q is asked of %q", list[i].image(), ref.host)
			}
		}
	})
}
