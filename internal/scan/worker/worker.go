// Package worker is what the scanner's process does: read a job, lock itself in, read
// the image, write the result.
//
// It owns the process: nothing else runs in it. It touches no byte of an image before
// the sandbox holds. Row: feature.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/sandbox"
	"github.com/belay-project/belay/internal/scan/extract"
	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/pagecache"
	"github.com/belay-project/belay/internal/scan/sbom"
)

// Run reads one [inventory.Job] from in and writes one [inventory.Result] to out. A
// scan that fails is a result with an error; the error returned is for a process that
// could not even say so.
//
// It changes the whole process for good: see [sandbox.Enter].
func Run(ctx context.Context, in io.Reader, out io.Writer) error {
	job, err := inventory.ReadJob(in)
	if err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	if job.Source == inventory.SourceLayer {
		return layer(ctx, job, out)
	}
	res, held, lost := scan(ctx, job)
	res.Schema = inventory.Schema
	res.Sandbox = inventory.Sandbox{Held: held, Lost: lost, MemoryMax: job.MemoryMax}
	b, err := marshal(res)
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	_, err = out.Write(b)
	return err
}

// marshal encodes a result within the bound. What is too large is one without functions, which are
// unknown then, before it is none at all.
func marshal(res *inventory.Result) ([]byte, error) {
	b, err := json.Marshal(res)
	if err != nil || len(b) <= inventory.MaxResultBytes {
		return b, err
	}
	for i := range res.Packages {
		res.Packages[i].Functions = ""
	}
	if b, err = json.Marshal(res); err != nil || len(b) <= inventory.MaxResultBytes {
		return b, err
	}
	return json.Marshal(inventory.Result{
		Schema: inventory.Schema, Sandbox: res.Sandbox,
		Error: fmt.Sprintf("the inventory has %d bytes, more than %d", len(b), inventory.MaxResultBytes),
	})
}

// layer reads one layer and writes what it holds; a failure is the process's own.
func layer(ctx context.Context, job inventory.Job, out io.Writer) error {
	if len(job.Inputs) != 1 {
		return fmt.Errorf("a job of %d inputs, want one layer", len(job.Inputs))
	}
	files, _, _, err := enter(job)
	if err != nil {
		return err
	}
	return image.WriteLayer(ctx, files[job.Inputs[0].FD], extract.Set{}, job.Skip, out)
}

// enter takes the job's descriptors and locks the process in.
func enter(job inventory.Job) (files map[int]*os.File, held, lost []string, err error) {
	if job.MemoryMax <= 0 {
		job.MemoryMax = inventory.DefaultMemoryMax
	}
	if job.CPUSeconds == 0 {
		job.CPUSeconds = inventory.DefaultCPUSeconds
	}
	files, dirs, err := descriptors(job)
	if err == nil {
		held, lost, err = sandbox.Enter(sandbox.Options{
			ReadDirs: dirs, ReceiveFD: job.LendFD, MemoryMax: job.MemoryMax, CPUSeconds: job.CPUSeconds, Idle: job.Idle, Without: job.Without,
		})
	}
	return files, held, lost, err
}

func scan(ctx context.Context, job inventory.Job) (res *inventory.Result, held, lost []string) {
	files, held, lost, err := enter(job)
	if err == nil {
		res, err = readInput(ctx, job, files)
	}
	if err != nil {
		text := err.Error()
		return &inventory.Result{Error: text[:min(len(text), 2048)]}, held, lost
	}
	return res, held, lost
}

// readInput reads an image, or a bill of materials where an archive could be.
func readInput(ctx context.Context, job inventory.Job, files map[int]*os.File) (*inventory.Result, error) {
	if job.Source == inventory.SourceArchive && len(job.Inputs) == 1 {
		f := files[job.Inputs[0].FD]
		if st, err := f.Stat(); err == nil {
			// Before its first bytes are read: what is in the page cache by then was there before.
			defer pagecache.Behind(f, st.Size())()
		}
		if isBill(f) {
			return sbom.Read(f, ctx.Err)
		}
	}
	return image.Read(ctx, job, func(fd int) *os.File { return files[fd] }, extract.Set{})
}

// isBill reports whether a file is JSON. No archive begins as that does.
func isBill(f *os.File) bool {
	if f == nil {
		return false
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return false
	}
	var begin [512]byte
	n, err := f.ReadAt(begin[:], 0)
	return (err == nil || errors.Is(err, io.EOF)) && sbom.Looks(begin[:n])
}

// firstFD is the lowest descriptor of a job: 0 to 2 are the process's own.
const firstFD = 3

// descriptors takes the job's descriptors and tells which are directories. None may
// be open for writing but the pipe on which blobs are asked for, and the socket for what is lent.
func descriptors(job inventory.Job) (files map[int]*os.File, dirs []string, err error) {
	files = map[int]*os.File{}
	take := func(fd, access int, wrong string) (os.FileInfo, error) {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if fd < firstFD || err != nil {
			return nil, fmt.Errorf("a job with descriptor %d, which is not open: %w", fd, errors.Join(err))
		}
		if flags&unix.O_ACCMODE != access {
			return nil, fmt.Errorf("a job with descriptor %d, which is %s", fd, wrong)
		}
		f := os.NewFile(uintptr(fd), fmt.Sprintf("input %d", fd))
		files[fd] = f
		st, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("look at descriptor %d: %w", fd, err)
		}
		return st, nil
	}
	for _, in := range job.Inputs {
		st, err := take(in.FD, unix.O_RDONLY, "open for writing")
		if err != nil {
			return nil, nil, err
		}
		if st.IsDir() {
			dirs = append(dirs, fmt.Sprintf("/proc/self/fd/%d", in.FD))
		}
	}
	if job.LendFD != 0 {
		st, err := take(job.LendFD, unix.O_RDWR, "not open for both reading and writing")
		if err == nil && st.Mode()&os.ModeSocket == 0 {
			err = fmt.Errorf("a job with descriptor %d to have files opened on, which is no socket", job.LendFD)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if job.Source != inventory.SourceAsked && !job.Layers {
		return files, dirs, nil
	}
	st, err := take(job.AskFD, unix.O_WRONLY, "not open for writing alone")
	if err == nil && st.Mode()&os.ModeNamedPipe == 0 {
		err = fmt.Errorf("a job with descriptor %d to ask on, which is no pipe", job.AskFD)
	}
	return files, dirs, err
}
