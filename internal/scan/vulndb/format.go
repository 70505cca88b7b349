package vulndb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/atomicfile"
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

// Confirm writes into the database at path that its data were all that there is at a later time. The file
// changes in one step. Errors: those of [Open], and of the file.
func Confirm(path string, asOf time.Time) error {
	db, err := Open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	if seconds(asOf) == seconds(db.asOf) {
		return nil
	}
	file := slices.Clone(db.file)
	binary.LittleEndian.PutUint64(file[asOfAt:], seconds(asOf))
	copy(file[headerSize-sha256.Size:], checksum(file))
	return atomicfile.WriteFile(path, file, 0o644)
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

func (c *cursor) share() float64 {
	n := int(c.byte()) | int(c.byte())<<8
	return math.Round(float64(n)/math.MaxUint16*1e4) / 1e4
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

// DB is an open database. Safe for concurrent use until [DB.Close].
type DB struct {
	built, asOf   time.Time
	size          int
	keys, entries []byte
	index, texts  []byte
	meta          metadata
	nKeys, nRecs  int
	file          []byte
	release       func()
	finders       sync.Pool // of *finder
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
		return nil, fmt.Errorf("it has format %d, and this version of belay reads %d: %w", v, formatNow, ErrBroken)
	}
	var n [7]int
	for i := range n {
		n[i] = int(binary.LittleEndian.Uint32(b[asOfAt+8+4*i:]))
	}
	body := b[headerSize:]
	if n[0]+n[1]+n[2]+n[3]+n[4] != len(body) || n[0] != 4*n[5] || n[2] != 4*n[6] {
		return nil, ErrBroken
	}
	if !bytes.Equal(checksum(b), b[headerSize-sha256.Size:headerSize]) {
		return nil, ErrBroken
	}
	at := func(offset int) time.Time { return time.Unix(int64(binary.LittleEndian.Uint64(b[offset:])), 0).UTC() }
	db := &DB{built: at(builtAt), asOf: at(asOfAt), size: len(b), file: b, nKeys: n[5], nRecs: n[6]}
	db.keys, body = body[:n[0]], body[n[0]:]
	db.entries, body = body[:n[1]], body[n[1]:]
	db.index, body = body[:n[2]], body[n[2]:]
	db.texts, body = body[:n[3]], body[n[3]:]
	if err := json.Unmarshal(body, &db.meta); err != nil {
		return nil, ErrBroken
	}
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

func at(part []byte, offset uint32) cursor {
	if int64(offset) > int64(len(part)) {
		return cursor{broken: true}
	}
	return cursor{b: part[offset:]}
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
	n := c.count()
	if n == 0 {
		return nil
	}
	out := make([]string, 0, min(n, 16))
	for range n {
		out = append(out, c.text())
	}
	return out
}

// entry is what the database has on one package, not yet decoded. The zero entry is of
// a package without records.
type entry struct {
	c cursor
	n int // records
}

// next decodes the next record of the entry into a, whose memory it uses again.
func (e *entry) next(a *affected) error {
	e.n--
	if e.c.affected(a); e.c.broken {
		return ErrBroken
	}
	return nil
}

// affected reads what [affected.put] wrote into a, whose memory it uses again.
func (c *cursor) affected(a *affected) {
	a.record, a.state = c.int(), c.byte()
	old := a.ranges
	a.ranges = a.ranges[:0]
	for i := range c.count() {
		var r []event
		if i < cap(old) {
			r = old[:cap(old)][i][:0]
		}
		for range c.count() {
			r = append(r, event{c.byte(), c.raw()})
			if c.broken {
				return
			}
		}
		a.ranges = append(a.ranges, r)
	}
	a.versions = a.versions[:0]
	for range c.count() {
		a.versions = append(a.versions, c.raw())
		if c.broken {
			return
		}
	}
	a.imports = c.raw()
}

// key is the key of the entry number i.
func (db *DB) key(i int) []byte {
	c := at(db.entries, binary.LittleEndian.Uint32(db.keys[4*i:]))
	return c.raw()
}

// search returns the number of the first entry that is not before a key.
func (db *DB) search(ecosystem, name string) int {
	lo, hi := 0, db.nKeys
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if compareKey(db.key(m), ecosystem, name) < 0 {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// compareKey compares a stored key with that of an ecosystem and a name, making none.
func compareKey(key []byte, ecosystem, name string) int {
	n := min(len(key), len(ecosystem))
	if c := compareText(key[:n], ecosystem[:n]); c != 0 {
		return c
	}
	switch {
	case len(key) == n:
		return -1
	case key[n] != 0:
		return 1
	}
	return compareText(key[n+1:], name)
}

// compareText is bytes.Compare with a text, of which it makes no copy.
func compareText(a []byte, b string) int {
	switch {
	case string(a) == b:
		return 0
	case string(a) < b:
		return -1
	}
	return 1
}

// lookup returns what the database has on one package. It allocates nothing.
//
// Errors: [ErrBroken].
func (db *DB) lookup(ecosystem, name string) (entry, error) {
	name = keyName(ecosystem, name)
	i := db.search(ecosystem, name)
	if i == db.nKeys || compareKey(db.key(i), ecosystem, name) != 0 {
		return entry{}, nil
	}
	e := entry{c: at(db.entries, binary.LittleEndian.Uint32(db.keys[4*i:]))}
	e.c.raw()
	e.n = e.c.count()
	if e.c.broken {
		return entry{}, ErrBroken
	}
	return e, nil
}

// has reports whether the records of an ecosystem were taken, and there is any package of it.
func (db *DB) has(ecosystem string) bool {
	if !slices.ContainsFunc(db.meta.Whole, func(name string) bool { return belongs(ecosystem, name) }) {
		return false
	}
	i := db.search(ecosystem, "")
	if i == db.nKeys {
		return false
	}
	key := db.key(i)
	return len(key) > len(ecosystem) && key[len(ecosystem)] == 0 && string(key[:len(ecosystem)]) == ecosystem
}

// record returns one record by its number.
func (db *DB) record(i int) (Vulnerability, error) {
	if i < 0 || i >= db.nRecs {
		return Vulnerability{}, ErrBroken
	}
	c := at(db.texts, binary.LittleEndian.Uint32(db.index[4*i:]))
	v := c.vulnerability()
	if c.broken {
		return Vulnerability{}, ErrBroken
	}
	return v, nil
}

// vulnerability reads what [Vulnerability.put] wrote. Its names are parts of one text; the summary is none
// of it, since names are kept for longer.
func (c *cursor) vulnerability() Vulnerability {
	skip := *c
	skip.raw()
	for range 2 {
		for range skip.count() {
			skip.raw()
		}
	}
	if skip.broken {
		*c = skip
		return Vulnerability{}
	}
	all, whole := string(c.b[:len(c.b)-len(skip.b)]), len(c.b)
	name := func() string {
		n := len(c.raw())
		end := whole - len(c.b)
		return all[end-n : end]
	}
	names := func() []string {
		n := c.count()
		if n == 0 {
			return nil
		}
		list := make([]string, n)
		for i := range list {
			list[i] = name()
		}
		return list
	}
	v := Vulnerability{ID: name(), Aliases: names(), About: names()}
	flags := c.byte()
	v.Severity, v.Exploited = Severity(flags&0x7f), flags&0x80 != 0
	v.Score = float64(c.byte()) / 10
	v.EPSS, v.Percentile = c.share(), c.share()
	v.Summary = c.text()
	return v
}

// Status tells what a database holds.
type Status struct {
	Built time.Time `json:"built"`
	// AsOf is when the data were last known to be all that there is: [BuildOptions.AsOf].
	AsOf       time.Time      `json:"asOf"`
	Bytes      int            `json:"bytes"`
	Records    int            `json:"records"`
	Packages   int            `json:"packages"`
	Ecosystems map[string]int `json:"ecosystems"` // packages by ecosystem
	Sources    []Source       `json:"sources,omitempty"`
	BadRecords int            `json:"badRecords"` // that could not be read, and are not in it
}

// Source is one file that a database was built from.
type Source struct {
	Name string `json:"name"`
	// Time is when the file was last changed, by its publisher's word if it was
	// downloaded.
	Time    time.Time `json:"time"`
	Records int       `json:"records"`
}

// Status reads through all of the database.
func (db *DB) Status() Status {
	s := Status{Built: db.built, AsOf: db.asOf, Bytes: db.size, Records: db.nRecs, Packages: db.nKeys, Ecosystems: map[string]int{}, Sources: db.meta.Sources, BadRecords: db.meta.BadRecords}
	for i := range db.nKeys {
		eco, _, _ := strings.Cut(string(db.key(i)), "\x00")
		s.Ecosystems[eco]++
	}
	return s
}

// Built returns when the database was compiled.
func (db *DB) Built() time.Time { return db.built }

// AsOf returns of which time the data are: by it, and not by when they were compiled, they are old.
func (db *DB) AsOf() time.Time { return db.asOf }

// BadRecords returns how many records could not be read when the database was built.
func (db *DB) BadRecords() int { return db.meta.BadRecords }

// Verify decodes every record of every package: a file may have the right checksum and
// yet make no sense.
//
// Errors: [ErrBroken].
func (db *DB) Verify() error {
	var a affected
	for i := range db.nKeys {
		eco, name, _ := strings.Cut(string(db.key(i)), "\x00")
		e, err := db.lookup(eco, name)
		if err != nil {
			return err
		}
		if e.n == 0 {
			return fmt.Errorf("package %d is not where it should be: %w", i, ErrBroken)
		}
		for e.n > 0 {
			if err := e.next(&a); err != nil {
				return err
			}
			if _, err := db.record(a.record); err != nil {
				return err
			}
			if _, err := flawOf(a.imports, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteTo writes the whole file. It implements [io.WriterTo].
func (db *DB) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(db.file)
	return int64(n), err
}

// Copy checks the database in one file and puts it in the place of another, whole or not
// at all.
//
// Errors: [*fs.PathError]; [ErrBroken], with the other file as it was.
func Copy(from, to string) (Status, error) {
	db, err := Open(from)
	if err != nil {
		return Status{}, err
	}
	defer db.Close()
	if err := db.Verify(); err != nil {
		return Status{}, fmt.Errorf("%s: %w", from, err)
	}
	return db.Status(), atomicfile.WriteFile(to, db.file, 0o644)
}
