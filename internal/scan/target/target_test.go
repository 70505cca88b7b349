package target

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/testneed"
)

// buildScanner builds the scanner once, as it is released.
var buildScanner = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "belay-scanner")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "belay-scanner")
	cmd := exec.Command("go", "build", "-o", path, "github.com/belay-project/belay/cmd/scanner")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return path, cmd.Run()
})

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == bareKernel {
		fmt.Fprintln(os.Stderr, onBareKernel())
		os.Exit(1)
	}
	code := m.Run()
	if path, err := buildScanner(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func scanner(t *testing.T) string {
	t.Helper()
	path, err := buildScanner()
	if err != nil {
		t.Fatalf("build the scanner: %v", err)
	}
	return path
}

func scan(t *testing.T, name string, o Options) (*inventory.Result, error) {
	t.Helper()
	o.Scanner = scanner(t)
	tgt, err := Open(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	return Scan(t.Context(), tgt, o)
}

// TestRealAlpine reads a real image that "docker save | gzip" made.
func TestRealAlpine(t *testing.T) {
	res, err := scan(t, testneed.ScanData(t, "images/alpine-311.tar.gz"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if res.OS.ID != "alpine" || res.OS.VersionID == "" || !res.Complete() {
		t.Errorf("got %+v with notes %v, want a complete Alpine", res.OS, res.Notes)
	}
	i := slices.IndexFunc(res.Packages, func(p inventory.Package) bool { return p.Name == "libcrypto1.1" })
	if i < 0 || res.Packages[i].Source != "openssl" {
		t.Errorf("got %+v, want libcrypto1.1 of openssl among them", res.Packages)
	}
	if len(res.Sandbox.Held) < 5 {
		t.Errorf("the sandbox was %+v", res.Sandbox)
	}
	t.Logf("%d packages, %+v", len(res.Packages), res.Sandbox)
}
