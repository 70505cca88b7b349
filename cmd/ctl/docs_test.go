package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/cmd/manpage"
	"github.com/belay-project/belay/internal/archtest"
)

// TestDocumentedCommands: what the pages tell to run is understood: its commands and flags are there.
func TestDocumentedCommands(t *testing.T) {
	understands := func(args []string) error {
		root, _ := newRoot(&terminal{now: time.Now})
		return manpage.Understands(root, args)
	}
	if err := archtest.Understood(os.DirFS("../.."), "belay", 20, understands); err != nil {
		t.Error(err)
	}
	if understands([]string{"status", "--no-such-flag"}) == nil {
		t.Error("a flag that is not there is understood")
	}
}

// TestDocumentedScreen: the page shows belay top as TestScreens has it, with its empty lines as one.
func TestDocumentedScreen(t *testing.T) {
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	script, err := txtar.ParseFile("testdata/screen/top.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range script.Files {
		if f.Name != "want.denials" {
			continue
		}
		screen := regexp.MustCompile(`\n{3,}`).ReplaceAllString(string(f.Data), "\n\n")
		if !strings.Contains(string(page), "$ belay top\n"+screen+"```") {
			t.Errorf("docs/cli.md does not show\n%s", screen)
		}
		return
	}
	t.Fatal("there is no screen")
}

var (
	yamlBlock  = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	checkout   = regexp.MustCompile(`uses:actions/checkout@`)
	stepOutput = regexp.MustCompile(`steps\.([\w-]+)\.outputs`)
)

// TestRecipes: each pipeline of docs/ci.md is YAML, those of GitHub can run, and what they take of a step is of one before it. That its
// commands and flags are there is [TestDocumentedCommands]'s.
func TestRecipes(t *testing.T) {
	page, err := os.ReadFile("../../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	outputs, workflows := 0, 0
	for _, block := range yamlBlock.FindAllSubmatch(page, -1) {
		var recipe any
		if err := yaml.Unmarshal(block[1], &recipe); err != nil {
			t.Errorf("%v in\n%s", err, block[1])
			continue
		}
		workflow, _ := recipe.(map[string]any)
		jobs, _ := workflow["jobs"].(map[string]any)
		if jobs != nil {
			workflows++
			// What YAML 1.1 takes for a boolean is a text here: the reader is of YAML 1.2.
			if workflow["on"] == nil {
				t.Errorf("the workflow does not say when it runs (on):\n%s", block[1])
			}
		}
		for name, job := range jobs {
			steps, _ := job.(map[string]any)["steps"].([]any)
			if job.(map[string]any)["runs-on"] == nil {
				t.Errorf("job %s does not say where it runs (runs-on)", name)
			}
			if len(steps) == 0 || !checkout.MatchString(fmt.Sprint(steps[0])) {
				t.Errorf("job %s does not begin with the repository's files (actions/checkout)", name)
			}
			ids := map[string]bool{}
			for _, step := range steps {
				text, err := yaml.Marshal(step)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range stepOutput.FindAllSubmatch(text, -1) {
					if outputs++; !ids[string(m[1])] {
						t.Errorf("job %s: no step before it has the id %s:\n%s", name, m[1], text)
					}
				}
				if id, ok := step.(map[string]any)["id"].(string); ok {
					ids[id] = true
				}
			}
		}
	}
	if outputs == 0 || workflows == 0 {
		t.Errorf("%d workflows, and %d take what a step gave", workflows, outputs)
	}
}
