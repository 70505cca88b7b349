package doctor

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/belay-project/belay/internal/journal"
)

// MaxRecords is how many records a bundle has at most.
const MaxRecords = 100_000

// readMe is the first file of a bundle.
const readMe = `A support bundle of Belay, written by "belay support-bundle". All files are text: read
them before you give them away.

doctor.json    findings of "belay doctor", without the details that others wrote
status.json    the agent's state in numbers and Belay's own words
policies.json  names, kinds, revisions and modes of policies; none of their rules
kernel.json    facts about the kernel; of its command line no more than preempt=
journal.jsonl  the last records: times, decisions, rules, IDs, paths
notes.json     what could not be had, if anything

Left out: host, user, container, image and group names, addresses, arguments,
environments, labels, messages, errors, the contents of policies and of files. Names in
paths that look like values, and those of users and volumes (below home, users, volumes,
media, mail), are replaced by [redacted]; other names in paths are there.
`

// BundleOptions says what goes into a bundle besides the report.
type BundleOptions struct {
	Journal string // directory of the journal
	Records int    // the last ones of it; 1000, at most [MaxRecords]; negative: none
}

// CreateBundle writes a bundle to a new file for its owner alone. A file that is there,
// or a link, is not written to.
//
// Errors: [fs.ErrExist] wrapped; those of writing, after which there is no file.
func CreateBundle(ctx context.Context, path string, r *Report, o BundleOptions) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: name a new file: %w", path, fs.ErrExist)
	}
	if err != nil {
		return err
	}
	err = errors.Join(WriteBundle(ctx, f, r, o), f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// WriteBundle writes a report and what it was made from as a compressed tar archive.
// Everything in it is copied by a whitelist of fields (redact.go).
func WriteBundle(ctx context.Context, w io.Writer, r *Report, o BundleOptions) error {
	notes := []string{}
	files := []struct {
		name string
		from any
	}{{"doctor.json", shareReport(r)}, {"kernel.json", r.Facts}}
	if r.Status != nil {
		files = append(files, struct {
			name string
			from any
		}{"status.json", shareStatus(r.Status)}, struct {
			name string
			from any
		}{"policies.json", sharePolicies(&r.Status.Policies)})
	} else {
		notes = append(notes, "the agent did not answer: there is no status and there are no policies")
	}
	z := gzip.NewWriter(w)
	t := &tarWriter{w: z, now: r.Time}
	t.file("README", []byte(readMe))
	for _, f := range files {
		b, err := json.MarshalIndent(f.from, "", "  ")
		if err != nil {
			return fmt.Errorf("encode %s: %w", f.name, err)
		}
		t.file(f.name, append(b, '\n'))
	}
	records, err := lastRecords(ctx, o)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		notes = append(notes, "there is no journal")
	case errors.Is(err, fs.ErrPermission):
		notes = append(notes, "the journal may not be read by this user")
	case err != nil:
		notes = append(notes, "the journal could not be read to its end")
	}
	t.file("journal.jsonl", records)
	b, err := json.Marshal(notes)
	if err != nil {
		return fmt.Errorf("encode the notes: %w", err)
	}
	t.file("notes.json", append(b, '\n'))
	t.end()
	return errors.Join(t.err, z.Close())
}

// lastRecords returns the last records, redacted, a line each.
func lastRecords(ctx context.Context, o BundleOptions) ([]byte, error) {
	n := o.Records
	if n == 0 {
		n = 1000
	}
	if n < 0 {
		return nil, nil
	}
	n = min(n, MaxRecords)
	var last []sharedRecord // a ring once it is full
	next := 0
	err := journal.Read(ctx, o.Journal, journal.ReadOptions{}, func(r *journal.Record) error {
		s := shareRecord(r)
		if len(last) < n {
			last = append(last, s)
			return nil
		}
		last[next] = s
		next = (next + 1) % n
		return nil
	})
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	for i := range last {
		if eerr := enc.Encode(&last[(next+i)%len(last)]); eerr != nil {
			return nil, errors.Join(err, eerr)
		}
	}
	return out.Bytes(), err
}

// tarWriter writes an archive of small regular files in the ustar format of POSIX.1-1988.
// It stands here because the command may not link archive/tar, which reads them too.
type tarWriter struct {
	w   io.Writer
	now time.Time
	err error // the first
}

const tarBlock = 512

// file adds a file whose name is of ASCII and shorter than 100 bytes.
func (t *tarWriter) file(name string, content []byte) {
	var h [tarBlock]byte
	copy(h[0:], "belay-support/"+name)
	copy(h[100:], "0000600\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", len(content)))
	copy(h[136:], fmt.Sprintf("%011o\x00", max(0, t.now.Unix())))
	copy(h[148:], "        ") // as which the checksum counts
	h[156] = '0'
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	t.write(h[:])
	t.write(content)
	t.write(make([]byte, (tarBlock-len(content)%tarBlock)%tarBlock))
}

// end closes the archive.
func (t *tarWriter) end() { t.write(make([]byte, 2*tarBlock)) }

func (t *tarWriter) write(b []byte) {
	if t.err == nil {
		_, t.err = t.w.Write(b)
	}
}
