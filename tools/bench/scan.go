package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/testneed"
)

const scanText = `
The database is made of the records in BELAY_SCAN_DATA, and then again with one record more, as an update of a day does it. They are a part of the public bucket: its whole is not measured. The
image is a docker archive of one gzip layer with this host's own programs, libraries and list of packages; its floor is reading it: unpacking the layer and the digests of
what is packed and unpacked, in one process. The same files in a folder are what a local image or a container is on its host: it is scanned five times for packages alone (` + "`--scanners none`" + `), five times with their vulnerabilities (` + "`vuln`" + `), and five times for all
that is looked for, secrets and misconfigurations too; then with many small files more, as a large image has them; the first of each finds less in the page cache, and memory and disk are the most of all five. What reads every byte has rows of its own: the search for secrets
in a folder of texts (the sources that Go comes with, less their tests' data), and archives of Java within others, stored and compressed, with the same sources for their classes. There are hardly any of either in the image, whose files are packages' own.
Processor time is that of belay and belay-scanner together, memory that of the larger of the two (ru_maxrss). 1,000 packages, of
which 250 are known and a fifth of those has flaws, are matched anew; 100 images of 300 packages are matched by the agent's keeper after
a change of the database (20,000 records) that touches one of them, and all.
Two peers find the packages of the same image in the same run, without a network and without records: scalibr, of OSV's authors, by its own way of reading an archive, with its extractors for what is looked for here; and syft with its defaults for images, which are more
than packages of ours (it identifies programs by their bytes, and digests files). Each is built once into the user's cache by ` + "`go install`" + `; where that fails its row says so. Packages are the entries of its bill that are neither files nor the system. What all have on the disk meanwhile is looked at every 50 ms.
`

// The image, unpacked, has layerBytes if this host has as much, and should have imageMegabytes.
const (
	layerBytes     = 700 << 20
	imageMegabytes = 700
)

// moreFiles makes the folder one of as many files as a large image has.
const moreFiles = 60_000

func scans(ctx context.Context, b *bench) (out []figure, err error) {
	data := testneed.ScanDataDir()
	if _, err := os.Stat(filepath.Join(data, "osv")); err != nil {
		return nil, fmt.Errorf("%w: no records in %s; "+testneed.EnvScanData+` names another folder (docs/scan.md, "Test data")`, errUnmet, data)
	}
	if err := os.Setenv(testneed.EnvScanData, data); err != nil { // for the benchmarks that are started
		return nil, err
	}
	dir := filepath.Join(b.dir, "scan")
	db := filepath.Join(dir, "vuln.db")
	figures, err := updates(ctx, b, data, dir, db)
	out = append(out, figures...)
	if err != nil {
		return out, err
	}
	figures, err = largeImage(ctx, b, dir, db)
	out = append(out, figures...)
	if err != nil {
		return out, err
	}
	figures, err = inPlace(ctx, b, dir, db)
	out = append(out, figures...)
	if err != nil {
		return out, err
	}
	figures, err = apart(ctx, b, dir)
	out = append(out, figures...)
	if err != nil {
		return out, err
	}
	m, err := b.gobench(ctx, filepath.Join(b.bin, "vulndb.test"), "^Benchmark(Lookup|Match1000)$", "2s")
	if err != nil {
		return out, err
	}
	r, err := b.gobench(ctx, filepath.Join(b.bin, "stock.test"), "^BenchmarkReload$", "20x")
	if err != nil {
		return out, err
	}
	return append(out,
		atMost("Looking a package up, processor time", m["Lookup cpu-ns/op"]/1e3, 1, "%.2f µs"),
		atMost("Matching 1,000 packages", m["Match1000 cpu-ns/op"]/1e9, 0.005, "%.4f CPU-s"),
		plain("… findings", "%.0f", m["Match1000 findings"]),
		atMost("100 images after a change that touches one", r["Reload/one cpu-ns/op"]/1e9, 1, "%.3f CPU-s"),
		atMost("100 images after a change that touches all", r["Reload/all cpu-ns/op"]/1e9, 1, "%.3f CPU-s")), nil
}

// cost is what a command took.
type cost struct {
	cpu, wall time.Duration
	peak      int64 // bytes
}

func (b *bench) belay(ctx context.Context, args ...string) (out []byte, c cost, err error) {
	if err := shrink(); err != nil {
		return nil, c, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "belay"), args...)
	cmd.Stderr = b.log
	began := time.Now()
	if out, err = cmd.Output(); err != nil {
		return nil, c, fmt.Errorf("belay %s: %w", args[0], err)
	}
	c = cost{wall: time.Since(began), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.peak = u.Maxrss << 10
	}
	return out, c, nil
}

// updates measures a database from nothing, and after a change of one record.
func updates(ctx context.Context, b *bench, data, dir, db string) ([]figure, error) {
	source := filepath.Join(dir, "osv")
	if err := os.CopyFS(source, os.DirFS(filepath.Join(data, "osv"))); err != nil {
		return nil, err
	}
	args := []string{"db", "update", "--from", source, "--cache", filepath.Join(dir, "feeds"), "--db", db}
	text, whole, err := b.belay(ctx, append(args, "-o", "json")...)
	if err != nil {
		return nil, err
	}
	var rep struct {
		Records int `json:"records"`
	}
	if err := json.Unmarshal(text, &rep); err != nil {
		return nil, err
	}
	delta := cost{}
	for i := range 5 {
		record := fmt.Sprintf(`{"id":"CVE-0000-%d","affected":[{"package":{"ecosystem":"PyPI","name":"belay-bench"},"versions":["1.%d"]}]}`, i, i)
		if err := os.WriteFile(filepath.Join(source, "changed.json"), []byte(record), 0o600); err != nil {
			return nil, err
		}
		_, c, err := b.belay(ctx, args...)
		if err != nil {
			return nil, err
		}
		if i == 0 || c.cpu < delta.cpu {
			delta = c
		}
	}
	st, err := os.Stat(db)
	if err != nil {
		return nil, err
	}
	return []figure{
		plain("A database of all records, from nothing", "%.2f CPU-s", whole.cpu.Seconds()),
		atMost("… after a change of one record, the least of five", delta.cpu.Seconds(), 1, "%.2f CPU-s"),
		atMost("… by that from nothing", delta.cpu.Seconds()/whole.cpu.Seconds(), 0.25, "%.2f"),
		plain("… by the clock", "%.2f s", delta.wall.Seconds()),
		atMost("The database", float64(st.Size())/1e6, 10, "%.1f MB"),
		plain("… records", "%d", rep.Records),
	}, nil
}

// largeImage measures the first scan of a large image.
func largeImage(ctx context.Context, b *bench, dir, db string) ([]figure, error) {
	path := filepath.Join(dir, "image.tar")
	size, files, err := writeImage(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	defer os.Remove(path)
	before := processorTime()
	if err := readImage(path); err != nil {
		return nil, err
	}
	floor := processorTime() - before
	text, c, err := b.belay(ctx, "scan", path, "--no-cache", "--db", db, "-o", "json")
	if err != nil {
		return nil, err
	}
	var report struct {
		Inventory struct {
			Packages []json.RawMessage `json:"packages"`
		} `json:"inventory"`
		Findings []json.RawMessage `json:"findings"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return nil, err
	}
	if len(report.Inventory.Packages) == 0 {
		return nil, errors.New("the image has no packages: it is not what is meant to be measured")
	}
	out := []figure{
		atLeast("An image, unpacked", float64(size)/1e6, imageMegabytes, "%.0f MB"),
		plain("… files, packages, findings", "%d, %d, %d", files, len(report.Inventory.Packages), len(report.Findings)),
		plain("… its first scan", "%.2f CPU-s", c.cpu.Seconds()),
		plain("… for 100 MiB of the image, unpacked", "%.2f CPU-s", c.cpu.Seconds()/float64(size)*(100<<20)),
		atMost("… by its floor", c.cpu.Seconds()/floor.Seconds(), 2, "%.2f"),
		atMost("… the most memory", float64(c.peak)/(1<<20), 128, "%.0f MiB"),
	}
	beside, err := besidePeers(ctx, b, dir, path)
	return append(out, beside...), err
}

// inPlace measures the scan of the same files where they lie: for packages alone, with their
// vulnerabilities, and with all else that is looked for.
func inPlace(ctx context.Context, b *bench, dir, db string) (out []figure, err error) {
	root := filepath.Join(dir, "rootfs")
	size, err := linkFiles(ctx, root)
	if err != nil {
		return nil, err
	}
	out = append(out, atLeast("The same files in a folder", float64(size)/1e6, imageMegabytes, "%.0f MB"))
	for _, scan := range []struct {
		title string
		more  int // small files that are added before
		args  []string
	}{
		{"… for packages alone", 0, []string{"--scanners", "none"}},
		{"… with findings", 0, []string{"--scanners", "vuln", "--db", db}},
		{"… for all that is looked for", 0, []string{"--db", db}},
		{fmt.Sprintf("… and %d small files more, for packages alone", moreFiles), moreFiles, []string{"--scanners", "none"}},
		{fmt.Sprintf("… and %d small files more, with findings", moreFiles), 0, []string{"--scanners", "vuln", "--db", db}},
	} {
		if err := smallFiles(filepath.Join(root, "usr/share/many"), scan.more); err != nil {
			return out, err
		}
		first, least, err := repeated(5, func() (*spent, error) {
			return measure(ctx, b, dir, filepath.Join(b.bin, "belay"), append([]string{"scan", root, "--no-cache", "-o", "json"}, scan.args...)...)
		})
		if err != nil {
			return out, err
		}
		out = append(out,
			plain(scan.title+", the first scan", "%.2f CPU-s", first.cpu.Seconds()),
			atMost(scan.title+", the least of five", least.cpu.Seconds(), 0.5, "%.2f CPU-s"),
			atMost(scan.title+", the most memory", float64(least.peak)/(1<<20), 32, "%.0f MiB"),
			atMost(scan.title+", the most on the disk meanwhile", float64(least.disk)/(1<<20), 0, "%.2f MiB"))
	}
	return out, nil
}

// smallFiles makes n files, a hundred in a folder.
func smallFiles(dir string, n int) error {
	for i := range n {
		folder := filepath.Join(dir, fmt.Sprintf("part%03d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("text%02d.txt", i%100)), []byte("small\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// repeated runs something so often, and returns the first and that with the least processor time, which has the
// most memory and the most disk of all.
func repeated(n int, run func() (*spent, error)) (first, least *spent, err error) {
	var peak, disk int64
	for range n {
		s, err := run()
		if err != nil {
			return nil, nil, err
		}
		if first == nil {
			first = s
		}
		if least == nil || s.cpu < least.cpu {
			least = s
		}
		peak, disk = max(peak, s.peak), max(disk, s.disk)
	}
	most := *least
	most.peak, most.disk = peak, disk
	return first, &most, nil
}

// linkFiles puts the image's files into a folder, and tells how much they are.
func linkFiles(ctx context.Context, root string) (size int64, err error) {
	err = eachFile(ctx, func(name string) (int64, error) {
		st, err := os.Stat(name)
		if err != nil {
			return 0, nil //nolint:nilerr // as in addFile
		}
		to := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return 0, err
		}
		if err := os.Link(name, to); err != nil {
			if err := copyFile(name, to); err != nil {
				return 0, nil //nolint:nilerr // as in addFile
			}
		}
		size += st.Size()
		return st.Size(), nil
	})
	return size, err
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// imageParts are the folders of this host that the image is made of, until it is large enough.
var imageParts = []string{"etc/debian_version", "etc/os-release", "usr/lib/os-release", "var/lib/dpkg/status", "var/lib/dpkg/info", "usr/lib/python3", "usr/bin", "usr/lib"}

// eachFile calls do, which tells a file's size, for files of this host until they are an image's.
func eachFile(ctx context.Context, do func(name string) (int64, error)) error {
	var size int64
	for _, part := range imageParts {
		err := filepath.WalkDir(filepath.Join("/", part), func(name string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				return nil
			}
			if err != nil || ctx.Err() != nil {
				return errors.Join(err, ctx.Err())
			}
			if !d.Type().IsRegular() || size > layerBytes {
				return nil
			}
			n, err := do(name)
			size += n
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeImage writes a docker archive with one layer.
func writeImage(ctx context.Context, path string) (size int64, files int, err error) {
	layer, err := os.CreateTemp(filepath.Dir(path), "layer")
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	h := sha256.New()
	z, err := gzip.NewWriterLevel(layer, gzip.BestSpeed)
	if err != nil {
		return 0, 0, err
	}
	t := tar.NewWriter(io.MultiWriter(h, z))
	err = eachFile(ctx, func(name string) (int64, error) {
		n, err := addFile(t, name)
		if size += n; n > 0 {
			files++
		}
		return n, err
	})
	if err != nil {
		return 0, 0, err
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return 0, 0, err
	}
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, h.Sum(nil))
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	return size, files, writeArchive(path, layer, configName, config)
}

func addFile(t *tar.Writer, name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, nil //nolint:nilerr // one that is not there for us is not part of the image
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	err = t.WriteHeader(&tar.Header{Name: name[1:], Mode: 0o755, Size: st.Size(), Typeflag: tar.TypeReg})
	if err != nil {
		return 0, err
	}
	return io.CopyN(t, f, st.Size())
}

func writeArchive(path string, layer *os.File, configName string, config []byte) error {
	n, err := layer.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{"bench:1"}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(f)
	for _, e := range []struct {
		name string
		b    []byte
	}{{"manifest.json", manifest}, {configName, config}} {
		if err := t.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.b))}); err != nil {
			return err
		}
		if _, err := t.Write(e.b); err != nil {
			return err
		}
	}
	if err := t.WriteHeader(&tar.Header{Name: "layer.tar", Mode: 0o644, Size: n}); err != nil {
		return err
	}
	_, err = io.Copy(t, layer)
	return errors.Join(err, t.Close())
}

// readImage is the floor: what whoever checks an image's digests must do.
func readImage(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	t := tar.NewReader(f)
	for {
		hd, err := t.Next()
		if errors.Is(err, io.EOF) {
			return errors.New("the archive has no layer")
		}
		if err != nil {
			return err
		}
		if hd.Name != "layer.tar" {
			continue
		}
		packed, unpacked := sha256.New(), sha256.New()
		z, err := gzip.NewReader(io.TeeReader(t, packed))
		if err != nil {
			return err
		}
		_, err = io.Copy(unpacked, z)
		return err
	}
}
