package image

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

func TestFaults(t *testing.T) {
	for _, tt := range []struct{ name, config, want string }{
		{"nothing", `{"config":{"User":"app","Env":["PATH=/bin"],"ExposedPorts":{"80/tcp":{}}},"history":[{"created_by":"RUN make"}]}`, ""},
		{"no user", `{}`, "root-user"},
		{"root", `{"config":{"User":"0:1000"}}`, "root-user"},
		{"a user", `{"config":{"User":"1000"}}`, ""},
		{"secret", `{"config":{"User":"a","Env":["DB_PASSWORD=hunter2","X=ghp_0123456789abc","KEY_FILE=/x"]}}`, "secret-in-env DB_PASSWORD, secret-in-env X"},
		{"ports", `{"config":{"User":"a","ExposedPorts":{"22/tcp":{},"2222/tcp":{}}}}`, "ssh-port 22/tcp"},
		{"URLs", `{"config":{"User":"a"},"history":[{"created_by":"ADD https://x/y /y # buildkit"},{"created_by":"/bin/sh -c #(nop) ADD http://x/y in /"},
			{"created_by":"ADD --checksum=sha256:0 https://x/y /y"},{"created_by":"RUN curl https://x"},{"created_by":"ADD file:0 in /"}]}`, "add-url history 1, add-url history 2"},
		{"history", `{"config":{"User":"a"},"history":[{"created_by":"RUN |1 NPM_TOKEN=hunter2 /bin/sh -c npm ci"},{"created_by":"RUN NPM_TOKEN=$NPM_TOKEN npm ci"},
			{"created_by":"RUN git clone glpat-hunter2hunter2"},{"created_by":"RUN x https://token:hunter2@h/?a=b"}]}`, "secret-in-history history 1, secret-in-history history 3, secret-in-history history 4"},
	} {
		list, unread := faults([]byte(tt.config))
		var got []string
		for _, m := range list {
			got = append(got, strings.TrimSpace(m.ID+" "+m.Where))
			if strings.Contains(m.Text+m.Where, "hunter2") {
				t.Errorf("%s: it tells the secret: %+v", tt.name, m)
			}
		}
		if strings.Join(got, ", ") != tt.want || unread != "" {
			t.Errorf("%s: got %q (%s), want %q", tt.name, got, unread, tt.want)
		}
	}
	if _, unread := faults([]byte(`{"config":{"Env":"x"}}`)); unread == "" {
		t.Error("a configuration that cannot be read is not said to be so")
	}
	var env []string
	for i := range 1000 {
		env = append(env, fmt.Sprintf("TOKEN%d=x", i))
	}
	b, err := json.Marshal(map[string]any{"config": map[string]any{"Env": env}})
	if err != nil {
		t.Fatal(err)
	}
	if list, unread := faults(b); len(list) != maxConfigFaults || unread == "" {
		t.Errorf("%d faults, %q", len(list), unread)
	}
}

func FuzzFaults(f *testing.F) {
	f.Add([]byte(`{"config":{"User":"0","Env":["TOKEN=x"],"ExposedPorts":{"22/tcp":{}}},"history":[{"created_by":"ADD http://x /"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _ := faults(b)
		res := inventory.Result{Schema: inventory.Schema, Misconfigurations: list}
		if err := res.Check(); err != nil {
			t.Error(err)
		}
	})
}
