package vulndb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// The file: a header of fixed size, then a body that its checksum covers.
//
//	header  magic, version, times of the build and of the data, sizes of the five parts, counts, SHA-256 of the body
//	keys    offsets of entries by their key, sorted: little-endian uint32
//	entries key, then what each record says of that package
//	records offsets of records, by number: little-endian uint32
//	texts   the records
//	meta    what it was built from: JSON
//
// A key is an ecosystem, a zero byte and a package's name. Numbers are varints, texts
// have their length before them.
const (
	magic      = "BELAYVDB"
	formatNow  = 6
	headerSize = 8 + 4 + 8 + 8 + 7*4 + sha256.Size
	builtAt    = 8 + 4
	asOfAt     = builtAt + 8
	maxFile    = MaxFile
)

// MaxFile is the most bytes that a database has, Format the version of its form.
const (
	MaxFile = 1 << 30
	Format  = formatNow
)

// ErrBroken is returned for a file that is no database, is cut off or was altered.
var ErrBroken = errors.New("the vulnerability database is broken: build it again with 'belay db import'")

// builder gathers entries and writes the file.
type builder struct {
	keys    map[string][]affected
	records []Vulnerability
	meta    metadata
}

// metadata is the last part.
type metadata struct {
	Sources []Source `json:"sources"`
	// Whole are the ecosystems whose own records were taken: of others there are but those that name
	// one of these, too.
	Whole []string `json:"whole"`
	// BadRecords are those that were left out, since they could not be read.
	BadRecords int `json:"badRecords"`
}

// drop takes records out, by their numbers. Those after them get others.
func (b *builder) drop(gone map[int]bool) {
	if len(gone) == 0 {
		return
	}
	numbers := make([]int, len(b.records))
	kept := b.records[:0]
	for i, v := range b.records {
		numbers[i] = len(kept)
		if !gone[i] {
			kept = append(kept, v)
		}
	}
	b.records = kept
	for key, list := range b.keys {
		list = slices.DeleteFunc(list, func(a affected) bool { return gone[a.record] })
		for i := range list {
			list[i].record = numbers[list[i].record]
		}
		if b.keys[key] = list; len(list) == 0 {
			delete(b.keys, key)
		}
	}
}

// unclear stands for the number of a name that records have for different flaws: it is no name.
const unclear = "\x00"

// nameOnce leaves of the names by which a record is about one flaw its CVE number, if other records tell that they
// are one, and none that they are not: who accepts the flaw names it once. A record that is no advisory and about one
// flaw, after that, is that flaw.
func (b *builder) nameOnce() {
	numbers := map[string]string{} // by other names that are used
	for i := range b.records {
		for _, id := range b.records[i].About {
			if !isCVE(id) {
				numbers[id] = ""
			}
		}
	}
	if len(numbers) == 0 {
		return
	}
	for i := range b.records {
		names := append([]string{b.records[i].ID}, b.records[i].Aliases...)
		at := slices.IndexFunc(names, isCVE)
		if at < 0 {
			continue
		}
		number := names[at]
		if several(names) {
			number = unclear // one that is several is none of them
		}
		for _, id := range names {
			switch was, used := numbers[id]; {
			case !used:
			case was == "":
				numbers[id] = number
			case was != number:
				numbers[id] = unclear
			}
		}
	}
	for i := range b.records {
		v := &b.records[i]
		once := slices.DeleteFunc(slices.Clone(v.About), func(id string) bool {
			_, twice := slices.BinarySearch(v.About, numbers[id])
			return twice
		})
		if len(once) == 1 && len(v.About) > 1 && !isAdvisory(v.ID) {
			v.Aliases, once = sorted(slices.Concat(v.Aliases, v.About)), nil
		}
		v.About = once
	}
}

func isCVE(id string) bool { return strings.HasPrefix(id, "CVE-") }

// encode returns the whole file.
func (b *builder) encode(built, asOf time.Time) ([]byte, error) {
	names := make([]string, 0, len(b.keys))
	for k := range b.keys {
		names = append(names, k)
	}
	slices.Sort(names)
	var keys, entries, index, texts bytes.Buffer
	for _, k := range names {
		putU32(&keys, entries.Len())
		putText(&entries, k)
		putInt(&entries, len(b.keys[k]))
		for i := range b.keys[k] {
			b.keys[k][i].put(&entries)
		}
	}
	for i := range b.records {
		putU32(&index, texts.Len())
		b.records[i].put(&texts)
	}
	meta, err := json.Marshal(b.meta)
	if err != nil {
		return nil, err
	}
	size := keys.Len() + entries.Len() + index.Len() + texts.Len() + len(meta)
	if size > maxFile-headerSize {
		return nil, fmt.Errorf("the database would have %d bytes, more than %d", size, maxFile)
	}
	var out bytes.Buffer
	out.WriteString(magic)
	putU32(&out, formatNow)
	for _, at := range []time.Time{built, asOf} {
		out.Write(binary.LittleEndian.AppendUint64(nil, seconds(at)))
	}
	for _, n := range []int{keys.Len(), entries.Len(), index.Len(), texts.Len(), len(meta), len(names), len(b.records)} {
		putU32(&out, n)
	}
	out.Write(make([]byte, sha256.Size))
	file := slices.Concat(out.Bytes(), keys.Bytes(), entries.Bytes(), index.Bytes(), texts.Bytes(), meta)
	copy(file[headerSize-sha256.Size:], checksum(file))
	return file, nil
}

// seconds are those since 1970, 0 for what was before.
func seconds(at time.Time) uint64 { return uint64(max(0, at.Unix())) }

// checksum is that of a whole file.
func checksum(file []byte) []byte {
	h := sha256.New()
	h.Write(file[:headerSize-sha256.Size])
	h.Write(file[headerSize:])
	return h.Sum(nil)
}

func putU32(w *bytes.Buffer, n int) { w.Write(binary.LittleEndian.AppendUint32(nil, uint32(n))) }
func putInt(w *bytes.Buffer, n int) { w.Write(binary.AppendUvarint(nil, uint64(n))) }
func putText(w *bytes.Buffer, s string) {
	putInt(w, len(s))
	w.WriteString(s)
}

func putTexts(w *bytes.Buffer, list []string) {
	putInt(w, len(list))
	for _, s := range list {
		putText(w, s)
	}
}

// putShare writes a number from 0 to 1 in steps of 1/65535.
func putShare(w *bytes.Buffer, x float64) {
	w.Write(binary.LittleEndian.AppendUint16(nil, uint16(math.Round(min(max(x, 0), 1)*math.MaxUint16))))
}

func (v *Vulnerability) put(w *bytes.Buffer) {
	putText(w, v.ID)
	putTexts(w, v.Aliases)
	putTexts(w, v.About)
	flags := byte(v.Severity)
	if v.Exploited {
		flags |= 0x80
	}
	w.WriteByte(flags)
	w.WriteByte(byte(math.Round(v.Score * 10)))
	putShare(w, v.EPSS)
	putShare(w, v.Percentile)
	putText(w, v.Summary)
}

func (a *affected) put(w *bytes.Buffer) {
	putInt(w, a.record)
	w.WriteByte(a.state)
	putInt(w, len(a.ranges))
	for _, r := range a.ranges {
		putInt(w, len(r))
		for _, e := range r {
			w.WriteByte(e.kind)
			putInt(w, len(e.version))
			w.Write(e.version)
		}
	}
	putInt(w, len(a.versions))
	for _, v := range a.versions {
		putInt(w, len(v))
		w.Write(v)
	}
	putInt(w, len(a.imports))
	w.Write(a.imports)
}
