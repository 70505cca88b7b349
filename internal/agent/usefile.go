package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/scan/inuse"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// What containers of an image used is kept in one file for each image, so that it is known
// when the next container is to start, after a restart of the agent too.
const (
	useSuffix  = ".use.json"
	maxUseFile = 4 << 20
	// How long a file is kept as it is if no other package is in use than before: while
	// containers run, and when one has ended.
	useFileEvery = time.Hour
	useFileEnded = time.Minute
)

var useImage = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// useFile is the file's content.
type useFile struct {
	Image string       `json:"image"`
	Facts *inuse.Facts `json:"facts"`
}

func (u *uses) file(image string) string {
	return filepath.Join(u.dir, strings.TrimPrefix(image, "sha256:")+useSuffix)
}

// recall reads what was kept. A file that cannot be read is removed and counted: what it told
// is unknown then.
func (u *uses) recall() {
	entries, err := os.ReadDir(u.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		u.unreadable(u.dir, err)
		return
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), useSuffix)
		image := "sha256:" + name
		if !ok || !useImage.MatchString(image) {
			continue
		}
		f, err := readUse(u.file(image), image)
		if err != nil || len(u.past) >= maxUsePast {
			if err != nil {
				u.unreadable(u.file(image), err)
			}
			_ = os.Remove(u.file(image))
			continue
		}
		u.past[image] = f
	}
}

func (u *uses) unreadable(file string, err error) {
	u.a.health.Counter("use_unreadable").Add(1)
	u.a.log.Warn("which packages were in use is not known any more", attr.File, file, attr.Error, err.Error())
}

func readUse(file, image string) (*inuse.Facts, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := inventory.ReadAll(f, maxUseFile)
	if err != nil {
		return nil, err
	}
	var uf useFile
	if err := json.Unmarshal(b, &uf); err != nil {
		return nil, err
	}
	if uf.Image != image || uf.Facts == nil {
		return nil, fmt.Errorf("it is of %.80q", uf.Image)
	}
	return uf.Facts, uf.Facts.Check()
}

// write keeps what is known of an image, if it is time or another package is in use. Only
// run's goroutine calls it, without u.mu.
func (u *uses) write(image string, now time.Time, every time.Duration) {
	f := u.facts(image)
	if u.dir == "" || f == nil || !useImage.MatchString(image) {
		return
	}
	was := u.written[image]
	if was.used == len(f.Used) && now.Sub(was.at) < every {
		return
	}
	b, err := json.Marshal(useFile{image, f})
	if err == nil && len(b) > maxUseFile {
		err = inventory.ErrTooLarge
	}
	if err == nil {
		err = os.MkdirAll(u.dir, 0o700)
	}
	if err == nil {
		err = atomicfile.WriteFile(u.file(image), b, 0o600)
	}
	if len(u.written) > 2*maxUsePast {
		clear(u.written)
	}
	u.written[image] = writtenUse{now, len(f.Used)} // one that cannot be written is not tried at every look
	if err != nil {
		u.a.health.Counter("use_unwritten").Add(1)
		u.a.log.Warn("which packages are in use is not kept over a restart", attr.Error, err.Error())
	}
}

// writtenUse is when a file was written, and how many packages were in use then.
type writtenUse struct {
	at   time.Time
	used int
}
