package scan

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// belay builds the command, with the scanner beside it, and returns its path.
func belay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, pkg := range map[string]string{"belay": "ctl", "belay-scanner": "scanner"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "github.com/belay-project/belay/cmd/"+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
	}
	return filepath.Join(dir, "belay")
}

// zeros is how much one member of a long layer holds.
const zeros = 64 << 20

// longLayer is a layer of one file of some GiB that nobody wants, as gzip: members follow each
// other, so that it is soon written and long to read.
func longLayer(t *testing.T, members int) []byte {
	t.Helper()
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Name: "big", Mode: 0o644, Size: int64(members) * zeros, Format: tar.FormatGNU}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	member := func(r io.Reader) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := io.Copy(z, r); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	out.Write(member(&head))
	body := member(io.LimitReader(zero{}, zeros))
	for range members {
		out.Write(body)
	}
	return out.Bytes()
}

type zero struct{}

func (zero) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// wideLayer is a layer of many packages with long names, all of which a scan has to hold.
func wideLayer(t *testing.T, packages int) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for i := range packages {
		name := fmt.Sprintf("%s-%d", strings.Repeat("f", 60), i)
		body := fmt.Sprintf(`{"name":%q,"version":"1.0.0"}`, name)
		h := &tar.Header{Name: "n/node_modules/" + name + "/package.json", Mode: 0o644, Size: int64(len(body)), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// archiveOf writes a docker-archive with one layer.
func archiveOf(t *testing.T, layer []byte, diffID string) string {
	t.Helper()
	config, err := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + diffID}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, e := range []struct {
		name string
		body []byte
	}{{"c.json", config}, {"manifest.json", []byte(`[{"Config":"c.json","Layers":["l.tar"]}]`)}, {"l.tar", layer}} {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func sum(t *testing.T, layer []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, z); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestCaps: the scanner as it is released is killed at its caps under a huge image, and what the
// caller is told names the cap and the flag; the same image passes with more.
func TestCaps(t *testing.T) {
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "huge images take a minute: make test-e2e sets BELAY_E2E")
	testneed.Need(t, "root", os.Geteuid() == 0, "a cap below 128 MiB takes a cgroup")
	bin := belay(t)
	layer := wideLayer(t, 60_000)
	wide := archiveOf(t, layer, sum(t, layer))
	long := archiveOf(t, longLayer(t, 512), strings.Repeat("0", 64)) // 32 GiB, whose end nobody sees
	for _, tt := range []struct {
		name string
		args []string
		want string // on the standard error; none: it is read
	}{
		{"memory", []string{wide, "--memory", "32"}, "killed at its memory cap of 32 MiB: give it more with --memory"},
		{"time", []string{long, "--timeout", "1s"}, "killed at its time cap of 1s: give it more with --timeout"},
		{"time, idle", []string{long, "--timeout", "1s", "--idle"}, "killed at its time cap of 1s: give it more with --timeout"},
		{"enough", []string{wide, "--memory", "1024"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, msg bytes.Buffer
			cmd := exec.Command(bin, append([]string{"scan", "--packages-only", "--no-cache"}, tt.args...)...)
			cmd.Stdout, cmd.Stderr = &out, &msg
			err := cmd.Run()
			if (err == nil) != (tt.want == "") || !strings.Contains(msg.String(), tt.want) {
				t.Errorf("got %v, %q, want %q; %.200s", err, msg.String(), tt.want, out.String())
			}
			if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() != 1 {
				t.Errorf("exit status %d, want 1: it was not done", exit.ExitCode())
			}
		})
	}
}

// probe is a workload in a container: short work at fixed times, which tells how late it was done. See
// tools/lab/actor.
type probe struct {
	in  io.WriteCloser
	out *bufio.Scanner
}

// workload starts an engine and the workload in a container of it.
func workload(t *testing.T) *probe {
	t.Helper()
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	l, err := lab.New(lab.Options{Name: "beside", Log: os.Stderr, BinDir: os.Getenv("BELAY_BIN"), TempDir: os.Getenv("BELAY_TEST_TMP")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	e, err := l.StartEngine(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	actor, err := l.Actor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Import(t.Context(), "beside/probe:1", []lab.File{lab.Program("actor", actor)}); err != nil {
		t.Fatal(err)
	}
	cmd := e.Client(e.Socket, 0).Command(t.Context(), "run", "-i", "beside/probe:1", "/actor", "probe")
	cmd.Stderr, cmd.WaitDelay = os.Stderr, 5*time.Second
	p := &probe{}
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.in.Close()
		cmd.Wait()
	})
	return p
}

// delays are the median and that of the slowest hundredth.
type delays [2]time.Duration

// round is how long a workload is watched. The scanner, which may take scanTime, is killed within it.
const (
	round    = 2 * time.Second
	scanTime = 1500 * time.Millisecond
)

// round has the workload work for a while and returns its delays.
func (p *probe) round(t *testing.T) (d delays) {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, round); err != nil {
		t.Fatal(err)
	}
	for p.out.Scan() {
		if n, _ := fmt.Sscanf(p.out.Text(), "probe %d %d", &d[0], &d[1]); n == 2 {
			return d
		}
	}
	t.Fatal("the workload ended")
	return d
}

// beside returns the delays of the workload while the scanner works, from when it runs until after it was killed. One
// that is idle on a busy host ends when that lets it.
func (p *probe) beside(t *testing.T, bin, image string) delays {
	t.Helper()
	var msg bytes.Buffer
	cmd := exec.CommandContext(t.Context(), bin, "scan", image, "--idle", "--packages-only", "--no-cache", "--timeout", scanTime.String())
	cmd.Stderr = &msg
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for !scannerRuns(cmd.Process.Pid) {
		time.Sleep(time.Millisecond)
		if len(ended) > 0 {
			t.Fatalf("no scanner ran: %s", msg.String())
		}
	}
	d := p.round(t)
	if err := <-ended; err == nil || !strings.Contains(msg.String(), "killed at its time cap of "+scanTime.String()) {
		t.Fatalf("the scan: %v, %q", err, msg.String())
	}
	return d
}

// scannerRuns tells whether a process has a child that is the scanner.
func scannerRuns(parent int) bool {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		for _, pid := range strings.Fields(string(b)) {
			if exe, _ := os.Readlink("/proc/" + pid + "/exe"); filepath.Base(exe) == "belay-scanner" {
				return true
			}
		}
	}
	return false
}

// TestBeside: while the scanner works on a huge image until it is killed at its cap, a workload in a container beside it
// is served as it is without: in rounds by turns, the delays with a scan, in the median of the rounds, are above the worst
// without one by no more than those are apart, half of it, or 200 µs. A busy host gets three tries.
func TestBeside(t *testing.T) {
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "huge images take a minute: make test-e2e sets BELAY_E2E")
	testneed.Need(t, "root", os.Geteuid() == 0, "the engine is root's")
	bin := belay(t)
	image := archiveOf(t, longLayer(t, 512), strings.Repeat("0", 64))
	p := workload(t)
	for try := range 3 {
		if p.calm(t, bin, image) {
			return
		}
		t.Logf("try %d: beyond what the host itself does", try+1)
	}
	t.Error("a workload beside the scanner is slower than without, three times over")
}

func (p *probe) calm(t *testing.T, bin, image string) bool {
	t.Helper()
	var without, with []delays
	for range 7 {
		without = append(without, p.round(t))
		with = append(with, p.beside(t, bin, image))
	}
	ok := true
	for of, name := range []string{"median", "slowest hundredth"} {
		least, _, most := spread(without, of)
		low, got, high := spread(with, of)
		t.Logf("%s: %v to %v without a scan, %v with (%v to %v)", name, least, most, got, low, high)
		ok = ok && got <= most+max(most-least, most/2, 200*time.Microsecond)
	}
	return ok
}

// spread returns the least, the median and the most of one of the delays.
func spread(rounds []delays, of int) (least, median, most time.Duration) {
	slices.SortFunc(rounds, func(a, b delays) int { return cmp.Compare(a[of], b[of]) })
	return rounds[0][of], rounds[len(rounds)/2][of], rounds[len(rounds)-1][of]
}
