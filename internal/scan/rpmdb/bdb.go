package rpmdb

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Berkeley DB is what rpm used before: a hash, of which each value is a header. Pages are walked in
// the order of the file, so that neither buckets nor keys matter; values longer than a quarter of a
// page are in chains of overflow pages. Numbers are in the order of bytes of the host that made it.
// Source: Berkeley DB 5.3, src/dbinc/db_page.h.
const (
	bdbHashMagic    = 0x061561
	bdbMeta         = 512 // bytes of the first page that are told apart
	bdbPageHead     = 26
	bdbPageUnsorted = 2
	bdbPageOverflow = 7
	bdbPageHashMeta = 8
	bdbPageHash     = 13
	bdbItemData     = 1
	bdbItemOffpage  = 3
	bdbOffpage      = 12 // bytes of an item that names a chain
)

type berkeley struct {
	r     io.ReaderAt
	size  int64
	order binary.ByteOrder
	page  int64 // bytes of one
	pages uint32
	// used bounds the pages of all chains: none may be in two.
	used uint32
}

// openBerkeley reads the first page. Errors: [ErrBerkeley] for a tree, which rpm never made;
// [ErrBroken].
func openBerkeley(r io.ReaderAt, size int64) (d *berkeley, err error) {
	b, err := section(r, size, 0, bdbMeta)
	if err != nil {
		return nil, err
	}
	d = &berkeley{r: r, size: size, order: binary.LittleEndian}
	if d.order.Uint32(b[12:]) != bdbHashMagic {
		d.order = binary.BigEndian
	}
	if d.order.Uint32(b[12:]) != bdbHashMagic || b[25] != bdbPageHashMeta {
		return nil, ErrBerkeley
	}
	if b[24] != 0 {
		return nil, fmt.Errorf("%w: it is encrypted", ErrBroken)
	}
	d.page = int64(d.order.Uint32(b[20:]))
	// db_page.h, "DB_MIN_PGSIZE", "DB_MAX_PGSIZE".
	if d.page < 512 || d.page > 64<<10 || d.page&(d.page-1) != 0 {
		return nil, fmt.Errorf("%w: its pages have %d bytes", ErrBroken, d.page)
	}
	n := size / d.page
	if n > maxPages {
		return nil, fmt.Errorf("%w: it has more than %d pages", ErrBroken, maxPages)
	}
	if last := int64(d.order.Uint32(b[32:])); last >= n {
		return nil, fmt.Errorf("%w: it is cut off: %d pages of %d", ErrBroken, n, last+1)
	}
	d.pages = uint32(n)
	return d, nil
}

func readBerkeley(r io.ReaderAt, size int64, blob func([]byte) error) error {
	d, err := openBerkeley(r, size)
	if err != nil {
		return err
	}
	page := make([]byte, d.page)
	for n := uint32(1); n < d.pages; n++ {
		if _, err := r.ReadAt(page, int64(n)*d.page); err != nil {
			return err
		}
		if kind := page[25]; kind != bdbPageHash && kind != bdbPageUnsorted {
			continue
		}
		if err := d.hash(page, blob); err != nil {
			return err
		}
	}
	return nil
}

// hash reads one page of pairs: offsets of items follow its head, items are from its end downward,
// each up to where the one before it begins.
func (d *berkeley) hash(page []byte, blob func([]byte) error) error {
	items := int(d.order.Uint16(page[20:]))
	if bdbPageHead+2*items > len(page) || items%2 != 0 {
		return fmt.Errorf("%w: a page of %d keys and values", ErrBroken, items)
	}
	at := func(i int) int {
		if i < 0 {
			return len(page)
		}
		return int(d.order.Uint16(page[bdbPageHead+2*i:]))
	}
	for i := 1; i < items; i += 2 {
		from, to := at(i), at(i-1)
		if from < bdbPageHead+2*items || from >= to || to > len(page) {
			return fmt.Errorf("%w: a value at %d to %d of a page", ErrBroken, from, to)
		}
		key, value := page[to:max(min(at(i-2), len(page)), to)], page[from:to]
		if isCounter(key) {
			continue
		}
		switch value[0] {
		case bdbItemData:
			if err := blob(append([]byte(nil), value[1:]...)); err != nil {
				return err
			}
		case bdbItemOffpage:
			if len(value) < bdbOffpage {
				return fmt.Errorf("%w: a value of %d bytes that is elsewhere", ErrBroken, len(value))
			}
			b, err := d.chain(d.order.Uint32(value[4:]), d.order.Uint32(value[8:]))
			if err != nil {
				return err
			}
			if err := blob(b); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: a value of kind %d", ErrBroken, value[0])
		}
	}
	return nil
}

// isCounter reports whether a key is that under which rpm keeps the number of the next package: 0.
func isCounter(key []byte) bool {
	return len(key) == 5 && key[0] == bdbItemData && string(key[1:]) == "\x00\x00\x00\x00"
}

// chain reads a value of n bytes from overflow pages.
func (d *berkeley) chain(at, n uint32) ([]byte, error) {
	if n > maxBlob || int64(n) > d.size {
		return nil, fmt.Errorf("%w: a value of %d bytes", ErrBroken, n)
	}
	out := make([]byte, 0, n)
	page := make([]byte, d.page)
	for at != 0 {
		if d.used++; at >= d.pages || d.used >= d.pages {
			return nil, fmt.Errorf("%w: page %d of %d is not there or is used twice", ErrBroken, at, d.pages)
		}
		if _, err := d.r.ReadAt(page, int64(at)*d.page); err != nil {
			return nil, err
		}
		have := int64(d.order.Uint16(page[22:]))
		if page[25] != bdbPageOverflow || bdbPageHead+have > d.page || int64(len(out))+have > int64(n) {
			return nil, fmt.Errorf("%w: page %d is not the rest of a value", ErrBroken, at)
		}
		out = append(out, page[bdbPageHead:bdbPageHead+have]...)
		at = d.order.Uint32(page[16:])
	}
	if len(out) != int(n) {
		return nil, fmt.Errorf("%w: a value of %d bytes, want %d", ErrBroken, len(out), n)
	}
	return out, nil
}
