// Package layercache keeps what layers of images hold, as the sandboxed scanner has written
// it, so that a layer which many images share is read once.
//
// It owns its folder: one file a layer, named by the digest of the layer's bytes. It never
// looks into what it keeps: that is bytes of a process which has read hostile ones, and goes
// back into the sandbox as it came. What is damaged, or was written by another version of
// the scanner, is as good as not there, and counted. Row: adapter.
package layercache

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// DefaultMaxBytes is how much a cache holds of who names nothing else: what a layer holds is
// some hundred KiB, of a large one some MiB.
const DefaultMaxBytes = 512 << 20

// A file is a line with the format, the version of the scanner and the SHA-256 of the rest,
// and the rest.
const (
	magic  = "belay-layer 1 "
	suffix = ".layer"
	// maxFile bounds a file that is read.
	maxFile = inventory.MaxLayerBytes + 1024
	// strayAfter is when a file that was never put in its place is taken away.
	strayAfter = time.Hour
)

// ErrFolder says that a folder may not be used: others could write to it.
var ErrFolder = errors.New("others than its owner may write to the folder of the layer cache, or it is another user's: what is in it decides what scans find")

// Cache is one folder. Safe for concurrent use, by several processes too.
type Cache struct {
	dir string
	max int64

	mu sync.Mutex // one eviction at a time

	hits, misses, damaged, otherVersion, stored, evicted, failed atomic.Int64
}

// Counts is what became of questions to a cache since it was opened.
type Counts struct {
	Hits    int64 `json:"hits"`
	Misses  int64 `json:"misses"`  // not there, whatever the reason
	Damaged int64 `json:"damaged"` // of the misses: there, and not used
	// OtherVersion are those of the misses that another version of the scanner has written.
	OtherVersion int64 `json:"otherVersion"`
	Stored       int64 `json:"stored"`
	Evicted      int64 `json:"evicted"`
	Failed       int64 `json:"failed"` // could not be stored
}

// Status is what a cache holds.
type Status struct {
	Dir      string    `json:"dir"`
	Layers   int       `json:"layers"`
	Bytes    int64     `json:"bytes"`
	MaxBytes int64     `json:"maxBytes"`
	Oldest   time.Time `json:"oldest,omitzero"` // last use of what was not used for longest
}

// Open opens the cache in a folder, and makes that if it is not there. maxBytes is how much
// it may hold; 0 is [DefaultMaxBytes].
//
// Errors: [ErrFolder]; those of the folder.
func Open(dir string, maxBytes int64) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the layer cache: %w", err)
	}
	return OpenThere(dir, maxBytes)
}

// OpenThere is [Open] for a cache that is only looked at: its folder is not made.
func OpenThere(dir string, maxBytes int64) (*Cache, error) {
	st, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("folder of the layer cache: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !st.IsDir() || !ok || int(sys.Uid) != os.Geteuid() || st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s: %w; name another with --cache-dir, or scan with --no-cache", dir, ErrFolder)
	}
	return &Cache{dir: dir, max: cmp.Or(maxBytes, DefaultMaxBytes)}, nil
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (c *Cache) path(digest string) string {
	return filepath.Join(c.dir, strings.TrimPrefix(digest, "sha256:")+suffix)
}

// Get returns what the layer with a digest holds, if that version of the scanner wrote it.
func (c *Cache) Get(version, digest string) ([]byte, bool) {
	b, err := c.read(version, digest)
	switch {
	case err == nil:
		c.hits.Add(1)
		now := time.Now()
		os.Chtimes(c.path(digest), now, now) // the last use, for eviction; no more than a hint
		return b, true
	case errors.Is(err, errOtherVersion):
		c.otherVersion.Add(1)
	case !errors.Is(err, fs.ErrNotExist):
		c.damaged.Add(1)
	}
	c.misses.Add(1)
	return nil, false
}

var (
	errDamaged      = errors.New("it is damaged")
	errOtherVersion = errors.New("another version of the scanner wrote it")
)

func (c *Cache) read(version, digest string) ([]byte, error) {
	if !digestForm.MatchString(digest) {
		return nil, errDamaged
	}
	f, err := os.OpenFile(c.path(digest), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errDamaged
	}
	all, err := inventory.ReadAll(f, maxFile)
	if err != nil {
		return nil, errors.Join(errDamaged, err)
	}
	first, rest, _ := bytes.Cut(all, []byte("\n"))
	words := strings.Fields(strings.TrimPrefix(string(first), magic))
	if !bytes.HasPrefix(first, []byte(magic)) || len(words) != 3 || words[1] != digest {
		return nil, errDamaged
	}
	if words[0] != version {
		return nil, errOtherVersion
	}
	if words[2] != sum(rest) {
		return nil, errDamaged
	}
	return rest, nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// Put keeps what the layer with a digest holds, and lets go of what was not used for longest
// where the cache would hold more than it may. What cannot be kept is counted: a scan goes on
// without.
func (c *Cache) Put(version, digest string, b []byte) {
	if !digestForm.MatchString(digest) || len(b) == 0 || len(b) > inventory.MaxLayerBytes || int64(len(b)) > c.max {
		c.failed.Add(1)
		return
	}
	head := fmt.Sprintf("%s%s %s %s\n", magic, version, digest, sum(b))
	// After a loss of power a file may be short, which its checksum tells.
	if err := atomicfile.WriteFileUnsynced(c.path(digest), append([]byte(head), b...), 0o600); err != nil {
		c.failed.Add(1)
		return
	}
	c.stored.Add(1)
	c.evict()
}

// entry is one file of the folder.
type entry struct {
	name string
	size int64
	used time.Time
}

// entries lists what is kept, by the last use, and strays that were never put in place.
func (c *Cache) entries() (kept, strays []entry, err error) {
	list, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range list {
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		e := entry{d.Name(), info.Size(), info.ModTime()}
		switch hexDigits, ok := strings.CutSuffix(e.name, suffix); {
		case ok && digestForm.MatchString("sha256:"+hexDigits):
			kept = append(kept, e)
		case strings.HasPrefix(e.name, ".") && strings.Contains(e.name, suffix+".tmp-"):
			strays = append(strays, e)
		}
	}
	slices.SortFunc(kept, func(a, b entry) int { return a.used.Compare(b.used) })
	return kept, strays, nil
}

func (c *Cache) evict() {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept, strays, err := c.entries()
	if err != nil {
		return
	}
	for _, e := range strays {
		if time.Since(e.used) > strayAfter {
			os.Remove(filepath.Join(c.dir, e.name))
		}
	}
	total := int64(0)
	for _, e := range kept {
		total += e.size
	}
	for _, e := range kept {
		if total <= c.max {
			return
		}
		if os.Remove(filepath.Join(c.dir, e.name)) == nil {
			c.evicted.Add(1)
		}
		total -= e.size
	}
}

// Status tells what the folder holds.
func (c *Cache) Status() (Status, error) {
	kept, _, err := c.entries()
	s := Status{Dir: c.dir, Layers: len(kept), MaxBytes: c.max}
	for _, e := range kept {
		s.Bytes += e.size
	}
	if len(kept) > 0 {
		s.Oldest = kept[0].used.UTC()
	}
	return s, err
}

// Clear removes all layers, and nothing else that may be in the folder.
func (c *Cache) Clear() (layers int, err error) {
	kept, strays, err := c.entries()
	if err != nil {
		return 0, err
	}
	for i, e := range append(kept, strays...) {
		rerr := os.Remove(filepath.Join(c.dir, e.name))
		if rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		} else if i < len(kept) {
			layers++
		}
	}
	return layers, err
}

// Counts returns what became of questions since the cache was opened.
func (c *Cache) Counts() Counts {
	return Counts{c.hits.Load(), c.misses.Load(), c.damaged.Load(), c.otherVersion.Load(), c.stored.Load(), c.evicted.Load(), c.failed.Load()}
}
