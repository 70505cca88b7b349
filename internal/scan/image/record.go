package image

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// What one layer holds and hides is written as records, compressed with zstd: a byte that
// says what it is, the number of its texts, and each text with its length before it
// (uvarints). Names come in the order of the layer, what was found after them; the last
// record has the digest and the number of entries, so that one which breaks off is none.
const (
	recordDir      = 'd' // name
	recordOther    = 'o' // name
	recordLooked   = 'k' // kind, name
	recordWhiteout = 'w' // name
	recordOpaque   = 'q' // name
	recordSymlink  = 's' // name
	recordParent   = 'p' // name, own ("1") or taken for granted ("")
	recordAlias    = 'a' // name, target
	recordLink     = 'l' // kind, name, target
	recordFile     = 'f' // kind, name, distribution in JSON
	recordPackage  = 'P' // package in JSON, of the file before it
	recordOwned    = 'O' // path, owner: of the file before it
	recordFault    = 'm' // name, misconfiguration in JSON
	recordNote     = 'n' // note in JSON
	recordUnsought = 'u' // note in JSON
	recordEnd      = 'z' // digest of the layer, number of entries
)

// recordTexts is how many texts each kind has.
var recordTexts = map[byte]uint64{
	recordDir: 1, recordOther: 1, recordLooked: 2, recordWhiteout: 1, recordOpaque: 1, recordSymlink: 1, recordParent: 2, recordAlias: 2,
	recordLink: 3, recordFile: 3, recordPackage: 1, recordOwned: 2, recordFault: 2, recordNote: 1, recordUnsought: 1, recordEnd: 2,
}

// Bounds on the records of one layer that are read.
const (
	maxRecordText  = inventory.MaxFunctions + 64<<10
	maxRecordBytes = 1 << 30 // decompressed
)

// recorder writes records. A nil one writes nothing.
type recorder struct {
	w   *bufio.Writer
	err error
}

func (c *recorder) put(kind byte, texts ...string) {
	if c == nil || c.err != nil {
		return
	}
	b := binary.AppendUvarint([]byte{kind}, uint64(len(texts)))
	for _, s := range texts {
		if len(s) > maxRecordText {
			c.err = fmt.Errorf("a text of %d bytes in what the layer holds", len(s))
			return
		}
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	_, c.err = c.w.Write(b)
}

func (c *recorder) putJSON(kind byte, v any, texts ...string) {
	b, err := json.Marshal(v)
	if err != nil {
		c.err = errors.Join(c.err, err)
		return
	}
	c.put(kind, append(texts, string(b))...)
}

// WriteLayer reads one layer, compressed or not, to its end and writes what it holds and
// hides, for a [Read] of any image that has it. What is written follows from the bytes of the
// layer, the extractors and the scanners that are left out alone.
//
// Errors: a layer that cannot be read or is beyond a bound; what was written is of no use then.
func WriteLayer(ctx context.Context, from io.Reader, x Extractor, skip []string, to io.Writer) error {
	r, err := newReader(ctx, x, skip)
	if err != nil {
		return err
	}
	z, err := zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	l := r.newLayer()
	l.log = &recorder{w: bufio.NewWriterSize(z, 64<<10)}
	digest, err := r.hashedLayer(Content{Reader: from, Size: 1 << 62}, l.notes.add, func(t *tarStream) error { return r.collect(l, t) })
	if err != nil {
		return err
	}
	l.record(digest)
	return errors.Join(l.log.err, l.log.w.Flush(), z.Close())
}

// record writes what is known at the end of a layer.
func (l *layer) record(digest string) {
	for kind, set := range map[byte]map[string]bool{recordWhiteout: l.whiteouts, recordOpaque: l.opaque} {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			l.log.put(kind, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.symlinks)) {
		if l.symlinks[name] {
			l.log.put(recordSymlink, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.parents)) {
		own := ""
		if l.parents[name] {
			own = "1"
		}
		l.log.put(recordParent, name, own)
	}
	for _, name := range slices.Sorted(maps.Keys(l.aliases)) {
		l.log.put(recordAlias, name, l.aliases[name])
	}
	for _, h := range l.links {
		l.log.put(recordLink, h.kind, h.name, h.target)
	}
	for _, name := range slices.Sorted(maps.Keys(l.files)) {
		f := l.files[name]
		l.log.putJSON(recordFile, f.OS, f.kind, name)
		for i := range f.Packages {
			l.log.putJSON(recordPackage, &f.Packages[i])
		}
		for _, o := range f.Owns {
			l.log.put(recordOwned, o.Path, o.Owner)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.faults)) {
		for i := range l.faults[name] {
			l.log.putJSON(recordFault, &l.faults[name][i], name)
		}
	}
	for i := range l.notes.list {
		l.log.putJSON(recordNote, &l.notes.list[i])
	}
	for i := range l.unsearched.list {
		l.log.putJSON(recordUnsought, &l.unsearched.list[i])
	}
	l.log.put(recordEnd, digest, strconv.Itoa(l.entries))
}

var errRecords = errors.New("what a layer holds is no such record")

// layerOf reads what [WriteLayer] wrote, as bytes of an enemy, and returns the layer and the
// digest that its content had.
func (r *reader) layerOf(from io.Reader) (l *layer, digest string, err error) {
	z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
	if err != nil {
		return nil, "", err
	}
	defer z.Close()
	in := bufio.NewReaderSize(io.LimitReader(z, maxRecordBytes), 64<<10)
	p := &replay{r: r, l: r.newLayer()}
	for n := 0; ; n++ {
		kind, texts, err := readRecord(in)
		if err != nil {
			return nil, "", fmt.Errorf("%w: %w", errRecords, err)
		}
		if n%4096 == 0 {
			if err := r.stopped(); err != nil {
				return nil, "", err
			}
		}
		if kind == recordEnd {
			if p.l.entries, err = strconv.Atoi(texts[1]); err != nil || p.l.entries < p.names || p.l.entries > maxEntries || !sha256Digest.MatchString(texts[0]) {
				return nil, "", errRecords
			}
			// Nothing may follow, and the frame's checksum is looked at only at its end.
			if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
				return nil, "", fmt.Errorf("%w: %w", errRecords, errors.Join(err))
			}
			return p.l, texts[0], nil
		}
		if n > 2*maxEntries {
			return nil, "", fmt.Errorf("%w: more than %d", errRecords, 2*maxEntries)
		}
		if err := p.record(kind, texts); err != nil {
			return nil, "", err
		}
	}
}

func readRecord(in *bufio.Reader) (kind byte, texts []string, err error) {
	if kind, err = in.ReadByte(); err != nil {
		return 0, nil, noEnd(err)
	}
	n, err := binary.ReadUvarint(in)
	if want, ok := recordTexts[kind]; err != nil || !ok || n != want {
		return 0, nil, fmt.Errorf("%d texts for %q: %w", n, kind, errors.Join(noEnd(err)))
	}
	for range n {
		size, err := binary.ReadUvarint(in)
		if err != nil || size > maxRecordText {
			return 0, nil, fmt.Errorf("a text of %d bytes: %w", size, errors.Join(noEnd(err)))
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(in, b); err != nil {
			return 0, nil, noEnd(err)
		}
		texts = append(texts, string(b))
	}
	return kind, texts, nil
}

func noEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// replay makes a layer of its records.
type replay struct {
	r                       *reader
	l                       *layer
	names, faults, packages int
	file                    string // the last one
}

// record takes one record but the last.
func (p *replay) record(kind byte, texts []string) error {
	l := p.l
	for _, s := range texts[:named(kind, texts)] {
		// The kind of a file is no name, and passes as one.
		if clean, ok := cleanName(s); !ok || clean != s {
			return fmt.Errorf("%w: the name %.200q", errRecords, s)
		}
	}
	switch kind {
	case recordDir, recordOther:
		if p.names++; p.names > maxEntries {
			return fmt.Errorf("%w: more than %d names", errRecords, maxEntries)
		}
		if kind == recordDir {
			l.dirs = append(l.dirs, l.hash(texts[0]))
		} else {
			l.others = append(l.others, l.hash(texts[0]))
		}
		delete(l.looked, l.hash(texts[0]))
	case recordLooked:
		l.looked[l.hash(texts[1])] = texts[0]
	case recordWhiteout:
		l.whiteouts[texts[0]] = true
	case recordOpaque:
		l.opaque[texts[0]] = true
	case recordSymlink:
		l.symlinks[texts[0]] = true
	case recordParent:
		l.parents[texts[0]] = texts[1] != ""
	case recordAlias:
		l.aliases[texts[0]] = texts[1]
	case recordLink:
		l.links = append(l.links, hardlink{texts[0], texts[1], texts[2]})
	default:
		return p.found(kind, texts)
	}
	return nil
}

// named is how many of a record's texts are names, from the first on.
func named(kind byte, texts []string) int {
	switch kind {
	case recordParent, recordFault:
		return 1
	case recordFile:
		return 2
	case recordPackage, recordOwned, recordNote, recordUnsought:
		return 0
	}
	return len(texts)
}

// found takes a record of what a file told.
func (p *replay) found(kind byte, texts []string) error {
	l, last := p.l, []byte(texts[len(texts)-1])
	var err error
	switch kind {
	case recordFile:
		f := read{kind: texts[0]}
		err = json.Unmarshal(last, &f.OS)
		l.files[texts[1]], p.file = f, texts[1]
	case recordPackage, recordOwned:
		f, ok := l.files[p.file]
		if !ok {
			return fmt.Errorf("%w: a package of no file", errRecords)
		}
		if kind == recordOwned {
			f.Owns = append(f.Owns, inventory.Owned{Path: texts[0], Owner: texts[1]})
		} else {
			var pkg inventory.Package
			if p.packages++; p.packages > inventory.MaxPackages {
				return fmt.Errorf("%w: more than %d packages", errRecords, inventory.MaxPackages)
			}
			err = json.Unmarshal(last, &pkg)
			one := []inventory.Package{pkg}
			p.r.limitFunctions(one)
			f.Packages = append(f.Packages, one...)
		}
		l.files[p.file] = f
	case recordFault:
		var m inventory.Misconfiguration
		err = json.Unmarshal(last, &m)
		if p.faults++; p.faults > maxFaults {
			return fmt.Errorf("%w: more than %d faults", errRecords, maxFaults)
		}
		// A layer of which more was kept serves too.
		if !p.r.skips(inventory.ScannerOf(m.ID)) {
			l.faults[texts[0]] = append(l.faults[texts[0]], m)
		}
	case recordNote, recordUnsought:
		var n inventory.Note
		err = json.Unmarshal(last, &n)
		if n.Count < 1 || n.Count > maxEntries*2 {
			return fmt.Errorf("%w: a note of %d times", errRecords, n.Count)
		}
		switch {
		case kind == recordNote:
			l.notes.merge(n)
		case n.Text == tooManyFaults || !p.r.skips(inventory.ScannerSecret):
			l.unsearched.merge(n)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errRecords, err)
	}
	return nil
}

// adopt counts a layer that was read elsewhere as if it had been read here.
func (r *reader) adopt(l *layer) error {
	for _, name := range slices.Sorted(maps.Keys(l.faults)) {
		if r.faults += len(l.faults[name]); r.faults > maxFaults {
			l.unsearched.add(name, tooManyFaults)
			delete(l.faults, name)
		}
	}
	if r.entries += l.entries; r.entries > maxEntries {
		return fmt.Errorf("the image has more than %d files", maxEntries)
	}
	return nil
}
