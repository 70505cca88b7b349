package archtest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func pages(t *testing.T) map[string]string {
	t.Helper()
	all, err := Docs(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLinks: every relative link of the documentation leads to a file, and to a heading of it.
func TestLinks(t *testing.T) {
	for _, wrong := range DeadLinks(os.DirFS(root), pages(t)) {
		t.Error(wrong)
	}
}

func TestDeadLinks(t *testing.T) {
	all := map[string]string{
		"README.md":   "# Top\n[a](docs/a.md) [b](docs/a.md#two-words) [c](#top) [w](https://x.example/y) `[no](link)`\n```\n[no](link)\n```\n",
		"docs/a.md":   "## Two words\n## Two words\n[up](../README.md#top) [again](#two-words-1)\n",
		"docs/bad.md": "[gone](gone.md) [no heading](a.md#three) [above](../docs/a.md#two-words-2) <img src=\"no.svg\">\n",
	}
	tree := fstest.MapFS{}
	for name, text := range all {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	got := DeadLinks(tree, all)
	want := []string{
		"docs/bad.md: link to ../docs/a.md#two-words-2, and docs/a.md has no such heading",
		"docs/bad.md: link to a.md#three, and docs/a.md has no such heading",
		"docs/bad.md: link to gone.md, which is not there",
		"docs/bad.md: link to no.svg, which is not there",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCommandsOf(t *testing.T) {
	text := "Say `belay scan -o json` or ``sudo belay`` or `belay`; not `belayed x`, nor `--flag belay x`.\n```sh\nbelay doctor || [ $? = 4 ]  # belay no\nX=1 sudo /usr/bin/belay scan 'a b' --fail-on \\\n  high >belay\n```\n" +
		"```console\n$ belay status\nbelay is output\n```\n```yaml\nbelay: no\n- run: build -t x . && belay scan 'a' -o junit\n- belay ci list\n# - belay version\n- name: belay\n```\n" +
		"```groovy\nsh 'belay ci scan \"$X\" >y'\necho 'belay no'\n```\n"
	var got []string
	for _, c := range Commands(map[string]string{"x.md": text}, "belay") {
		got = append(got, c.Where+" "+strings.Join(c.Args, "|"))
	}
	if want := []string{"x.md:1 scan|-o|json", "x.md:13 scan|a|-o|junit", "x.md:14 ci|list", "x.md:15 version", "x.md:19 ci|scan|$X", "x.md:3 doctor", "x.md:5 scan|a b|--fail-on|high", "x.md:8 status"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestMakeTargets: what the pages tell to make, the Makefile has.
func TestMakeTargets(t *testing.T) {
	raw, err := os.ReadFile(root + "/Makefile")
	if err != nil {
		t.Fatal(err)
	}
	all := Commands(pages(t), "make")
	if len(all) < 3 {
		t.Fatalf("found %d calls of make", len(all))
	}
	for _, c := range all {
		for _, target := range c.Args {
			if !strings.Contains(target, "=") && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(target)+`\b.*:`).Match(raw) {
				t.Errorf("%s: make %s: there is no such target", c.Where, target)
			}
		}
	}
}

// TestBuildTags: programs are built, checked and listed with the same build tags everywhere (docs/adr/0015).
func TestBuildTags(t *testing.T) {
	for _, file := range []string{"Makefile", "tools/release/lib.sh", "tools/release/vulncheck.sh", "internal/archtest/depstest/depstest.go"} {
		raw, err := os.ReadFile(root + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`-tags"?,? "?grpcnotrace`).Match(raw) {
			t.Errorf("%s does not build with -tags grpcnotrace", file)
		}
	}
}

// TestReport: the report of a full test has a row for each of its stages, also for those that were not run.
func TestReport(t *testing.T) {
	raw, err := os.ReadFile(root + "/tools/ci/full.sh")
	if err != nil {
		t.Fatal(err)
	}
	stages := regexp.MustCompile(`(?m)^stage (\S+) "([^"]+)"`).FindAllStringSubmatch(string(raw), -1)
	if len(stages) < 10 {
		t.Fatalf("found %d stages", len(stages))
	}
	report := pages(t)["docs/test-report.md"]
	for _, s := range stages {
		if !strings.Contains(report, "\n| "+s[1]+" | "+s[2]+" | ") {
			t.Errorf("docs/test-report.md has no row for the stage %s (%s)", s[1], s[2])
		}
	}
}
