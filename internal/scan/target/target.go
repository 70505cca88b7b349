// Package target finds what a user or the agent means by a name, opens it for
// reading, and has the scanner read it in its sandbox.
//
// It owns the scanner's process while [Scan] runs. It opens files and lists
// directories and reads the small files in which the Docker daemon keeps its own
// state; it never decompresses or parses what an image holds, and takes the scanner's
// answer for hostile. Row: feature.
package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/sandbox/spawn"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// Options says how to scan. The zero value is ready but for Scanner.
type Options struct {
	Scanner    string        // absolute path of belay-scanner
	Platform   string        // os/arch[/variant], to choose from several
	Timeout    time.Duration // of wall time; 0 is ten minutes
	MemoryMax  int64         // in bytes; 0 is [inventory.DefaultMemoryMax]
	Skip       []string      // scanners to leave out, of [inventory.Scanners]
	Without    []string      // pieces of the sandbox that may be missing
	DockerRoot string        // the Docker daemon's data; empty is /var/lib/docker
	Idle       bool          // run, and read, only when nothing else wants to
	// Cache keeps what layers hold that are fetched, or of an OCI layout in a directory; nil: none.
	Cache Layers
	// CacheScope keeps apart what is kept for those who may not know of each other's layers.
	CacheScope string
	// Progress is told, often and by one goroutine at a time, how far an image is whose blobs are fetched; nil: nobody.
	Progress func(Progress)
}

const defaultTimeout = 10 * time.Minute

// Target is an opened target. Close it.
type Target struct {
	// Container is whose file system it is; "": no container's that is known by its ID.
	Container ident.ContainerID

	job    inventory.Job
	files  []*os.File
	server *server // of an image that is fetched, else nil
}

// Close closes what was opened.
func (t *Target) Close() {
	for _, f := range t.files {
		f.Close()
	}
	if t.server != nil {
		t.server.close()
	}
}

// FailedError is the scanner's own word for why there is no inventory: a text of a
// process that read hostile bytes.
type FailedError struct{ Text string }

func (e *FailedError) Error() string { return e.Text }

// Open finds the target: a file (an archive), a directory (an OCI layout, or else a
// root file system), or else an image or a container of the local Docker daemon.
//
// Looking around in a store ends with ctx or after [Options.Timeout].
//
// Errors: [ErrNotFound] if it is none of them, that of ctx.
func Open(ctx context.Context, name string, o Options) (*Target, error) {
	st, err := os.Stat(name)
	switch {
	case err == nil && st.IsDir():
		source := inventory.SourceRootfs
		if _, err := os.Lstat(filepath.Join(name, "oci-layout")); err == nil {
			source = inventory.SourceLayout
		}
		if source == inventory.SourceRootfs && o.Platform != "" {
			return nil, fmt.Errorf("%s is a root file system, and --platform %s chooses from an image of several: leave it out", name, o.Platform)
		}
		t, err := open(source, []string{name})
		if err == nil && source == inventory.SourceLayout && o.Cache != nil {
			if err := t.serve(layoutBlobs{name}); err != nil {
				return nil, err
			}
		}
		return t, err
	case err == nil:
		return open(inventory.SourceArchive, []string{name})
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	return openDocker(ctx, name, o.DockerRoot)
}

// OpenImage opens an image of the local Docker daemon by its ID ("sha256:..."), and nothing
// else of that name.
//
// Errors: [ErrNotFound] if the daemon does not keep it in its own store, in directories.
func OpenImage(ctx context.Context, id string, o Options) (*Target, error) {
	return openDocker(ctx, id, o.DockerRoot)
}

func open(source inventory.Source, paths []string) (*Target, error) {
	t := &Target{job: inventory.Job{Source: source}}
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			t.Close()
			return nil, err
		}
		t.add(f, inventory.Input{})
	}
	return t, nil
}

// firstFD is the number of the first file that is handed to a child.
const firstFD = 3

func (t *Target) add(f *os.File, in inventory.Input) {
	in.FD = firstFD + len(t.files)
	t.files = append(t.files, f)
	t.job.Inputs = append(t.job.Inputs, in)
}

// Scan has the target read. An image that is fetched can be scanned once.
//
// Errors: [*FailedError] if the scanner could not read it, [*spawn.LimitError] if it
// was killed at a cap, [*spawn.ExitError] if it broke. The result names in its
// sandbox what held the scanner.
func Scan(ctx context.Context, t *Target, o Options) (*inventory.Result, error) {
	if o.MemoryMax <= 0 {
		o.MemoryMax = inventory.DefaultMemoryMax
	}
	job := t.job
	job.Platform, job.Skip, job.Without, job.MemoryMax, job.Idle = o.Platform, o.Skip, o.Without, o.MemoryMax, o.Idle
	var res *inventory.Result
	if t.server != nil {
		t.server.layers, t.server.watch = newLayerReader(o), newWatch(o.Progress)
		job.Layers = t.server.layers != nil
	}
	defer t.server.start(ctx)()
	files := t.files
	lend, err := t.lend(&job, files)
	if err != nil {
		return nil, err
	}
	defer lend.start()()
	if lend != nil {
		files = append(slices.Clone(files), lend.theirs)
	}
	rep, err := spawn.Run(ctx, spawn.Options{
		Path: o.Scanner, Files: files, Timeout: o.Timeout, MemoryMax: o.MemoryMax, Idle: o.Idle, Without: o.Without,
		Input: func(cgroup bool) ([]byte, error) {
			job.Cgroup = cgroup
			return json.Marshal(job)
		},
		Output: func(r io.Reader) (err error) {
			res, err = inventory.ReadResult(r)
			return err
		},
	})
	if err != nil {
		return nil, fmt.Errorf("scanner: %w", err)
	}
	if res.Error != "" {
		return nil, &FailedError{res.Error}
	}
	res.Skipped = slices.Clone(o.Skip)
	held := func(ok bool, piece string) {
		if ok {
			res.Sandbox.Held = append(res.Sandbox.Held, piece)
		} else {
			res.Sandbox.Lost = append(res.Sandbox.Lost, piece)
		}
	}
	held(rep.Namespaces, "namespaces")
	held(rep.Cgroup, "cgroup")
	slices.Sort(res.Sandbox.Held)
	return res, nil
}
