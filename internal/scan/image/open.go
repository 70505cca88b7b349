package image

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// errNotRegular says that a name leads to no regular file.
var errNotRegular = errors.New("it is no regular file")

// openRegular opens a regular file of a directory for reading and tells what it is.
//
// A name may lead to something else between a look at it and its opening, and opening a
// device or a FIFO acts on it. So the name is taken hold of first with O_PATH, which opens
// nothing; what is held is looked at and, if it is a regular file, opened: the same inode,
// by /proc/self/fd. Landlock judges that as an opening of the file itself.
// want looks at the file before it is opened; false leaves it closed, and f is nil then.
//
// Errors: errNotRegular, those of openat(2).
func openRegular(dir int, base string, want func(*unix.Stat_t) bool) (f *os.File, st unix.Stat_t, err error) {
	held, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, err
	}
	defer unix.Close(held)
	if err := unix.Fstat(held, &st); err != nil {
		return nil, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, errNotRegular
	}
	if want != nil && !want(&st) {
		return nil, st, nil
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", held), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, err
	}
	return os.NewFile(uintptr(fd), base), st, nil
}

// dropBehind returns what is to be called when f has been read: it takes the file's pages
// out of the page cache if none was there before, so that a scan does not push out what
// the host's workloads use. It is no more than a hint; no error of it matters.
func dropBehind(f *os.File, size int64) func() {
	if f == nil || size <= 0 || cached(f, size) {
		return func() {}
	}
	return func() { unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }
}

// cacheStep is how much of a file is asked for at once: a byte for each page of it. At most
// maxCacheSteps are asked for, evenly over the file: a sparse one may be of any size.
const (
	cacheStep     = 64 << 20
	maxCacheSteps = 64
)

// cached reports whether any page of a file is in the page cache, as far as mincore(2)
// tells: of files that the caller neither owns nor may write it says that all are, and
// they are left alone then.
func cached(f *os.File, size int64) bool {
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
	m, err := unix.Mmap(int(f.Fd()), at, int(n), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return true
	}
	defer unix.Munmap(m)
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
