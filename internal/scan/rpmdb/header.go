package rpmdb

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Tags and types of a header. Source: rpm, include/rpm/rpmtag.h.
const (
	tagName       = 1000
	tagVersion    = 1001
	tagRelease    = 1002
	tagEpoch      = 1003
	tagArch       = 1022
	tagSourceRPM  = 1044
	tagDirIndexes = 1116
	tagBaseNames  = 1117
	tagDirNames   = 1118

	typeInt32  = 4
	typeString = 6
	typeList   = 8
)

// Bounds on a header. Source: rpm, lib/header.c (headerMaxbytes, hdrchkTags).
const (
	maxTags  = 0xffff
	maxTexts = 1_000_000 // in a list: the largest packages have some 100,000 files
	maxData  = 0x0fffffff
	tagSize  = 16
	headSize = 8
)

// header is a header as a database has it: counts of tags and of bytes, tags, data; all numbers
// are big-endian. Source: rpm.org, "RPM V4 package format", "Header".
type header struct {
	tags map[uint32]tag
	data []byte
}

type tag struct{ kind, offset, count uint32 }

func parseHeader(b []byte) (Package, error) {
	h, err := newHeader(b)
	if err != nil {
		return Package{}, err
	}
	p := Package{
		Name: h.text(tagName), Version: h.text(tagVersion), Release: h.text(tagRelease), Arch: h.text(tagArch), SourceRPM: h.text(tagSourceRPM),
		Files: h.files,
	}
	if list := h.numbers(tagEpoch); len(list) == 1 {
		p.Epoch, p.HasEpoch = list[0], true
	}
	if p.Name == "" || p.Version == "" {
		return Package{}, fmt.Errorf("%w: a package without a name or a version", ErrBroken)
	}
	return p, nil
}

func newHeader(b []byte) (*header, error) {
	if len(b) < headSize {
		return nil, fmt.Errorf("%w: a header of %d bytes", ErrBroken, len(b))
	}
	tags, size := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if tags > maxTags || size > maxData || headSize+int64(tags)*tagSize+int64(size) > int64(len(b)) {
		return nil, fmt.Errorf("%w: a header of %d tags and %d bytes in %d", ErrBroken, tags, size, len(b))
	}
	h := &header{tags: map[uint32]tag{}}
	for i := range int(tags) {
		e := b[headSize+i*tagSize:]
		name := binary.BigEndian.Uint32(e)
		switch name {
		case tagName, tagVersion, tagRelease, tagEpoch, tagArch, tagSourceRPM, tagDirIndexes, tagBaseNames, tagDirNames:
			h.tags[name] = tag{binary.BigEndian.Uint32(e[4:]), binary.BigEndian.Uint32(e[8:]), binary.BigEndian.Uint32(e[12:])}
		}
	}
	h.data = b[headSize+int(tags)*tagSize:][:size]
	return h, nil
}

// at returns the data of a tag to their end, nil if there is none of that type.
func (h *header) at(name, kind uint32) ([]byte, uint32) {
	t, ok := h.tags[name]
	if !ok || t.kind != kind || int64(t.offset) > int64(len(h.data)) {
		return nil, 0
	}
	return h.data[t.offset:], t.count
}

func (h *header) text(name uint32) string {
	b, _ := h.at(name, typeString)
	s, _, ok := bytes.Cut(b, []byte{0})
	if !ok {
		return ""
	}
	return string(s)
}

func (h *header) numbers(name uint32) []uint32 {
	b, n := h.at(name, typeInt32)
	if int64(n)*4 > int64(len(b)) || n > maxTexts {
		return nil
	}
	out := make([]uint32, n)
	for i := range out {
		out[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return out
}

// texts returns the texts of a list, which are slices of the header.
func (h *header) texts(name uint32) [][]byte {
	b, n := h.at(name, typeList)
	if int64(n) > int64(len(b)) || n > maxTexts {
		return nil
	}
	out := make([][]byte, 0, n)
	for range n {
		s, rest, ok := bytes.Cut(b, []byte{0})
		if !ok {
			return nil
		}
		out, b = append(out, s), rest
	}
	return out
}

// files calls fn with each path: a name, and the number of its directory.
func (h *header) files(fn func(string)) {
	dirs, at := h.texts(tagDirNames), h.numbers(tagDirIndexes)
	names := h.texts(tagBaseNames)
	if len(names) != len(at) {
		return
	}
	for i, name := range names {
		if int64(at[i]) < int64(len(dirs)) {
			fn(string(dirs[at[i]]) + string(name))
		}
	}
}
