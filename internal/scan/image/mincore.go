package image

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mincore tells in vec which pages of a mapping are in memory: bit 0 of one byte a page.
// Source: mincore(2).
func mincore(m, vec []byte) error {
	if len(m) == 0 || len(vec) == 0 {
		return unix.EINVAL
	}
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&vec[0]))); e != 0 {
		return e
	}
	return nil
}
