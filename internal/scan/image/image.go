// Package image reads images and root file systems where they lie: layers of tar
// streams, compressed or not, and directories. Nothing is unpacked or written, and
// no link of an image is ever followed on the host.
//
// One pass over a layer reads the files that an extractor wants and remembers what
// the layer hides; merging the layers gives what a container would see. All input is
// hostile: entries, names, depth and sizes have bounds, and what goes beyond them is
// an error or a note, never silence.
//
// It owns no state beyond one [Read] and is meant to run in the scanner's sandbox.
// Row: core.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Bounds on one image.
const (
	maxEntries  = 2_000_000 // over all layers
	maxDepth    = 200       // of directories
	maxPath     = inventory.MaxText
	maxJSON     = 4 << 20 // a manifest, an index, a configuration
	maxIndex    = 4       // indexes within indexes
	maxLinkHops = 8       // links to links
	maxSmallSum = 32 << 20
)

// Content is what a file holds: always a stream of at most Size bytes, and At too
// where the source can be read at any place.
type Content struct {
	io.Reader
	At   io.ReaderAt
	Size int64
}

// Extractor chooses files and reads them.
type Extractor interface {
	// Kind names how the file is to be read; empty means not at all. size is -1 for
	// a hard link.
	Kind(path string, mode fs.FileMode, size int64) string
	// Extract reads a file as kind, within bounds of its own. What it returns beside
	// an error is kept.
	Extract(kind, path string, c Content) (inventory.File, error)
}

// Searcher is an [Extractor] that also searches files, which it reads for nothing else, for
// secrets.
type Searcher interface {
	// Searches reports whether a file of that name is of those that are searched, and the
	// size in bytes from which on they are not.
	Searches(path string) (limit int64, ok bool)
	// Search returns what is in a file; none of it has the value of a secret.
	Search(path string, c Content) ([]inventory.Misconfiguration, error)
}

// ErrNotImage is returned for a source that is none of the known shapes.
var ErrNotImage = errors.New("this is no image: want a docker-archive, an OCI layout in a tar or a directory, or a root file system")

// Read reads the source of job, whose descriptors file hands out, and returns all of
// the result but its sandbox.
//
// Errors: [ErrNotImage], those of ctx, and sentences that name what is broken or
// beyond a bound.
func Read(ctx context.Context, job inventory.Job, file func(fd int) *os.File, x Extractor) (*inventory.Result, error) {
	if len(job.Inputs) == 0 || len(job.Inputs) > inventory.MaxLayers+1 {
		return nil, fmt.Errorf("a job of %d inputs, want 1 to %d layers", len(job.Inputs), inventory.MaxLayers)
	}
	r, err := newReader(ctx, x, job.Skip)
	if err != nil {
		return nil, err
	}
	r.res = &inventory.Result{Schema: inventory.Schema, Platform: job.Platform, ImageID: job.ImageID}
	switch job.Source {
	case inventory.SourceRootfs, inventory.SourceOverlay:
		err = r.directories(job, file)
	case inventory.SourceLayout:
		d := &layoutDir{dir: file(job.Inputs[0].FD)}
		if job.Layers {
			d.helper, err = openAsked(file(job.Inputs[len(job.Inputs)-1].FD), file(job.AskFD), job)
		}
		if err == nil {
			err = r.image(d, job.Platform)
		}
	case inventory.SourceAsked:
		var a *asked
		if a, err = openAsked(file(job.Inputs[0].FD), file(job.AskFD), job); err == nil {
			err = r.image(a, job.Platform)
		}
	case inventory.SourceArchive:
		err = r.archive(ctx, file(job.Inputs[0].FD), job.Platform)
	default:
		err = fmt.Errorf("a job with the unknown source %q", job.Source)
	}
	if err != nil {
		return nil, err
	}
	return r.res, r.finish()
}

// reader is one [Read].
type reader struct {
	stopped func() error // the error of the caller's context
	x       Extractor
	notes   *notes // of the image; layers have their own until [reader.finish]
	res     *inventory.Result
	layers  []*layer // lowest first; one layer may be there twice
	entries int
	// searcher is nil if secrets are not searched for; unsearched are files that were not.
	searcher   Searcher
	unsearched *notes
	skip       []string // scanners
	faults     int      // in files, over all layers
	functions  int      // bytes of what programs have
}

func newReader(ctx context.Context, x Extractor, skip []string) (*reader, error) {
	for _, s := range skip {
		if !slices.Contains(inventory.Scanners(), s) {
			return nil, fmt.Errorf("a job without the unknown scanner %.40q", s)
		}
	}
	r := &reader{stopped: ctx.Err, x: x, notes: newNotes(), unsearched: newNotes(), skip: skip}
	if !r.skips(inventory.ScannerSecret) {
		r.searcher, _ = x.(Searcher)
	}
	return r, nil
}

// skips reports whether a scanner is left out.
func (r *reader) skips(scanner string) bool { return slices.Contains(r.skip, scanner) }

// configFaults sets what is wrong with the image's configuration, less what is not looked for.
func (r *reader) configFaults(m *manifest) {
	list := slices.DeleteFunc(m.faults, func(f inventory.Misconfiguration) bool { return r.skips(inventory.ScannerOf(f.ID)) })
	r.res.Misconfigurations, r.res.ConfigRead = list, m.unread == ""
}

// archive reads an image of one file.
func (r *reader) archive(ctx context.Context, f *os.File, platform string) error {
	a, err := openArchive(ctx, f)
	if err != nil {
		return err
	}
	return r.image(a, platform)
}

// directories reads layers that lie unpacked.
func (r *reader) directories(job inventory.Job, file func(fd int) *os.File) error {
	var socket *os.File
	if job.LendFD != 0 {
		socket = file(job.LendFD)
	}
	for i, in := range job.Inputs {
		if in.Config {
			r.configured(file(in.FD), job.Source == inventory.SourceRootfs)
			continue
		}
		l := r.newLayer()
		if err := r.walk(l, file(in.FD), job.Source == inventory.SourceOverlay, lent{socket, i}); err != nil {
			return err
		}
		for _, p := range in.Opaque {
			l.opaque[p] = true
		}
		l.close()
		r.layers = append(r.layers, l)
		r.res.Layers = append(r.res.Layers, inventory.Layer{DiffID: in.DiffID, Entries: l.entries})
	}
	return nil
}

// configured reads the configuration of an image whose layers lie unpacked. One that cannot be read,
// or is of other layers, is a note: the layers were read. merged says that they lie in one directory,
// of which a configuration does not tell.
func (r *reader) configured(f *os.File, merged bool) {
	b, err := inventory.ReadAll(f, maxJSON)
	var m manifest
	switch {
	case err != nil:
	case merged:
		if _, err = m.about(b); err == nil {
			m.origin(b)
		}
	default:
		err = m.configure(b, make([]string, len(r.res.Layers)))
	}
	for i := range m.layers {
		if m.layers[i].diffID != r.res.Layers[i].DiffID && err == nil {
			err = errors.New("the image's configuration is about other layers")
		}
	}
	if err != nil {
		r.notes.add("", err.Error())
		return
	}
	for i := range m.layers {
		r.res.Layers[i].CreatedBy = m.layers[i].createdBy
	}
	r.configFaults(&m)
	r.res.Base = m.base
	if r.res.Platform == "" {
		r.res.Platform = m.platform
	}
	if m.unread != "" {
		r.notes.add("", m.unread)
	}
}

// image finds the image in an archive and reads its layers.
func (r *reader) image(a archive, platform string) error {
	m, err := findImage(a, platform)
	if err != nil {
		return err
	}
	r.res.ImageID, r.res.Digest, r.res.Tags, r.res.Platform = m.imageID, m.digest, m.tags, m.platform
	r.configFaults(m)
	r.res.Base = m.base
	if m.unread != "" {
		r.notes.add("", m.unread)
	}
	if len(m.layers) > inventory.MaxLayers {
		return fmt.Errorf("an image of %d layers, want at most %d", len(m.layers), inventory.MaxLayers)
	}
	missing := names(m.layers)
	read, digests, err := r.known(a, m.layers)
	if err != nil {
		return err
	}
	for name := range read {
		delete(missing, name)
	}
	err = a.each(missing, func(name string, c Content) (err error) {
		l := r.newLayer()
		read[name] = l
		digests[name], err = r.hashedLayer(c, l.notes.add, func(t *tarStream) error { return r.collect(l, t) })
		return err
	})
	if err != nil {
		return err
	}
	for _, ml := range m.layers {
		l := read[ml.name]
		if l == nil {
			return fmt.Errorf("the image names the layer %s, which is not there", ml.name)
		}
		if err := ml.check(digests[ml.name]); err != nil {
			return err
		}
		l.close()
		r.layers = append(r.layers, l)
		r.res.Layers = append(r.res.Layers, inventory.Layer{DiffID: ml.diffID, Entries: l.entries, CreatedBy: ml.createdBy})
	}
	return r.resolveLinks(a, m.layers, read)
}

// names returns the distinct names of layers.
func names(layers []manifestLayer) map[string]bool {
	out := map[string]bool{}
	for _, l := range layers {
		out[l.name] = true
	}
	return out
}

// count counts an entry of any layer.
func (r *reader) count(l *layer) error {
	l.entries++
	if r.entries++; r.entries > maxEntries {
		return fmt.Errorf("the image has more than %d files", maxEntries)
	}
	if r.entries%1024 == 0 {
		return r.stopped()
	}
	return nil
}

// extract reads one wanted file into l. A file that cannot be read is a note; an
// error of the stream below it ends the scan.
func (r *reader) extract(l *layer, kind, name string, c Content) {
	c.Reader = io.LimitReader(c.Reader, c.Size)
	f, err := r.x.Extract(kind, name, c)
	if err != nil {
		l.notes.add(name, err.Error())
	}
	r.limitFunctions(f.Packages)
	l.add(kind, name, f)
}

// limitFunctions forgets the functions of programs beyond what is kept of one image.
func (r *reader) limitFunctions(list []inventory.Package) {
	for i := range list {
		if r.functions += len(list[i].Functions); r.functions > inventory.MaxAllFunctions {
			list[i].Functions = ""
		}
	}
}

// notes gathers what was not read, by sentence.
type notes struct {
	index map[string]int
	list  []inventory.Note
}

func newNotes() *notes { return &notes{index: map[string]int{}} }

func (n *notes) add(name, text string) {
	n.merge(inventory.Note{Path: inventory.Cut(name), Text: inventory.Cut(text), Count: 1})
}

// merge adds a note, or what it counts to the one of the same sentence.
func (n *notes) merge(m inventory.Note) {
	if i, ok := n.index[m.Text]; ok {
		n.list[i].Count += m.Count
		return
	}
	if len(n.list) >= inventory.MaxNotes-1 {
		m.Text = "more could not be read for other reasons"
		if i, ok := n.index[m.Text]; ok {
			n.list[i].Count += m.Count
			return
		}
	}
	n.index[m.Text] = len(n.list)
	n.list = append(n.list, m)
}
