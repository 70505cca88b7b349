// Package pagecache takes files that were read once out of the kernel's page cache again. It owns nothing and
// keeps nothing. Row: vocabulary.
package pagecache

import (
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// dontNeed is POSIX_FADV_DONTNEED. Source: posix_fadvise(2).
const dontNeed = 4

// Behind returns what is to be called when f has been read: it takes the file's pages
// out of the page cache if none was there before, so that a scan does not push out what
// the host's workloads use. It is no more than a hint; no error of it matters.
func Behind(f *os.File, size int64) func() {
	if f == nil || size <= 0 || Has(f, size) {
		return func() {}
	}
	drop := func() { syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0) }
	return func() {
		drop()
		if size > aheadSize { // what the kernel is still reading ahead goes once it is there
			time.Sleep(aheadTime)
			drop()
		}
	}
}

// Of smaller files little is read ahead.
const (
	aheadSize = 512 << 10
	aheadTime = 2 * time.Millisecond
)

// Reader is a file that leaves the page cache, as [Behind] says, when it is closed.
func Reader(f *os.File, size int64) io.ReadCloser { return reader{f, Behind(f, size)} }

type reader struct {
	*os.File
	drop func()
}

func (r reader) Close() error {
	r.drop()
	return r.File.Close()
}

// cacheStep is how much of a file is asked for at once: a byte for each page of it. At most
// maxCacheSteps are asked for, evenly over the file: a sparse one may be of any size.
const (
	cacheStep     = 64 << 20
	maxCacheSteps = 64
)

// Has reports whether any page of a file is in the page cache, as far as mincore(2)
// tells: of files that the caller neither owns nor may write it says that all are, and
// they are left alone then.
func Has(f *os.File, size int64) bool {
	page := int64(os.Getpagesize())
	vec := make([]byte, (min(size, cacheStep)+page-1)/page)
	stride := cacheStride(size, page)
	for at := int64(0); at < size && at >= 0; at += stride {
		n := min(size-at, cacheStep)
		if resident(f, at, n, vec) {
			return true
		}
	}
	return false
}

func cacheStride(size, page int64) int64 { return max(cacheStep, (size/maxCacheSteps+page)/page*page) }

func resident(f *os.File, at, n int64, vec []byte) bool {
	m, err := syscall.Mmap(int(f.Fd()), at, int(n), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return true
	}
	defer syscall.Munmap(m)
	if err := mincore(m, vec); err != nil {
		return true
	}
	page := int64(os.Getpagesize())
	for _, b := range vec[:(n+page-1)/page] {
		if b&1 != 0 {
			return true
		}
	}
	return false
}

// mincore tells in vec which pages of a mapping are in memory: bit 0 of one byte a page.
// Source: mincore(2).
func mincore(m, vec []byte) error {
	if len(m) == 0 || len(vec) == 0 {
		return syscall.EINVAL
	}
	if _, _, e := syscall.Syscall(syscall.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&vec[0]))); e != 0 {
		return e
	}
	return nil
}
