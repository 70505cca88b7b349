package worker

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/scan/extract"
	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// without is a result as it is without what some scanners find.
func without(res *inventory.Result, skip []string) *inventory.Result {
	out := *res
	out.Misconfigurations = slices.DeleteFunc(slices.Clone(res.Misconfigurations), func(m inventory.Misconfiguration) bool {
		return slices.Contains(skip, inventory.ScannerOf(m.ID))
	})
	if len(out.Misconfigurations) == 0 {
		out.Misconfigurations = nil
	}
	if slices.Contains(skip, inventory.ScannerSecret) {
		out.Unsearched = nil
	}
	return &out
}

// TestSkip: a scanner that is left out takes away what it finds, and nothing else, in a tree, in an
// archive, and where layers are known with all that they have, or with as much as is looked for.
func TestSkip(t *testing.T) {
	low := tarOf(t,
		ent{name: "etc/os-release", body: osRelease},
		ent{name: "var/lib/dpkg/status", body: deb("bash", "5.2-1", "") + deb("sudo", "1.9", "")},
		ent{name: "var/lib/dpkg/info/sudo.list", body: "/usr/bin/sudo\n"},
		ent{name: "usr/bin/sudo", body: "x", mode: 0o4755}, ent{name: "opt/tool", body: "x", mode: 0o2755},
		ent{name: "root/.env", body: "DB_PASSWORD=correct-horse-battery\n"}, ent{name: "srv/.env", body: "API_TOKEN=correct-horse-battery\n"},
		ent{name: "root/big.txt", body: strings.Repeat("a", 5<<20)}, ent{name: "tmp/open", body: "x", mode: 0o666},
		ent{name: "n/node_modules/bad/package.json", body: `{"name":`},
	)
	up := tarOf(t, ent{name: "root/.wh..env", typ: tar.TypeReg}, ent{name: "opt/new", body: "x", mode: 0o4755})
	files := layoutFiles(gzipped, low, up)
	root := rootOf(t, files)

	tree := t.TempDir()
	for name, body := range map[string]string{"etc/os-release": osRelease, "var/lib/dpkg/status": deb("bash", "5.2-1", ""), "srv/.env": "API_TOKEN=correct-horse-battery\n", "opt/tool": "x"} {
		p := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(body), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(tree, "opt/tool"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	kept := func(skip []string) func(string) []byte {
		return func(digest string) []byte {
			var b bytes.Buffer
			if err := image.WriteLayer(t.Context(), bytes.NewReader(files["blobs/sha256/"+digest[len("sha256:"):]]), extract.Set{}, skip, &b); err != nil {
				t.Error(err)
			}
			return b.Bytes()
		}
	}
	for name, read := range map[string]func(skip []string) (*inventory.Result, error){
		"tree": func(skip []string) (*inventory.Result, error) {
			return readJob(t, inventory.Job{Source: inventory.SourceRootfs, Skip: skip}, tree)
		},
		"overlay": func(skip []string) (*inventory.Result, error) {
			return readJob(t, inventory.Job{Source: inventory.SourceOverlay, Skip: skip}, tree)
		},
		"layers":         func(skip []string) (*inventory.Result, error) { return readHeldJob(t, files, root, nil, skip) },
		"known":          func(skip []string) (*inventory.Result, error) { return readHeldJob(t, files, root, kept(nil), skip) },
		"known, as much": func(skip []string) (*inventory.Result, error) { return readHeldJob(t, files, root, kept(skip), skip) },
	} {
		t.Run(name, func(t *testing.T) {
			all, err := read(nil)
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]int{}
			for _, m := range all.Misconfigurations {
				found[inventory.ScannerOf(m.ID)]++
			}
			if len(found) != 2 || len(all.Packages) == 0 {
				t.Fatalf("the test says too little: %+v", all)
			}
			for _, skip := range [][]string{{inventory.ScannerSecret}, {inventory.ScannerMisconfig}, inventory.Scanners()} {
				got, err := read(skip)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(without(all, skip), without(got, nil)); d != "" {
					t.Errorf("without %v, want (-) and got (+):\n%s", skip, d)
				}
			}
		})
	}
	if _, err := readJob(t, inventory.Job{Source: inventory.SourceRootfs, Skip: []string{"packages"}}, tree); err == nil {
		t.Error("a scanner that there is not was left out")
	}
}
