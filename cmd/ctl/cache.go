package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/belay-project/belay/internal/scan/layercache"
	"github.com/belay-project/belay/internal/scan/target"
)

// rootLayers is the folder of the layer cache of root, whatever its environment says: that
// may be another user's.
const rootLayers = "/var/cache/belay/layers"

// cacheFlags say where what layers hold is kept.
type cacheFlags struct {
	off bool
	dir string
	mib int64

	layers *lazyLayers // once opened
}

func (f *cacheFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.dir, "cache-dir", "", "`folder` where what layers hold is kept (default: /var/cache/belay/layers for root, else belay/layers in the user's cache)")
	fl.Int64Var(&f.mib, "cache-size", layercache.DefaultMaxBytes>>20, "how many `MiB` it may have; what was not used for longest goes first")
}

func (f *cacheFlags) check() error {
	if f.mib < 1 || f.mib > 1<<20 {
		return badUsage("--cache-size %d: want at least 1 MiB", f.mib)
	}
	return nil
}

// folder returns the folder, and whether somebody named it.
func (f *cacheFlags) folder(t *terminal) (dir string, named bool, err error) {
	switch {
	case f.dir != "":
		return f.dir, true, nil
	case t.layers != "":
		return t.layers, false, nil
	case os.Geteuid() == 0:
		return rootLayers, false, nil
	}
	dir, err = os.UserCacheDir()
	return filepath.Join(dir, "belay", "layers"), false, err
}

// open gives a scan its cache. A folder that was named must be there; the default one is not
// looked at before it is needed, and without it a scan goes on.
//
// It is asked by one goroutine at a time, and told of when that has ended.
func (f *cacheFlags) open(t *terminal, o *target.Options) error {
	if f.off || f.layers != nil {
		return nil
	}
	if err := f.check(); err != nil {
		return err
	}
	dir, named, err := f.folder(t)
	l := &lazyLayers{dir: dir, maxBytes: f.mib << 20, err: err}
	if named {
		if l.once.Do(l.open); l.err != nil {
			return l.err
		}
	}
	f.layers, o.Cache = l, l
	return nil
}

// tell says, once, what is wrong with the cache.
func (f *cacheFlags) tell(t *terminal) {
	l := f.layers
	if l == nil || l.told || !l.wanted {
		return
	}
	switch {
	case l.err != nil:
		l.told = true
		fmt.Fprintf(t.err, "! what layers hold is not kept: %s\n", clean(l.err.Error()))
	case l.cache != nil && l.cache.Counts().Damaged+l.cache.Counts().Failed > 0:
		l.told = true
		n := l.cache.Counts()
		fmt.Fprintf(t.err, "! layer cache: %d damaged and not used, %d could not be kept\n", n.Damaged, n.Failed)
	}
}

// lazyLayers is a layer cache that is opened when it is asked for the first time. It
// implements target.Layers.
type lazyLayers struct {
	dir      string
	maxBytes int64
	wanted   bool // it was asked
	told     bool

	once  sync.Once
	cache *layercache.Cache
	err   error
}

func (l *lazyLayers) open() {
	if l.err == nil {
		l.cache, l.err = layercache.Open(l.dir, l.maxBytes)
	}
}

// Get implements target.Layers.
func (l *lazyLayers) Get(version, digest string) ([]byte, bool) {
	l.wanted = true
	if l.once.Do(l.open); l.cache == nil {
		return nil, false
	}
	return l.cache.Get(version, digest)
}

// Put implements target.Layers.
func (l *lazyLayers) Put(version, digest string, b []byte) {
	if l.once.Do(l.open); l.cache != nil {
		l.cache.Put(version, digest, b)
	}
}

func cacheCommand(t *terminal) *cobra.Command {
	return group("cache", "Look at what is kept of layers of images, or let go of it",
		`"belay scan" keeps what layers of registries, of containerd's store and of OCI layouts
hold, so that a layer which many images share is fetched and read once. It is no
secret, but it decides what scans find: let nobody else write to its folder.`,
		`  belay cache status
  belay cache clear`,
		cacheStatusCommand(t), cacheClearCommand(t))
}

// look opens the cache, and makes none: c is nil where no scan has made it yet.
func (f *cacheFlags) look(t *terminal) (c *layercache.Cache, dir string, err error) {
	if err := f.check(); err != nil {
		return nil, "", err
	}
	dir, _, err = f.folder(t)
	if err != nil {
		return nil, "", err
	}
	c, err = layercache.OpenThere(dir, f.mib<<20)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return c, dir, err
}

func cacheStatusCommand(t *terminal) *cobra.Command {
	f := &cacheFlags{}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how many layers are kept, and how large that is",
		Long: `status tells where what layers hold is kept, of how many, how much that is, and when
what was not used for longest was used.`,
		Example: `  belay cache status
  belay cache status --cache-dir ./layers -o json`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			c, dir, err := f.look(t)
			s := layercache.Status{Dir: dir, MaxBytes: f.mib << 20}
			if c != nil {
				s, err = c.Status()
			}
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(s)
			}
			fmt.Fprintf(t.out, "%s: %s, %s of at most %s\n", clean(s.Dir), count(s.Layers, "layer", "layers"), mebibytes(int(s.Bytes)), mebibytes(int(s.MaxBytes)))
			if s.Layers > 0 {
				fmt.Fprintf(t.out, "what was not used for longest was used %s\n", t.ago(s.Oldest))
			}
			return nil
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func cacheClearCommand(t *terminal) *cobra.Command {
	f := &cacheFlags{}
	cmd := &cobra.Command{
		Use:   "clear",
		Short: "Let go of all that is kept of layers",
		Long: `clear removes all that is kept of layers, and no other file of the folder. The next scan
reads its layers anew.`,
		Example: `  belay cache clear
  belay cache clear --cache-dir ./layers`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			c, _, err := f.look(t)
			n := 0
			if c != nil {
				n, err = c.Clear()
			}
			if t.output == formatJSON && err == nil {
				return t.writeJSON(map[string]int{"removed": n})
			}
			if err == nil {
				fmt.Fprintf(t.out, "%s removed\n", count(n, "layer", "layers"))
			}
			return err
		},
	}
	f.add(cmd.Flags())
	return cmd
}
