package ship

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
)

// block is a fenced block of commands of one of the pages that get somebody started.
type block struct {
	page  string
	first string // how its first line begins
	// played names the test that runs its lines as they stand; notPlayed says why none does.
	played, notPlayed string
}

var blocks = []block{
	{page: "docs/install.md", first: "apt install ./belay_", played: "TestQuickStart"},
	{page: "docs/install.md", first: "docker load", played: "TestImageInDocker"},
	{page: "README.md", first: "$ make demo", notPlayed: "they are what runs this test, and stages beside it"},
	{page: "README.md", first: "make build", notPlayed: "it enforces on the whole host: the tests in test/e2e run the agent with such flags, kept to a cgroup of their own"},
	{page: "README.md", first: "make package", notPlayed: "TestQuickStart builds the package, and plays the same two commands on it"},
	{page: "docs/kubernetes.md", first: "make release", notPlayed: "there is no cluster and no registry: tools/charttest holds the chart to Helm and to the API's types, release-check builds the files"},
	{page: "docs/kubernetes.md", first: "/opt/belay/bin/belay status", notPlayed: "there is no node: TestImageInDocker installs the agent on what looks like one, and cmd/ctl holds the commands to those there are"},
	{page: "docs/kubernetes.md", first: "helm upgrade belay", notPlayed: "there is no cluster"},
	{page: "docs/kubernetes.md", first: "kubectl -n kube-system get pods", notPlayed: "there is no cluster, and none with Cilium"},
}

// TestStartBlocks: each block of commands of the pages that get somebody started is played, or it is said why not.
func TestStartBlocks(t *testing.T) {
	found := map[string]bool{}
	for _, page := range []string{"README.md", "docs/install.md", "docs/kubernetes.md"} {
		for _, lines := range commandBlocks(t, page) {
			b, ok := find(page, lines[0])
			if !ok {
				t.Errorf("%s: no test plays the block that begins with %q: play it, or say in blocks_test.go why none does", page, lines[0])
			}
			found[b.page+b.first] = true
		}
	}
	for _, b := range blocks {
		if !found[b.page+b.first] {
			t.Errorf("%s: has no block that begins with %q", b.page, b.first)
		}
		if (b.played == "") == (b.notPlayed == "") {
			t.Errorf("%s: %q is played, or it is not", b.page, b.first)
		}
	}
}

func find(page, line string) (block, bool) {
	for _, b := range blocks {
		if b.page == page && strings.HasPrefix(line, b.first) {
			return b, true
		}
	}
	return block{}, false
}

// linesFor returns the lines of the only block that a test plays.
func linesFor(t *testing.T, test string) []string {
	t.Helper()
	for _, b := range blocks {
		for _, lines := range commandBlocks(t, b.page) {
			if b.played == test && strings.HasPrefix(lines[0], b.first) {
				return lines
			}
		}
	}
	t.Fatalf("no page has a block for %s", test)
	return nil
}

// commandBlocks returns the lines of each block of sh and console of a page.
func commandBlocks(t *testing.T, page string) (out [][]string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", page))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	in := false
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "```sh" || line == "```console":
			in, lines = true, nil
		case in && line == "```":
			in, out = false, append(out, lines)
		case in && line != "":
			lines = append(lines, line)
		}
	}
	if in || len(out) == 0 {
		t.Fatalf("%s: found %d blocks of commands, and open is %v", page, len(out), in)
	}
	return out
}

// result is what a command of a page came to.
type result struct {
	code int
	text string
}

// play runs the lines of a block one by one. A comment says what is to come of a line: "denied" that a container's
// process does not run, anything else that the line succeeds. after sees each line that did as it should.
func play(t *testing.T, lines []string, run func(line string) result, after func(n int, r result)) {
	t.Helper()
	for n, line := range lines {
		command, _, _ := strings.Cut(line, "  # ")
		r := run(strings.TrimSpace(command))
		if why := r.wrong(isDenied(line)); why != "" {
			t.Fatalf("%q: %s\n%s", line, why, r.text)
		}
		after(n, r)
	}
}

func isDenied(line string) bool {
	_, comment, _ := strings.Cut(line, "  # ")
	return strings.TrimSpace(comment) == "denied"
}

// wrong says why a result is not the one that the page promises. Denied, and not merely failed: an engine that is
// away fails too.
func (r result) wrong(denied bool) string {
	switch {
	case !denied && r.code != 0:
		return fmt.Sprintf("exit status %d", r.code)
	case denied && r.code == 0:
		return "it ran"
	case denied && r.code != 137 && !strings.Contains(r.text, "not permitted"):
		return fmt.Sprintf("exit status %d: it failed, and was not denied", r.code)
	}
	return ""
}

func TestResults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		r      result
		denied bool
		ok     bool
	}{
		{"runs", result{0, "uid=0"}, false, true},
		{"does not run", result{1, "no such container"}, false, false},
		{"killed", result{137, ""}, true, true},
		{"refused", result{126, "exec id: operation not permitted"}, true, true},
		{"runs and should not", result{0, "uid=0"}, true, false},
		{"the engine is away", result{1, "Cannot connect to the Docker daemon"}, true, false},
	} {
		if why := tt.r.wrong(tt.denied); (why == "") != tt.ok {
			t.Errorf("%s: %q", tt.name, why)
		}
	}
}

// TestPlayedIsRequired: a skip of a test that plays commands of the pages fails in the stage that runs it.
func TestPlayedIsRequired(t *testing.T) {
	stage, err := os.ReadFile("../../tools/ci/e2e.sh")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(stage), testneed.EnvRequire+":-")
	list, _, _ = strings.Cut(list, "}")
	needs := regexp.MustCompile(`testneed\.Need\(t, "([^"]+)"`)
	for _, file := range []string{"quickstart_test.go", "image_test.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := needs.FindAllStringSubmatch(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s says nothing of what it needs", file)
		}
		for _, m := range found {
			if !slices.Contains(strings.Split(list, ","), m[1]) {
				t.Errorf("%s needs %s, which tools/ci/e2e.sh does not require: %q", file, m[1], list)
			}
		}
	}
}
