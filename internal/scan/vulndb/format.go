package vulndb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The file: a header of fixed size, then a body that its checksum covers.
//
//	header  magic, version, time of the build, sizes of the four parts, counts, SHA-256 of the body
//	keys    offsets of entries by their key, sorted: little-endian uint32
//	entries key, then what each record says of that package
//	records offsets of records, by number: little-endian uint32
//	texts   the records
//
// A key is an ecosystem, a zero byte and a package's name. Numbers are varints, texts
// have their length before them.
const (
	magic      = "BELAYVDB"
	formatNow  = 1
	headerSize = 8 + 4 + 8 + 6*4 + sha256.Size
	maxFile    = 1 << 30
)

// ErrBroken is returned for a file that is no database, is cut off or was altered.
var ErrBroken = errors.New("the vulnerability database is broken: build it again with 'belay db build'")

// builder gathers entries and writes the file.
type builder struct {
	keys    map[string][]affected
	records []Vulnerability
}

// encode returns the whole file.
func (b *builder) encode(now time.Time) ([]byte, error) {
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
	size := keys.Len() + entries.Len() + index.Len() + texts.Len()
	if size > maxFile-headerSize {
		return nil, fmt.Errorf("the database would have %d bytes, more than %d", size, maxFile)
	}
	body := slices.Concat(keys.Bytes(), entries.Bytes(), index.Bytes(), texts.Bytes())
	var out bytes.Buffer
	out.WriteString(magic)
	putU32(&out, formatNow)
	out.Write(binary.LittleEndian.AppendUint64(nil, uint64(now.Unix())))
	for _, n := range []int{keys.Len(), entries.Len(), index.Len(), texts.Len(), len(names), len(b.records)} {
		putU32(&out, n)
	}
	sum := sha256.Sum256(append(slices.Clone(out.Bytes()), body...))
	out.Write(sum[:])
	out.Write(body)
	return out.Bytes(), nil
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

func (v *Vulnerability) put(w *bytes.Buffer) {
	putText(w, v.ID)
	putTexts(w, v.Aliases)
	flags := byte(v.Severity)
	if v.Exploited {
		flags |= 0x80
	}
	w.WriteByte(flags)
	w.WriteByte(byte(math.Round(v.Score * 10)))
	putText(w, v.Summary)
}

func (a *affected) put(w *bytes.Buffer) {
	putInt(w, a.record)
	if a.endOfLife {
		w.WriteByte(1)
	} else {
		w.WriteByte(0)
	}
	putInt(w, len(a.ranges))
	for _, r := range a.ranges {
		putInt(w, len(r))
		for _, e := range r {
			w.WriteByte(e.kind)
			putText(w, e.version)
		}
	}
	putTexts(w, a.versions)
}

// DB is an open database. Safe for concurrent use until [DB.Close].
type DB struct {
	built         time.Time
	size          int
	keys, entries []byte
	index, texts  []byte
	nKeys, nRecs  int
	release       func()
}

// Open maps the database at path and checks it.
//
// Errors: [*fs.PathError]; [ErrBroken].
func Open(path string) (*DB, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < headerSize || st.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes: %w", path, st.Size(), ErrBroken)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	db, err := load(b)
	if err != nil {
		unix.Munmap(b)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	db.release = func() { unix.Munmap(b) }
	return db, nil
}

// load checks a whole file in memory.
func load(b []byte) (*DB, error) {
	if len(b) < headerSize || string(b[:8]) != magic {
		return nil, ErrBroken
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatNow {
		return nil, fmt.Errorf("it has format %d, want %d: %w", v, formatNow, ErrBroken)
	}
	var n [6]int
	for i := range n {
		n[i] = int(binary.LittleEndian.Uint32(b[20+4*i:]))
	}
	body := b[headerSize:]
	if n[0]+n[1]+n[2]+n[3] != len(body) || n[0] != 4*n[4] || n[2] != 4*n[5] {
		return nil, ErrBroken
	}
	h := sha256.New()
	h.Write(b[:headerSize-sha256.Size])
	h.Write(body)
	if !bytes.Equal(h.Sum(nil), b[headerSize-sha256.Size:headerSize]) {
		return nil, ErrBroken
	}
	db := &DB{built: time.Unix(int64(binary.LittleEndian.Uint64(b[12:])), 0).UTC(), size: len(b), nKeys: n[4], nRecs: n[5]}
	db.keys, body = body[:n[0]], body[n[0]:]
	db.entries, body = body[:n[1]], body[n[1]:]
	db.index, db.texts = body[:n[2]], body[n[2]:]
	return db, nil
}

// Close unmaps the file. The database must not be used afterwards.
func (db *DB) Close() {
	if db.release != nil {
		db.release()
	}
}

// cursor reads values; after the first that is not there it is broken and gives zeros.
type cursor struct {
	b      []byte
	broken bool
}

func at(part []byte, offset uint32) *cursor {
	if int64(offset) > int64(len(part)) {
		return &cursor{broken: true}
	}
	return &cursor{b: part[offset:]}
}

func (c *cursor) int() int {
	n, k := binary.Uvarint(c.b)
	// No count or length can be larger than what is left.
	if k <= 0 || n > maxFile {
		c.b, c.broken = nil, true
		return 0
	}
	c.b = c.b[k:]
	return int(n)
}

func (c *cursor) count() int {
	n := c.int()
	if n > len(c.b) {
		c.b, c.broken = nil, true
		return 0
	}
	return n
}

func (c *cursor) byte() byte {
	if len(c.b) == 0 {
		c.broken = true
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *cursor) raw() []byte {
	n := c.count()
	s := c.b[:n]
	c.b = c.b[n:]
	return s
}

func (c *cursor) text() string { return string(c.raw()) }

func (c *cursor) list() []string {
	var out []string
	for range c.count() {
		out = append(out, c.text())
	}
	return out
}

// lookup returns what the database has on one package.
func (db *DB) lookup(ecosystem, name string) ([]affected, error) {
	key := []byte(ecosystem + "\x00" + keyName(ecosystem, name))
	i, found := sort.Find(db.nKeys, func(i int) int {
		return bytes.Compare(key, at(db.entries, binary.LittleEndian.Uint32(db.keys[4*i:])).raw())
	})
	if !found {
		return nil, nil
	}
	c := at(db.entries, binary.LittleEndian.Uint32(db.keys[4*i:]))
	c.raw()
	var out []affected
	for range c.count() {
		a := affected{record: c.int(), endOfLife: c.byte() == 1}
		for range c.count() {
			var r []event
			for range c.count() {
				r = append(r, event{c.byte(), c.text()})
			}
			a.ranges = append(a.ranges, r)
		}
		a.versions = c.list()
		out = append(out, a)
	}
	if c.broken {
		return nil, ErrBroken
	}
	return out, nil
}

// has reports whether there is any package of an ecosystem.
func (db *DB) has(ecosystem string) bool {
	key := []byte(ecosystem + "\x00")
	i := sort.Search(db.nKeys, func(i int) bool {
		return bytes.Compare(at(db.entries, binary.LittleEndian.Uint32(db.keys[4*i:])).raw(), key) >= 0
	})
	return i < db.nKeys && bytes.HasPrefix(at(db.entries, binary.LittleEndian.Uint32(db.keys[4*i:])).raw(), key)
}

// record returns one record by its number.
func (db *DB) record(i int) (Vulnerability, error) {
	if i < 0 || i >= db.nRecs {
		return Vulnerability{}, ErrBroken
	}
	c := at(db.texts, binary.LittleEndian.Uint32(db.index[4*i:]))
	v := Vulnerability{ID: c.text(), Aliases: c.list()}
	flags := c.byte()
	v.Severity, v.Exploited = Severity(flags&0x7f), flags&0x80 != 0
	v.Score = float64(c.byte()) / 10
	v.Summary = c.text()
	if c.broken {
		return Vulnerability{}, ErrBroken
	}
	return v, nil
}

// Status tells what a database holds.
type Status struct {
	Built      time.Time      `json:"built"`
	Bytes      int            `json:"bytes"`
	Records    int            `json:"records"`
	Packages   int            `json:"packages"`
	Ecosystems map[string]int `json:"ecosystems"` // packages by ecosystem
}

// Status reads through all of the database.
func (db *DB) Status() Status {
	s := Status{Built: db.built, Bytes: db.size, Records: db.nRecs, Packages: db.nKeys, Ecosystems: map[string]int{}}
	for i := range db.nKeys {
		eco, _, _ := strings.Cut(at(db.entries, binary.LittleEndian.Uint32(db.keys[4*i:])).text(), "\x00")
		s.Ecosystems[eco]++
	}
	return s
}

// Built returns when the database was compiled.
func (db *DB) Built() time.Time { return db.built }
