//go:build cgo

package contract

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/belay-project/belay/bpf/pure"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/policy/policytest"
	"github.com/belay-project/belay/internal/verdict"
)

// fileActs asks the C which of acts the rules of e deny on a path, by mode.
func fileActs(e *policy.Effective, path string, acts policy.FileActs) (denied [2]policy.FileActs) {
	const k0, k1 = 3, 5
	rules := enforce.EncodeFiles([2]uint64{k0, k1}, e)
	rules = append(rules, enforce.FileRuleBytes{}) // never without an address
	p := enforce.EncodePolicy(e, 1)
	got := pure.FileActs(unsafe.Pointer(&rules[0]), len(rules)-1, unsafe.Pointer(&p), k0, k1, components(path), uint8(acts))
	return [2]policy.FileActs{policy.FileActs(got), policy.FileActs(got >> 8)}
}

func components(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(c string) bool { return c == "" || c == "." || c == ".." })
}

// The contract: the C that runs in the kernel matches paths as the Go reference does.
func TestFilesContract(t *testing.T) {
	policytest.RunFiles(t, func(t *testing.T, e *policy.Effective, path string) [2]policy.FileActs {
		all := fileActs(e, path, ^policy.FileActs(0))
		for mode, read := range fileActs(e, path, policy.ActRead) { // by the names first
			if read != all[mode]&policy.ActRead {
				t.Errorf("reading alone: %#x, among all acts %#x", read, all[mode])
			}
		}
		return all
	})
}

func TestFileActs(t *testing.T) {
	const moved = policy.ActRename | policy.ActDelete | policy.ActKeep
	for _, c := range []struct {
		name string
		got  uint8
		want policy.FileActs
	}{
		{"open for reading", pure.ActsOpened(true, false, false), policy.ActRead},
		{"open for writing", pure.ActsOpened(false, true, false), policy.ActWrite},
		{"open for both", pure.ActsOpened(true, true, false), policy.ActRead | policy.ActWrite},
		{"open for reading and truncate", pure.ActsOpened(true, false, true), policy.ActRead | policy.ActWrite},
		{"open of a name alone", pure.ActsOpened(false, false, false), 0},
		{"map without access", pure.ActsMapped(false, false, true), 0},
		{"map for reading", pure.ActsMapped(true, false, true), policy.ActRead},
		{"map a private copy", pure.ActsMapped(true, true, false), policy.ActRead},
		{"map for writing", pure.ActsMapped(true, true, true), policy.ActRead | policy.ActWrite},
		{"rename from", pure.ActsFrom(false), moved},
		{"exchange", pure.ActsFrom(true), moved | policy.ActCreate | policy.ActWrite},
		{"rename to", pure.ActsTo(), moved | policy.ActCreate | policy.ActWrite},
	} {
		if policy.FileActs(c.got) != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, c.got, c.want)
		}
	}
}

// filesFrom writes policies with file rules from fuzz bytes. Paths are of few names, so that
// they lie in one another; a name of its own can be given.
func filesFrom(seed []byte, own string) string {
	next := func() int {
		if len(seed) == 0 {
			return 0
		}
		b := seed[0]
		seed = seed[1:]
		return int(b)
	}
	words := []string{"read", "write", "create", "delete", "rename", "link", "attributes"}
	names := []string{"a", "b", "ab", "usr", "bin", "lib", own}
	var out strings.Builder
	for i := range 1 + next()%3 {
		mode := []string{"enforce", "audit"}[next()%2]
		fmt.Fprintf(&out, "---\napiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: p%d}\nspec:\n  mode: %s\n  files:\n    rules:\n", i, mode)
		for range 1 + next()%4 {
			path := ""
			for range 1 + next()%4 {
				path += "/" + names[next()%len(names)]
			}
			path += []string{"", "/*", "/**"}[next()%3]
			var deny []string
			for mask, w := next(), 0; w < len(words); w++ {
				if mask>>w&1 != 0 || w == 6 && len(deny) == 0 {
					deny = append(deny, words[w])
				}
			}
			fmt.Fprintf(&out, "    - {paths: [%q], deny: [%s]}\n", path, strings.Join(deny, ", "))
		}
	}
	return out.String()
}

// FuzzFiles: for any policies, path and act C and Go agree.
func FuzzFiles(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 2}, "x", "/a", uint8(2))
	f.Add([]byte{0, 0, 0, 1, 0, 1, 2, 127}, "x", "/a/b/c/d", uint8(255))
	f.Add([]byte{1, 0, 0, 1, 3, 4, 0, 1, 1, 0, 0, 4, 1, 64}, "x", "/usr/bin/ls", uint8(65))
	f.Add([]byte{2, 1, 3, 3, 6, 6, 6, 6, 1, 8}, "o w n", "/o w n/o w n/o w n/o w n/z", uint8(8))
	f.Add([]byte{0, 1, 0, 0, 2, 2, 255}, "\u00e9", "/"+strings.Repeat("x", 255)+"/ab", uint8(1))
	f.Add([]byte{0, 0, 1, 3, 6, 6, 6, 6, 2, 255}, "a/a/a/a/a", "/"+strings.Repeat("a/", 21)+"b", uint8(255)) // deeper than depths are told apart
	f.Add([]byte{}, "", "/", uint8(0))
	f.Add([]byte{0, 0, 0, 1, 6, 3, 1, 1}, "longer name", "/longer name/usr/x", uint8(1))
	f.Fuzz(func(t *testing.T, seed []byte, own, path string, acts uint8) {
		parts := components(path)
		if strings.ContainsRune(path, 0) || slices.ContainsFunc(parts, func(p string) bool { return len(p) > 255 }) {
			t.Skip("needs names as the kernel has them: of 1 to 255 bytes, none of them zero")
		}
		ps, err := policy.Parse("f.yaml", []byte(filesFrom(seed, own)))
		if err != nil {
			t.Skip("needs a name that a policy may hold")
		}
		set, err := policy.NewSet(ps)
		if err != nil {
			t.Fatal(err)
		}
		e := set.Effective(policy.Subject{Known: true})
		got := fileActs(e, path, policy.FileActs(acts))
		for mode := range got {
			want := e.FileActsDenied(verdict.Mode(mode), "/"+strings.Join(parts, "/")) & policy.FileActs(acts)
			if got[mode] != want {
				t.Fatalf("%s\n%q, acts %#x, mode %d: C %#x, Go %#x", filesFrom(seed, own), path, acts, mode, got[mode], want)
			}
		}
	})
}
