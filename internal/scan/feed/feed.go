// Package feed keeps a copy of a public bucket of OSV records, downloading only what
// changed.
//
// It owns the folder of that copy, which one process at a time may change. What it
// downloads is hostile until checked: sizes are bounded, names of records become names
// of files only if they can do no harm, an archive takes its place whole or not at all.
// It compiles nothing. Row: feature.
package feed

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// Bucket is the public bucket. Source: https://google.github.io/osv.dev/data/.
const Bucket = "https://storage.googleapis.com/osv-vulnerabilities"

// Bounds on downloads.
const (
	maxArchive = 4 << 30
	maxList    = 512 << 20
	maxRecord  = 32 << 20
	// maxSingle is how many changed records are fetched one by one; for more the
	// whole archive is.
	maxSingle = 500
	// lag is how much older than the records an archive may be.
	lag = 2 * time.Hour
)

// Options says what to keep a copy of. Dir, URL and Ecosystems are needed.
type Options struct {
	// Dir is the folder of the copy: Dir/osv has the bucket's layout.
	Dir string
	// URL has the layout of [Bucket].
	URL        string
	Ecosystems []string // such as Debian, Go: names of the bucket's folders
	// Extras are other files by their name in Dir/extra.
	Extras []Extra
	// Progress is told what is being done, in one line; nil for nobody.
	Progress func(line string)
	// Far is told, often, how far a download is; nil for nobody.
	Far func(Far)
	// Now is when the publisher is asked.
	Now time.Time
	// Retry is the pause before the second try, doubled for the third; 0 is a second.
	Retry time.Duration
}

// Far is how far a download is: of a file in bytes, or of records that come one by one.
type Far struct {
	What      string // an ecosystem, or the name of an extra file
	Done, All int64  // All is -1 where the server does not say it
	Records   bool
}

// Extra is a file that is downloaded as it is. Check says whether it is what it should
// be; it is not taken else.
type Extra struct {
	Name, URL string
	Check     func(path string) error
}

// Report tells what was downloaded.
type Report struct {
	Bytes    int64    `json:"bytes"`
	Archives int      `json:"archives"`
	Records  int      `json:"records"` // one by one
	Same     []string `json:"same,omitempty"`
	// Gone are records that the list has and the bucket has not; what was known of
	// them stays.
	Gone int `json:"gone,omitempty"`
}

// ErrBusy says that another process is updating the copy.
var ErrBusy = errors.New("another process is updating this copy")

// state is what is known of one ecosystem's copy.
type state struct {
	List   string    `json:"list"`   // ETag of modified_id.csv
	Cursor time.Time `json:"cursor"` // all changes up to here are in the copy
}

// Records is the folder of OSV records of a copy.
func Records(dir string) string { return filepath.Join(dir, "osv") }

// statePath is where the [state] of an ecosystem is.
func statePath(dir, eco string) string { return filepath.Join(dir, "state", eco+".json") }

// ExtraFile is the path of an extra file of a copy.
func ExtraFile(dir, name string) string { return filepath.Join(dir, "extra", name) }

var ecosystemName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._ -]{0,60}$`)

// recordName is what becomes a name of a file: no separators, no leading dot.
var recordName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,200}$`)

// Update brings the copy up to date. After an error it holds, for each ecosystem, what
// it held before or the new, and a further call goes on from there.
//
// Errors: [ErrBusy]; those of ctx, the network and the files.
func Update(ctx context.Context, o Options) (Report, error) {
	u := &update{Options: o, upTo: map[string]time.Time{}}
	base, err := url.Parse(o.URL)
	if err != nil || base.Host == "" {
		return u.rep, fmt.Errorf("%q is no address of a bucket: want https://HOST/PATH", o.URL)
	}
	if u.client, err = newClient(base); err != nil {
		return u.rep, err
	}
	for _, eco := range o.Ecosystems {
		if !ecosystemName.MatchString(eco) {
			return u.rep, fmt.Errorf("%q is no name of an ecosystem", eco)
		}
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return u.rep, err
	}
	unlock, err := Lock(o.Dir)
	if err != nil {
		return u.rep, err
	}
	defer unlock()
	for _, eco := range o.Ecosystems {
		u.what = eco
		if u.upTo[eco], err = u.ecosystem(ctx, eco); err != nil {
			return u.rep, fmt.Errorf("update %s: %w", eco, err)
		}
	}
	for _, x := range o.Extras {
		u.what = x.Name
		if err := u.extra(ctx, x); err != nil {
			return u.rep, fmt.Errorf("update %s: %w", x.Name, err)
		}
	}
	return u.rep, u.checked()
}

// checkedFile has, by ecosystem, up to when its copy lacks nothing: in most cases when its publisher was
// last asked.
const checkedFile = "checked.json"

// readChecked is empty if there is none or it is broken: then nothing was noted.
func readChecked(dir string) map[string]time.Time {
	out := map[string]time.Time{}
	b, err := os.ReadFile(filepath.Join(dir, checkedFile))
	if err != nil || json.Unmarshal(b, &out) != nil {
		return map[string]time.Time{}
	}
	return out
}

// checked notes up to when the ecosystems of o lack nothing.
func (u *update) checked() error {
	all := readChecked(u.Dir)
	for _, eco := range u.Ecosystems {
		all[eco] = u.upTo[eco].UTC().Truncate(time.Second)
	}
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(filepath.Join(u.Dir, checkedFile), b, 0o644)
}

// Checked returns up to when a copy lacks nothing, which is that of its oldest ecosystem, and which that is:
// zero if there is none. Where nobody noted it, the newest record tells that the copy is known to have, and
// without that it is 1970.
func Checked(dir string) (at time.Time, eco string) {
	all := readChecked(dir)
	archives, _ := filepath.Glob(filepath.Join(Records(dir), "*", "all.zip")) //nolint:errcheck // the pattern is well formed
	for _, path := range archives {
		name := filepath.Base(filepath.Dir(path))
		of := cmp.Or(all[name], readState(statePath(dir, name)).Cursor, time.Unix(0, 0).UTC())
		if eco == "" || of.Before(at) {
			at, eco = of, name
		}
	}
	return at.Truncate(time.Second), eco
}

// Lock keeps other processes from changing the copy in a folder, which there must be: who compiles it must see
// one state of it.
//
// Errors: [ErrBusy]; those of the file.
func Lock(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", path, ErrBusy)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// update is one run.
type update struct {
	Options
	client *client
	rep    Report
	what   string               // is being downloaded
	upTo   map[string]time.Time // by ecosystem: its copy lacks nothing that was published before
}

func (u *update) far(done, all int64, records bool) {
	if u.Far != nil {
		u.Far(Far{u.what, done, all, records})
	}
}

func (u *update) say(format string, args ...any) {
	if u.Progress != nil {
		u.Progress(fmt.Sprintf(format, args...))
	}
}

// address is that of a file of the bucket.
func (u *update) address(eco, name string) string {
	return strings.TrimSuffix(u.URL, "/") + "/" + url.PathEscape(eco) + "/" + url.PathEscape(name)
}

// ecosystem brings one ecosystem up to date, and returns up to when its copy lacks nothing: that is now,
// unless what the server has is an older archive.
func (u *update) ecosystem(ctx context.Context, eco string) (time.Time, error) {
	dir := filepath.Join(Records(u.Dir), eco)
	archive, known := filepath.Join(dir, "all.zip"), statePath(u.Dir, eco)
	for _, d := range []string{dir, filepath.Dir(known)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return time.Time{}, err
		}
	}
	st := readState(known)
	if _, err := os.Stat(archive); errors.Is(err, fs.ErrNotExist) {
		st = state{} // the copy is gone, whatever is said of it
	}
	var changed []string
	var newest time.Time
	meta, err := u.get(ctx, u.address(eco, "modified_id.csv"), st.List, func(r io.Reader) (err error) {
		changed, newest, err = changes(r, st.Cursor)
		return err
	})
	if errors.Is(err, errSame) {
		u.rep.Same = append(u.rep.Same, eco)
		return u.Now, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	next, upTo := state{List: meta.etag, Cursor: newest}, u.Now
	all := st.Cursor.IsZero() || len(changed) > maxSingle
	if !all {
		u.say("%s: %d changed", eco, len(changed))
		gone, err := u.records(ctx, eco, filepath.Join(dir, "changed"), changed)
		if err != nil {
			return time.Time{}, err
		}
		// A record that is gone was taken back. The list goes back to one that the copy has: if that is gone
		// too, with all, this is a mirror of archives alone.
		all = gone > 0 && gone == len(changed)
	}
	if all {
		u.say("%s: all records", eco)
		at, err := u.archive(ctx, eco, archive)
		if err != nil {
			return time.Time{}, err
		}
		if !at.IsZero() && at.Add(-lag).Before(newest) {
			// What changed since the archive was made comes the next time.
			next, upTo = state{Cursor: at.Add(-lag)}, at.Add(-lag)
			u.say("%s: there are changes since the archive was made, which the next update fetches", eco)
		}
		if err := os.RemoveAll(filepath.Join(dir, "changed")); err != nil {
			return time.Time{}, err
		}
	}
	b, err := json.Marshal(next)
	if err != nil {
		return time.Time{}, err
	}
	return upTo, atomicfile.WriteFile(known, b, 0o644)
}

// readState is empty if there is none or it is broken: then all is downloaded again.
func readState(path string) (st state) {
	f, err := os.Open(path)
	if err != nil {
		return state{}
	}
	defer f.Close()
	b, err := inventory.ReadAll(f, 1<<16)
	if err != nil || json.Unmarshal(b, &st) != nil {
		return state{}
	}
	return st
}

// changes reads a list of changes, the newest first, as far as those since the cursor
// go. One more than [maxSingle] is enough to know that it is too many.
func changes(r io.Reader, cursor time.Time) (ids []string, newest time.Time, err error) {
	s := bufio.NewScanner(r)
	for line := 1; s.Scan(); line++ {
		text, id, ok := strings.Cut(strings.TrimSpace(s.Text()), ",")
		if !ok && text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil || !recordName.MatchString(id) {
			return nil, newest, fmt.Errorf("line %d of the list of changes is no time and name: %.80q", line, s.Text())
		}
		if newest.IsZero() {
			newest = at
		}
		if at.Before(cursor) || len(ids) > maxSingle {
			return ids, newest, nil
		}
		ids = append(ids, id)
	}
	if s.Err() == nil && newest.IsZero() {
		return nil, newest, errors.New("the list of changes is empty")
	}
	return ids, newest, s.Err()
}

// archive downloads all records of an ecosystem and returns when they were put together.
func (u *update) archive(ctx context.Context, eco, path string) (time.Time, error) {
	at, err := u.file(ctx, u.address(eco, "all.zip"), path, "", checkArchive)
	if err == nil {
		u.rep.Archives++
	}
	return at.modified, err
}

// records downloads records one by one, and returns how many there are not.
func (u *update) records(ctx context.Context, eco, dir string, ids []string) (gone int, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	for i, id := range ids {
		u.far(int64(i), int64(len(ids)), true)
		var body []byte
		_, err := u.get(ctx, u.address(eco, id+".json"), "", func(r io.Reader) (err error) {
			body, err = inventory.ReadAll(r, maxRecord)
			if err == nil && !json.Valid(body) {
				err = errors.New("the record is no JSON")
			}
			return err
		})
		if status, ok := errors.AsType[*StatusError](err); ok && status.Code == 404 {
			gone++
			continue
		}
		if err != nil {
			return gone, fmt.Errorf("%s: %w", id, err)
		}
		if err := atomicfile.WriteFileUnsynced(filepath.Join(dir, id+".json"), body, 0o644); err != nil {
			return gone, err
		}
		u.rep.Records++
	}
	u.rep.Gone += gone
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = id + ".json"
	}
	return gone, atomicfile.Sync(dir, names)
}

// extra brings another file up to date.
func (u *update) extra(ctx context.Context, x Extra) error {
	path := ExtraFile(u.Dir, x.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tag := readState(path + ".state").List
	if _, err := os.Stat(path); err != nil {
		tag = ""
	}
	meta, err := u.file(ctx, x.URL, path, tag, x.Check)
	if errors.Is(err, errSame) {
		u.rep.Same = append(u.rep.Same, x.Name)
		return nil
	}
	if err != nil {
		return err
	}
	u.say("%s: new", x.Name)
	b, err := json.Marshal(state{List: meta.etag})
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(path+".state", b, 0o644)
}

// saveTag notes which version of a file a part of it is.
func saveTag(path, tag string) error {
	b, err := json.Marshal(state{List: tag})
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(path, b, 0o644)
}

// Changed returns when the copy was last changed; zero if there is none.
func Changed(dir string) (at time.Time) {
	for _, pattern := range []string{"state/*.json", "extra/*.state"} {
		paths, _ := filepath.Glob(filepath.Join(dir, pattern)) //nolint:errcheck // the patterns are well formed
		for _, p := range paths {
			if st, err := os.Stat(p); err == nil && st.ModTime().After(at) {
				at = st.ModTime()
			}
		}
	}
	return at
}

func checkArchive(path string) error {
	return osvdir.Check(path, vulndb.MaxRecords, vulndb.MaxBytes)
}
