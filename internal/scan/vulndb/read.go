package vulndb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

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

func (c *cursor) share() float64 {
	n := int(c.byte()) | int(c.byte())<<8
	return math.Round(float64(n)/math.MaxUint16*1e4) / 1e4
}

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
