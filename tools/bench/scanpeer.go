package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The peer: the scanner of OSV's authors, by its own way of reading images, without a network and
// without looking anything up.
const (
	peerName    = "scalibr"
	peerPackage = "github.com/google/osv-scalibr/binary/scalibr"
	peerVersion = "v0.5.3"
	peerTime    = 45 * time.Minute // for building it, once
)

// besidePeer measures how both find the packages of one image.
func besidePeer(ctx context.Context, b *bench, dir, image string) ([]figure, error) {
	own, err := measure(ctx, b, dir, filepath.Join(b.bin, "belay"), "scan", image, "--packages-only", "--no-cache", "-o", "json")
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
	title := fmt.Sprintf("The same by %s %s", peerName, peerVersion)
	program, err := buildPeer(ctx, b)
	if err != nil {
		fmt.Fprintln(b.log, "bench: no peer:", err)
		return append(out, plain(title, "not measured: it could not be built here")), nil
	}
	bill := filepath.Join(dir, "peer.json")
	peer, err := measure(ctx, b, dir, program, "--image-tarball="+image, "--offline", "--plugins=os,go,python,javascript,java,rust,ruby,dotnet,php", "-o", "cdx-json="+bill)
	if err != nil {
		fmt.Fprintln(b.log, "bench: no peer:", err)
		return append(out, plain(title, "not measured: it did not read the image")), nil
	}
	text, err := os.ReadFile(bill)
	if err != nil {
		return nil, err
	}
	var bom struct {
		Components []json.RawMessage `json:"components"`
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		return nil, fmt.Errorf("what %s found: %w", peerName, err)
	}
	return append(out, peer.figures(title, len(bom.Components))...), nil
}

// buildPeer builds the peer into the user's cache, outside of the module: nothing of it is in go.mod.
func buildPeer(ctx context.Context, b *bench) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "belay", "peers", peerVersion)
	program := filepath.Join(bin, peerName)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	fmt.Fprintf(b.log, "bench: building %s %s, once; this takes some minutes\n", peerName, peerVersion)
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", peerPackage+"@"+peerVersion)
	cmd.Dir, cmd.Env = b.dir, append(os.Environ(), "GOBIN="+bin, "GOFLAGS=", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s@%s: %w: %s", peerPackage, peerVersion, err, lastLines(text))
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

// measure runs a command whose temporary files lie in a folder of their own, and looks how large that
// becomes.
func measure(ctx context.Context, b *bench, dir, program string, args ...string) (*spent, error) {
	tmp, err := os.MkdirTemp(dir, "tmp")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
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
