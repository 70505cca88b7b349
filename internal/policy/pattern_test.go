package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPattern(t *testing.T) {
	tests := []struct {
		in      string
		want    Pattern
		matches []string
		misses  []string
	}{
		{"/usr/bin/wget", Pattern{PathExact, "/usr/bin/wget"}, []string{"/usr/bin/wget"}, []string{"/usr/bin/wget/x", "/usr/bin"}},
		{"/opt/app/**", Pattern{PathTree, "/opt/app"}, []string{"/opt/app/a", "/opt/app/a/b"}, []string{"/opt/app", "/opt/apple/a", "/opt"}},
		{"/opt/*", Pattern{PathChild, "/opt"}, []string{"/opt/a"}, []string{"/opt", "/opt/a/b", "/a"}},
		{"/**", Pattern{PathTree, "/"}, []string{"/a", "/a/b"}, []string{"/"}},
		{"/*", Pattern{PathChild, "/"}, []string{"/a"}, []string{"/", "/a/b"}},
		{"/usr/bin/[", Pattern{PathExact, "/usr/bin/["}, []string{"/usr/bin/["}, []string{"/usr/bin/a"}},
		{"/srv/ä b", Pattern{PathExact, "/srv/ä b"}, []string{"/srv/ä b"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, msg, _ := parsePattern(tt.in)
			if msg != "" {
				t.Fatal(msg)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("pattern (-want +got):\n%s", diff)
			}
			if got.String() != tt.in {
				t.Errorf("String: got %q, want %q", got.String(), tt.in)
			}
			for _, f := range tt.matches {
				if !got.Match(f) {
					t.Errorf("does not match %s", f)
				}
			}
			for _, f := range tt.misses {
				if got.Match(f) {
					t.Errorf("matches %s", f)
				}
			}
		})
	}
}

func TestAliases(t *testing.T) {
	tests := []struct {
		name string
		in   []Pattern
		want []string
	}{
		{"from bin", []Pattern{{PathExact, "/bin/sh"}}, []string{"/bin/sh", "/usr/bin/sh"}},
		{"from usr", []Pattern{{PathTree, "/usr/lib64"}}, []string{"/lib64/**", "/usr/lib64/**"}},
		{"both are one", []Pattern{{PathChild, "/sbin"}, {PathChild, "/usr/sbin"}}, []string{"/sbin/*", "/usr/sbin/*"}},
		{
			"similar names have none",
			[]Pattern{{PathExact, "/binary"}, {PathTree, "/lib32"}, {PathTree, "/usr"}, {PathTree, "/usr/local/bin"}},
			[]string{"/binary", "/lib32/**", "/usr/**", "/usr/local/bin/**"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, patternStrings(withAliases(tt.in))); diff != "" {
				t.Errorf("patterns (-want +got):\n%s", diff)
			}
		})
	}
}

// The intersection must name exactly the files that both lists name.
func TestIntersect(t *testing.T) {
	all := []Pattern{
		{PathExact, "/a"},
		{PathExact, "/a/b"},
		{PathExact, "/a/b/c"},
		{PathTree, "/"},
		{PathTree, "/a"},
		{PathTree, "/a/b"},
		{PathChild, "/"},
		{PathChild, "/a"},
		{PathChild, "/a/b"},
		{PathTree, "/x"},
	}
	files := []string{"/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/x", "/x", "/x/y", "/b"}
	for i, x := range all {
		for j, y := range all {
			a, b := []Pattern{x, all[(i+3)%len(all)]}, []Pattern{y, all[(j+5)%len(all)]}
			got := intersect(a, b)
			for _, f := range files {
				if want := anyMatch(a, f) && anyMatch(b, f); anyMatch(got, f) != want {
					t.Errorf("%v and %v on %s: got %v (%v), want %v", a, b, f, !want, got, want)
				}
			}
		}
	}
}

func anyMatch(ps []Pattern, f string) bool {
	for _, p := range ps {
		if p.Match(f) {
			return true
		}
	}
	return false
}

func TestClosest(t *testing.T) {
	words := []string{"asRoot", "fileCaps", "drift"}
	tests := []struct {
		in, want string
	}{{"asroot", "asRoot"}, {"drfit", "drift"}, {"filecap", "fileCaps"}, {"nothing", ""}, {"", ""}, {"x", ""}}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			if got, _ := closest(tt.in, words); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
