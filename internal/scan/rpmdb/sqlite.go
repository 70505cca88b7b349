package rpmdb

import (
	"encoding/binary"
	"fmt"
	"io"
)

const sqliteMagic = "SQLite format 3\x00"

// sqlite reads tables of a database file, nothing else of SQL. Source:
// https://www.sqlite.org/fileformat2.html, the sections named below.
type sqlite struct {
	r      io.ReaderAt
	size   int64
	page   int64 // size of a page
	usable int64
	seen   []bool // pages that were read, by number: a tree has each once
}

// Kinds of pages of a table ("B-tree Pages").
const (
	pageInterior = 0x05
	pageLeaf     = 0x0d
	maxLevels    = 20
)

func readSQLite(r io.ReaderAt, size int64, blob func([]byte) error) error {
	head, err := section(r, size, 0, 100) // "The Database Header"
	if err != nil {
		return err
	}
	page := int64(binary.BigEndian.Uint16(head[16:]))
	if page == 1 {
		page = 65536
	}
	if page < 512 || page&(page-1) != 0 || page-int64(head[20]) < 480 {
		return fmt.Errorf("%w: pages of %d bytes", ErrBroken, page)
	}
	s := &sqlite{r: r, size: size, page: page, usable: page - int64(head[20])}
	if size/page > maxPages {
		return fmt.Errorf("%w: it has more than %d pages", ErrBroken, maxPages)
	}
	s.seen = make([]bool, size/page+1)
	root := int64(0)
	err = s.walk(1, 0, func(b []byte) error { // "The Schema Table": type, name, tbl_name, rootpage, sql
		cols, err := record(b, 4)
		if err == nil && string(cols[0].bytes) == "table" && string(cols[1].bytes) == "Packages" {
			root = cols[3].number
		}
		return err
	})
	if err != nil {
		return err
	}
	if root < 2 {
		return fmt.Errorf("%w: it has no table Packages", ErrBroken)
	}
	return s.walk(root, 0, func(b []byte) error { // hnum, which is the row's number, and blob
		cols, err := record(b, 2)
		if err != nil {
			return err
		}
		return blob(cols[1].bytes)
	})
}

// read returns a page, numbered from 1.
func (s *sqlite) read(n int64) ([]byte, error) {
	if n < 1 || n >= int64(len(s.seen)) {
		return nil, fmt.Errorf("%w: page %d of %d", ErrBroken, n, len(s.seen)-1)
	}
	if s.seen[n] {
		return nil, fmt.Errorf("%w: page %d is in it twice", ErrBroken, n)
	}
	s.seen[n] = true
	return section(s.r, s.size, (n-1)*s.page, s.page)
}

// walk calls fn with the record of each row of the table whose root is page n.
func (s *sqlite) walk(n int64, level int, fn func([]byte) error) error {
	if level > maxLevels {
		return fmt.Errorf("%w: a table of more than %d levels", ErrBroken, maxLevels)
	}
	p, err := s.read(n)
	if err != nil {
		return err
	}
	head := 0
	if n == 1 {
		head = 100
	}
	kind, cells, first := p[head], int(binary.BigEndian.Uint16(p[head+3:])), head+8
	if kind == pageInterior {
		first += 4
	}
	if kind != pageInterior && kind != pageLeaf || first+2*cells > len(p) {
		return fmt.Errorf("%w: page %d is none of a table", ErrBroken, n)
	}
	for i := range cells {
		at := int(binary.BigEndian.Uint16(p[first+2*i:]))
		if at+4 > len(p) {
			return fmt.Errorf("%w: a cell at %d of page %d", ErrBroken, at, n)
		}
		if kind == pageInterior {
			err = s.walk(int64(binary.BigEndian.Uint32(p[at:])), level+1, fn)
		} else {
			err = s.cell(p[:s.usable], at, fn)
		}
		if err != nil {
			return err
		}
	}
	if kind == pageInterior {
		return s.walk(int64(binary.BigEndian.Uint32(p[head+8:])), level+1, fn)
	}
	return nil
}

// cell reads a row: its length, its number, and its record, the end of which may lie in a chain
// of other pages ("Cell Payload Overflow Pages").
func (s *sqlite) cell(p []byte, at int, fn func([]byte) error) error {
	if at > len(p) {
		return fmt.Errorf("%w: a cell at %d", ErrBroken, at)
	}
	length, k := varint(p[at:])
	_, k2 := varint(p[min(at+k, len(p)):])
	at += k + k2
	if k == 0 || k2 == 0 || length < 0 || length > maxBlob || length > s.size {
		return fmt.Errorf("%w: a row of %d bytes", ErrBroken, length)
	}
	local := length
	if most := s.usable - 35; length > most {
		least := (s.usable-12)*32/255 - 23
		if local = least + (length-least)%(s.usable-4); local > most {
			local = least
		}
	}
	need := local
	if local < length {
		need += 4
	}
	if int64(at)+need > int64(len(p)) {
		return fmt.Errorf("%w: a row of %d bytes at %d of its page", ErrBroken, local, at)
	}
	if local == length {
		return fn(p[at : int64(at)+local])
	}
	b := make([]byte, 0, length)
	b = append(b, p[at:int64(at)+local]...)
	next := binary.BigEndian.Uint32(p[int64(at)+local:])
	for int64(len(b)) < length {
		more, err := s.read(int64(next))
		if err != nil {
			return err
		}
		next = binary.BigEndian.Uint32(more)
		b = append(b, more[4:4+min(s.usable-4, length-int64(len(b)))]...)
	}
	return fn(b)
}

// column is a value: a number, or bytes.
type column struct {
	number int64
	bytes  []byte
}

// record reads the first n columns ("Record Format").
func record(b []byte, n int) ([]column, error) {
	size, at := varint(b)
	if at == 0 || size < int64(at) || size > int64(len(b)) {
		return nil, fmt.Errorf("%w: a record's head of %d bytes in %d", ErrBroken, size, len(b))
	}
	kinds, body := b[at:size], b[size:]
	out := make([]column, 0, n)
	for range n {
		kind, k := varint(kinds)
		if k == 0 || kind < 0 {
			return nil, fmt.Errorf("%w: a record of %d columns, want %d", ErrBroken, len(out), n)
		}
		kinds = kinds[k:]
		length := kind
		switch {
		case kind >= 12:
			length = (kind - 12) / 2
		case kind >= 8:
			length = 0
		case kind == 5:
			length = 6
		case kind >= 6:
			length = 8
		}
		if length > int64(len(body)) {
			return nil, fmt.Errorf("%w: a column of %d bytes", ErrBroken, length)
		}
		c := column{bytes: body[:length]}
		if kind == 9 {
			c.number = 1
		}
		if kind < 8 {
			for _, x := range c.bytes {
				c.number = c.number<<8 | int64(x)
			}
			c.bytes = nil
		}
		out, body = append(out, c), body[length:]
	}
	return out, nil
}

// varint reads a number of up to nine bytes ("Varint"); n is 0 if it is cut off.
func varint(b []byte) (v int64, n int) {
	for i := range min(len(b), 9) {
		if i == 8 {
			return v<<8 | int64(b[i]), 9
		}
		v = v<<7 | int64(b[i]&0x7f)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}
