package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/programpages"
)

// peer is another scanner, as it is published.
type peer struct {
	name, program, version string
	// args have it read the image without a network, and write a bill of materials (CycloneDX) to a file.
	args func(image, bill string) []string
}

// peers are the scanner of OSV's authors, by its own way of reading images and with its extractors for
// what is looked for here, and syft as it comes.
var peers = []peer{
	{"scalibr", "github.com/google/osv-scalibr/binary/scalibr", "v0.5.3", func(image, bill string) []string {
		return []string{"--image-tarball=" + image, "--offline", "--plugins=os,go,python,javascript,java,rust,ruby,dotnet,php", "-o", "cdx-json=" + bill}
	}},
	{"syft", "github.com/anchore/syft/cmd/syft", "v1.57.1", func(image, bill string) []string {
		return []string{"scan", "docker-archive:" + image, "--quiet", "-o", "cyclonedx-json=" + bill}
	}},
}

// peerTime bounds the building of a peer, once.
const peerTime = 45 * time.Minute

// besidePeers measures how we and they find the packages of one image.
func besidePeers(ctx context.Context, b *bench, dir, image string) ([]figure, error) {
	own, err := measure(ctx, b, dir, filepath.Join(b.bin, "belay"), "scan", image, "--scanners", "none", "--no-cache", "-o", "json")
	if err != nil {
		return nil, err
	}
	var rep struct {
		Inventory struct {
			Packages []json.RawMessage `json:"packages"`
		} `json:"inventory"`
	}
	if err := json.Unmarshal(own.stdout, &rep); err != nil {
		return nil, err
	}
	out := own.figures("The image's packages alone", len(rep.Inventory.Packages))
	for i := range peers {
		figures, err := peers[i].beside(ctx, b, dir, image)
		if err != nil {
			return out, err
		}
		out = append(out, figures...)
	}
	return out, nil
}

// beside measures one peer. One that cannot be built or does not read the image is a row that says so.
func (p *peer) beside(ctx context.Context, b *bench, dir, image string) ([]figure, error) {
	title := fmt.Sprintf("The same by %s %s", p.name, p.version)
	program, err := p.build(ctx, b)
	if err != nil {
		fmt.Fprintln(b.log, "bench: no peer:", err)
		return []figure{plain(title, "not measured: it could not be built here")}, nil
	}
	bill := filepath.Join(dir, p.name+".json")
	s, err := measure(ctx, b, dir, program, p.args(image, bill)...)
	if err != nil {
		fmt.Fprintln(b.log, "bench: no peer:", err)
		return []figure{plain(title, "not measured: it did not read the image")}, nil
	}
	text, err := os.ReadFile(bill)
	if err != nil {
		return nil, err
	}
	var bom struct {
		Components []struct {
			Type string `json:"type"`
		} `json:"components"`
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		return nil, fmt.Errorf("what %s found: %w", p.name, err)
	}
	packages := 0
	for _, c := range bom.Components {
		if c.Type != "file" && c.Type != "operating-system" {
			packages++
		}
	}
	return s.figures(title, packages), nil
}

// build builds the peer into the user's cache, outside of the module: nothing of it is in go.mod.
func (p *peer) build(ctx context.Context, b *bench) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "belay", "peers", p.version)
	program := filepath.Join(bin, p.name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	fmt.Fprintf(b.log, "bench: building %s %s, once; this takes some minutes\n", p.name, p.version)
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", p.program+"@"+p.version)
	cmd.Dir, cmd.Env = b.dir, append(os.Environ(), "GOBIN="+bin, "GOFLAGS=", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s@%s: %w: %s", p.program, p.version, err, lastLines(text))
	}
	return program, nil
}

func lastLines(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(len(lines)-3, 0):], "; ")
}

// spent is what a command took, with what it had on the disk for a time.
type spent struct {
	cost
	disk   int64
	stdout []byte
}

func (s *spent) figures(title string, packages int) []figure {
	return []figure{
		plain(title, "%.2f CPU-s", s.cpu.Seconds()),
		plain("… the most memory", "%.0f MiB", float64(s.peak)/(1<<20)),
		plain("… the most on the disk meanwhile", "%.0f MiB", float64(s.disk)/(1<<20)),
		plain("… packages", "%d", packages),
	}
}

// shrink makes this process as small as it can be, and has the kernel forget how large it was: a child
// begins in its parent's memory, and the kernel counts the most that this ever had as the child's
// (exec_mmap, setmax_mm_hiwater_rss). Source of the 5: proc_pid_clear_refs(5).
func shrink() error {
	debug.FreeOSMemory()
	if err := programpages.Drop(); err != nil {
		return err
	}
	return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// measure runs a command whose temporary files lie in a folder of their own, and looks how large that
// becomes.
func measure(ctx context.Context, b *bench, dir, program string, args ...string) (*spent, error) {
	tmp, err := os.MkdirTemp(dir, "tmp")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	if err := shrink(); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir, cmd.Stderr = append(os.Environ(), "TMPDIR="+tmp, "HOME="+tmp), tmp, b.log
	s, done, began := &spent{}, make(chan error, 1), time.Now()
	go func() {
		var err error
		s.stdout, err = cmd.Output()
		done <- err
	}()
	for running := true; running; {
		select {
		case err = <-done:
			running = false
		case <-time.After(50 * time.Millisecond):
		}
		s.disk = max(s.disk, bytesIn(tmp))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(program), err)
	}
	s.wall, s.cpu = time.Since(began), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.peak = u.Maxrss << 10
	}
	return s, nil
}

// bytesIn is how much what lies in a folder takes of the disk; what vanishes meanwhile is not counted.
func bytesIn(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return nil //nolint:nilerr // it is gone
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				n += st.Blocks * 512
			}
		}
		return nil
	})
	return n
}
