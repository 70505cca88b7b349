package policytest

import (
	"testing"

	"github.com/belay-project/belay/internal/policy"
)

// FileCase is one path and what is denied on it.
type FileCase struct {
	Name string
	YAML string
	Path string             // absolute and clean
	Want [2]policy.FileActs // by mode
}

// Acts that a rule brings with it.
const (
	moved    = policy.ActRename | policy.ActLink
	writing  = policy.ActWrite | policy.ActCreate | policy.ActDelete | policy.ActAttributes | moved
	keep     = policy.ActKeep
	readable = policy.ActRead | moved
)

// FileCases returns all cases. Their names are unique.
func FileCases() []FileCase {
	trees := enforce("files: {readOnly: [/usr, /srv/www/**, /opt/*]}")
	key := enforce("files: {rules: [{paths: [/etc/app/key], deny: [read]}]}")
	both := docs(doc("a", "mode: enforce", "files: {readOnly: [/etc]}"),
		doc("b", "mode: audit", "files: {rules: [{paths: [/etc/shadow], deny: [read]}]}"))
	is := func(a policy.FileActs) [2]policy.FileActs { return [2]policy.FileActs{a} }
	return []FileCase{
		{"tree/itself", trees, "/usr", is(writing | keep)},
		{"tree/file", trees, "/usr/bin/ls", is(writing)},
		{"tree/deep", trees, "/usr/a/b/c/d/e/f/g/h/i/j/k", is(writing)},
		{"tree/longer-name", trees, "/usrlocal", is(0)},
		{"tree/root", trees, "/", is(0)},
		{"below/itself-may-change", trees, "/srv/www", is(keep)},
		{"below/parent-keeps-its-name", trees, "/srv", is(keep)},
		{"below/sibling", trees, "/srv/ftp", is(0)},
		{"below/file", trees, "/srv/www/x", is(writing)},
		{"child/file", trees, "/opt/x", is(writing)},
		{"child/deeper", trees, "/opt/x/y", is(0)},
		{"child/directory", trees, "/opt", is(keep)},
		{"exact/file", key, "/etc/app/key", is(readable | keep)},
		{"exact/as-a-directory", key, "/etc/app/key/part", is(readable)},
		{"exact/parents", key, "/etc/app", is(keep)},
		{"exact/sibling", key, "/etc/app/key2", is(0)},
		{"exact/same-name-elsewhere", key, "/app/key", is(0)},
		{"alias/usrmerge", enforce("files: {rules: [{paths: [/bin/su], deny: [delete]}]}"), "/usr/bin/su", is(policy.ActDelete | moved | keep)},
		{"modes/each-by-itself", both, "/etc/shadow", [2]policy.FileActs{writing, readable | keep}},
		{"modes/enforced-alone", both, "/etc/passwd", is(writing)},
		{"everything", enforce("files: {readOnly: [/**]}"), "/any/file", is(writing)},
		{"words/create-alone", enforce("files: {rules: [{paths: [/in/**], deny: [create]}]}"), "/in/x", is(policy.ActCreate)},
		{"words/rename-alone", enforce("files: {rules: [{paths: [/in/**], deny: [rename]}]}"), "/in/x", is(policy.ActRename)},
		{"none", audit("exec: {drift: deny}"), "/usr/bin/ls", is(0)},
	}
}

// RunFiles asks denied each case of [FileCases], in subtests: the acts denied on a path, by
// mode.
func RunFiles(t *testing.T, denied func(t *testing.T, e *policy.Effective, path string) [2]policy.FileActs) {
	t.Helper()
	for _, c := range FileCases() {
		t.Run(c.Name, func(t *testing.T) {
			e, _ := ExecCase{Name: c.Name, YAML: c.YAML}.Resolve(t)
			for mode, got := range denied(t, e, c.Path) {
				if got != c.Want[mode] {
					t.Errorf("mode %d of %s: %v %#x, want %v %#x", mode, c.Path, got.Words(), got, c.Want[mode].Words(), c.Want[mode])
				}
			}
		})
	}
}
