package policy

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTotalOrder(t *testing.T) {
	s := mustSet(t,
		named("b", "mode: audit", "ssh: {keys: deny}"),
		named("low", "priority: -1", "mode: audit", "ssh: {keys: deny}"),
		named("a", "mode: audit", "ssh: {keys: deny}"),
		named("z-high", "priority: 9", "mode: audit", "ssh: {keys: deny}"))
	var got []string
	for _, p := range s.Policies() {
		got = append(got, p.Name)
	}
	if diff := cmp.Diff([]string{"z-high", "a", "b", "low"}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestSetRevision(t *testing.T) {
	a, b := named("a", "mode: audit", "ssh: {keys: deny}"), named("b", "mode: audit", "ssh: {keys: deny}")
	if mustSet(t, a, b).Revision() != mustSet(t, b, "# moved\n"+a).Revision() {
		t.Error("the order of documents and comments changed the revision")
	}
	if mustSet(t, a, b).Revision() == mustSet(t, a).Revision() {
		t.Error("two different sets have one revision")
	}
	if got := (&Set{}).Revision(); len(got) != revisionLen {
		t.Errorf("revision of the empty set: got %q", got)
	}
}

func TestLoadDir(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  []string // names in total order
		errs  []string // parts of the errors' lines, in order
	}{
		{name: "empty"},
		{name: "both endings, others left out", want: []string{"a", "b"}, files: map[string]string{
			"2.yaml": named("a", "mode: audit", "ssh: {keys: deny}"), "1.yml": named("b", "mode: audit", "ssh: {keys: deny}"),
			".hidden.yaml": "x", "README.md": "x", "old.yaml.bak": "x", "sub.yaml/x": "x",
		}},
		{
			name: "all errors of all files", files: map[string]string{"1.yaml": "x: 1", "2.yaml": named("a", "mode: x", "ssh: {keys: deny}")},
			errs: []string{
				"1.yaml:1:1: unknown field", "apiVersion is missing", "kind is missing", "metadata is missing", "spec is missing",
				"2.yaml:5:9: spec.mode",
			},
		},
		{
			name: "one name twice", files: map[string]string{
				"1.yaml": named("a", "mode: audit", "ssh: {keys: deny}"),
				"2.yaml": "\n" + named("a", "mode: audit", "ssh: {keys: deny}"),
			},
			errs: []string{`2.yaml:2: policy "a" is already defined at DIR/1.yaml:1; fix: rename one of the two`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range tt.files {
				file := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s, err := LoadDir(dir)
			if len(tt.errs) > 0 {
				if err == nil {
					t.Fatal("got no error")
				}
				checkLines(t, strings.Split(strings.ReplaceAll(err.Error(), dir, "DIR"), "\n"), tt.errs)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range s.Policies() {
				got = append(got, p.Name)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("policies (-want +got):\n%s", diff)
			}
		})
	}
}

func checkLines(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d lines, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range got {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("line %d: got  %s\nwant %s", i, got[i], want[i])
		}
	}
}

func TestUnreadableFiles(t *testing.T) {
	dir := t.TempDir()
	if s, err := LoadDir(filepath.Join(dir, "missing")); err != nil || len(s.Policies()) != 0 {
		t.Errorf("missing directory: got %v, %v, want an empty set", s, err)
	}
	_, err := ParseFiles(filepath.Join(dir, "missing.yaml"), dir)
	es, ok := errors.AsType[Errors](err)
	if !errors.Is(err, fs.ErrNotExist) || !ok || len(es) != 2 {
		t.Fatalf("got %v, want two errors, the first of a missing file", err)
	}
	if got := es[1].Error(); !strings.Contains(got, "not a regular file") {
		t.Errorf("directory as file: got %s", got)
	}
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadDir(file); err == nil {
		t.Error("a file as directory: got no error")
	}
}

func TestSelector(t *testing.T) {
	sub := Subject{
		Known: true, Name: "/web-1", Image: "nginx:1.27", ImageDigest: "nginx@" + testDigest, Namespace: "prod",
		Labels: map[string]string{"app": "web", "tier": "1"}, PodLabels: map[string]string{"k": "v"}, Workload: "deployment/web",
	}
	tests := []struct {
		name, selector string
		want           bool
	}{
		{"empty", "{}", true},
		{"empty labels", "{labels: {}}", true},
		{"label", "{labels: {app: web}}", true},
		{"labels, one wrong", "{labels: {app: web, tier: '2'}}", false},
		{"label missing", "{labels: {other: web}}", false},
		{"empty value is a value", "{labels: {other: ''}}", false},
		{"pod label", "{podLabels: {k: v}}", true},
		{"pod label is no label", "{podLabels: {app: web}}", false},
		{"image", "{image: 'nginx:*'}", true},
		{"digest", "{imageDigest: '" + testDigest + "'}", true},
		{"digest of another", "{imageDigest: 'sha256:" + strings.Repeat("0", 64) + "'}", false},
		{"name", "{name: 'web-*'}", true},
		{"name of another", "{name: web}", false},
		{"namespace", "{namespace: prod}", true},
		{"workload", "{workload: deployment/web}", true},
		{"workloads of a kind", "{workload: 'deployment/*'}", true},
		{"workload of another kind", "{workload: 'statefulset/*'}", false},
		{"all conditions", "{image: nginx, name: 'web-*', namespace: prod, labels: {app: web}}", true},
		{"all conditions but one", "{image: nginx, name: 'web-*', namespace: test, labels: {app: web}}", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sel := &mustParse(t, doc("selector: "+tt.selector, "mode: audit", "ssh: {keys: deny}"))[0].Spec.Selector
			if got := sel.matches(&sub); got != tt.want {
				t.Errorf("known container: got %v, want %v", got, tt.want)
			}
			unknown := sub
			unknown.Known = false
			if got, want := sel.matches(&unknown), sel.empty(); got != want {
				t.Errorf("unknown container: got %v, want %v", got, want)
			}
		})
	}
}

func TestMatchImage(t *testing.T) {
	tests := []struct {
		pattern, image string
		want           bool
	}{
		{"nginx:*", "nginx", true},
		{"nginx:*", "nginx:1.27", true},
		{"nginx:*", "nginx@" + testDigest, true},
		{"nginx:*", "nginx:1@" + testDigest, true},
		{"nginx:*", "nginx2:1", false},
		{"nginx:*", "acme/nginx:1", false},
		{"nginx:*", "evil.example/nginx:1", false},
		{"nginx:*", "docker.io/library/nginx:1", true},
		{"nginx:*", "index.docker.io/library/nginx:1", true},
		{"nginx:latest", "nginx", true},
		{"nginx:latest", "nginx@" + testDigest, false},
		{"nginx:1.*", "nginx:1.27-alpine", true},
		{"nginx", "nginx:1.27", true},
		{"nginx", "library/nginx", true},
		{"library/nginx", "nginx:1", true},
		{"docker.io/library/nginx:1", "nginx:1", true},
		{"docker.io/**", "nginx", true},
		{"docker.io/**", "acme/app:2", true},
		{"docker.io/**", "ghcr.io/acme/app", false},
		{"acme/*", "docker.io/acme/app", true},
		{"ghcr.io/acme/**", "ghcr.io/acme/a/b:1", true},
		{"ghcr.io/acme/*", "ghcr.io/acme/a/b:1", false},
		{"localhost:5000/app", "localhost:5000/app:3", true},
		{"localhost:5000/app:3", "localhost:5000/app:4", false},
		{"localhost/app", "localhost/app", true},
		{"**", "registry.example:443/a/b@" + testDigest, true},
		{"*", "acme/app", false},
	}
	for _, tt := range tests {
		t.Run(tt.pattern+" "+tt.image, func(t *testing.T) {
			if got := matchImage(tt.pattern, tt.image); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
