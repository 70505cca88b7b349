package rpmdb

import (
	"encoding/binary"
	"fmt"
	"io"
)

// ndb is rpm's own format: pages of slots, each of which names a blob. Numbers are
// little-endian. Source: rpm, lib/backend/ndb/rpmpkg.c.
const (
	ndbMagic    = "RpmP"
	ndbSlot     = "Slot"
	ndbBlob     = "BlbS"
	ndbPage     = 4096
	ndbUnit     = 16 // of slots, of offsets and of heads of blobs
	ndbFirst    = 32 // where slots begin
	ndbMaxPages = 2048
)

func readNDB(r io.ReaderAt, size int64, blob func([]byte) error) error {
	head, err := section(r, size, 0, ndbFirst)
	if err != nil {
		return err
	}
	pages := binary.LittleEndian.Uint32(head[12:])
	if version := binary.LittleEndian.Uint32(head[4:]); version != 0 || pages == 0 || pages > ndbMaxPages {
		return fmt.Errorf("%w: version %d with %d pages of slots", ErrBroken, version, pages)
	}
	slots, err := section(r, size, 0, int64(pages)*ndbPage)
	if err != nil {
		return err
	}
	total := int64(0)
	for at := ndbFirst; at+ndbUnit <= len(slots); at += ndbUnit {
		slot := slots[at : at+ndbUnit]
		index, offset := binary.LittleEndian.Uint32(slot[4:]), binary.LittleEndian.Uint32(slot[8:])
		if string(slot[:4]) != ndbSlot {
			return fmt.Errorf("%w: no slot at %d", ErrBroken, at)
		}
		if index == 0 || offset == 0 {
			continue // free
		}
		h, err := section(r, size, int64(offset)*ndbUnit, ndbUnit)
		if err != nil {
			return err
		}
		length := binary.LittleEndian.Uint32(h[12:])
		if string(h[:4]) != ndbBlob || binary.LittleEndian.Uint32(h[4:]) != index {
			return fmt.Errorf("%w: no blob of package %d at %d", ErrBroken, index, int64(offset)*ndbUnit)
		}
		if total += int64(length); total > size {
			return fmt.Errorf("%w: its blobs lie over each other", ErrBroken)
		}
		b, err := section(r, size, (int64(offset)+1)*ndbUnit, int64(length))
		if err != nil {
			return err
		}
		if err := blob(b); err != nil {
			return err
		}
	}
	return nil
}
