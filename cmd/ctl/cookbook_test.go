package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/policy"
)

// The recipes of the documentation do what they say: each of their policies has a test that
// allows by it and one that denies, run as a user runs them.
func TestCookbook(t *testing.T) {
	doc, err := os.ReadFile("../../docs/access-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, cookbook, ok := strings.Cut(string(doc), "\n## Cookbook\n")
	if !ok {
		t.Fatal("the documentation has no cookbook")
	}
	cookbook, _, _ = strings.Cut(cookbook, "\n## ")
	for _, recipe := range []string{"CI runner", "Traefik", "Portainer", "AI agent", "testcontainers"} {
		if !strings.Contains(cookbook, "\n### "+recipe+"\n") {
			t.Errorf("the cookbook has no recipe for %s", recipe)
		}
	}
	var recipes []string
	for _, block := range strings.Split(cookbook, "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		recipes = append(recipes, block)
	}
	tests, err := os.ReadFile("testdata/cookbook.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"recipes.yaml": strings.Join(recipes, "---\n"), "cookbook.yaml": string(tests)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), &terminal{out: &out, err: &errs, now: time.Now}, []string{"policy", "test", filepath.Join(dir, "cookbook.yaml")}); code != exitOK {
		t.Errorf("belay policy test: status %d\n%s%s", code, out.String(), errs.String())
	}
	checkCovered(t, filepath.Join(dir, "recipes.yaml"), tests)
}

// checkCovered fails for policies that have no test of their own.
func checkCovered(t *testing.T, recipes string, tests []byte) {
	t.Helper()
	set, err := policy.ParseFiles(recipes)
	if err != nil {
		t.Fatal(err)
	}
	parsed, _, err := policy.ParseTests("cookbook.yaml", tests)
	if err != nil {
		t.Fatal(err)
	}
	allows, denies := map[string]bool{}, map[string]bool{}
	for _, at := range parsed {
		for i := range at.Requests {
			switch w := at.Requests[i].Want; {
			case w.Decision == policy.ExpectAllowed && w.Policy == at.Name:
				allows[at.Name] = true
			case w.Decision == policy.ExpectDenied:
				denies[at.Name] = true
			}
		}
	}
	for _, p := range set.AccessPolicies() {
		if !allows[p.Name] || !denies[p.Name] {
			t.Errorf("policy %s of the cookbook: a test that it allows: %v, and one that denies: %v", p.Name, allows[p.Name], denies[p.Name])
		}
	}
}
