package ci

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// A scan is a record (ID.scan), and the report (ID.json) once it is done. The record is there
// before the scan is queued, and goes first.
const (
	recordSuffix  = ".scan"
	reportSuffix  = ".json"
	asideName     = "damaged"
	recordVersion = 1
	maxRecord     = 64 << 10
	maxAside      = 32 // files that were set aside
	maxShare      = 1024
)

// ended is why a scan has no verdict of which the agent ended first.
const ended = "the agent ended before the scan was over; fix: ask for it again"

var scanID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// record is what the disk has of a scan beside its report.
type record struct {
	Version int    `json:"version"`
	Share   string `json:"share"`
	Scan    Scan   `json:"scan"`
	Size    int64  `json:"size,omitempty"` // of the report, in bytes
	SHA256  string `json:"sha256,omitempty"`
}

var errFolder = errors.New("others than its owner may write to the folder of results, or it is another user's")

// openDir makes the folder of results, or refuses one in which others could have put a verdict.
func openDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("folder of results: %w", err)
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("folder of results: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !st.IsDir() || !ok || int(sys.Uid) != os.Geteuid() || st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: %w; fix: move it away, a new one is made", dir, errFolder)
	}
	return nil
}

// save writes the record of a scan. It is not waited for: what a loss of power takes is a
// verdict, and no verdict is no pass. s.mu is held, or nobody else has j yet.
func (s *Service) save(j *job) {
	b, err := json.Marshal(j.record())
	if err == nil {
		err = atomicfile.WriteFileUnsynced(s.recordFile(j.scan.ID), b, 0o600)
	}
	s.saved(err)
}

func (j *job) record() *record {
	return &record{Version: recordVersion, Share: j.share, Scan: j.scan, Size: j.size, SHA256: j.sum}
}

func (s *Service) saved(err error) {
	if err != nil {
		s.count("unsaved")
		s.o.Log.Error("a scan will not be known to the next agent", attr.Error, err.Error())
	}
}

func (s *Service) recordFile(id string) string { return filepath.Join(s.o.Dir, id+recordSuffix) }

// restore takes over the scans of an earlier agent. One that was not over has failed; a file
// that is none of a scan is set aside.
func (s *Service) restore() error {
	d, err := os.Open(s.o.Dir)
	if err != nil {
		return fmt.Errorf("folder of results: %w", err)
	}
	defer d.Close()
	var reports []string
	for {
		names, err := d.Readdirnames(256)
		for _, name := range names {
			switch base, isRecord := strings.CutSuffix(name, recordSuffix); {
			case name == asideName:
			case strings.HasPrefix(name, "."): // was never put in its place
				s.remove(name)
			case isRecord:
				s.takeOver(base)
			default:
				reports = append(reports, name)
			}
		}
		if len(s.jobs) > 2*(s.o.MaxKept+s.o.MaxQueue) {
			s.evict()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("folder of results: %w", err)
		}
	}
	s.evict()
	for _, name := range reports {
		id, ok := strings.CutSuffix(name, reportSuffix)
		switch {
		case !ok || !scanID.MatchString(id):
			s.aside(name, errors.New("it is no file of the scan API"))
		case s.jobs[id] == nil || s.jobs[id].sum == "":
			s.remove(name) // of a scan that was forgotten, or whose record does not know of it
		}
	}
	return nil
}

func (s *Service) remove(name string) {
	if err := os.RemoveAll(filepath.Join(s.o.Dir, name)); err != nil {
		s.o.Log.Warn("a file of a scan stays on the disk", attr.Error, err.Error())
	}
}

// takeOver takes one scan over.
func (s *Service) takeOver(id string) {
	j, err := s.readRecord(id)
	if err != nil {
		s.aside(id+recordSuffix, err)
		return
	}
	now, changed := s.o.Now().UTC(), false
	if j.scan.Webhook == hookPending {
		j.scan.Webhook, changed = hookFailed, true
	}
	if j.scan.Ended.After(now) { // the clock was wrong: it must not be kept for ever
		j.scan.Ended = now
	}
	switch {
	case !j.scan.Over():
		j.fail(ended)
		j.scan.Ended, changed = now, true
		s.count("interrupted")
	case j.scan.State == StateDone:
		if st, err := os.Lstat(s.file(id)); err != nil || !st.Mode().IsRegular() || st.Size() != j.size {
			s.aside(id+reportSuffix, errors.Join(errDamaged, err))
			j.fail(errDamaged.Error())
			changed = true
		}
	}
	if j.scan.State == StateFailed {
		j.size, j.sum = 0, ""
	}
	s.jobs[id] = j
	s.bytes += j.size
	if changed {
		s.save(j)
	}
}

// fail takes a verdict away.
func (j *job) fail(why string) {
	j.scan.State, j.scan.Verdict, j.scan.Counts, j.scan.Error = StateFailed, "", nil, short(why)
}

func (s *Service) readRecord(id string) (*job, error) {
	if !scanID.MatchString(id) {
		return nil, errors.New("it is named by no ID of a scan")
	}
	b, err := readRegular(s.recordFile(id), maxRecord)
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	c := &r.Scan
	ref, err := parseImage(c.Image)
	if err != nil {
		return nil, err
	}
	verdicts := []string{VerdictPass, VerdictFail, VerdictIncomplete}
	done := c.State == StateDone
	switch {
	case r.Version != recordVersion:
		return nil, fmt.Errorf("its version is %d, not %d", r.Version, recordVersion)
	case c.ID != id:
		return nil, errors.New("it is about another scan than its name")
	case c.Owner == "" || r.Share == "" || len(r.Share) > maxShare || c.Created.IsZero():
		return nil, errors.New("it does not say whose scan it is, or of when")
	case !slices.Contains([]string{StateQueued, StateRunning, StateDone, StateFailed}, c.State):
		return nil, fmt.Errorf("there is no state %.40q", c.State)
	case done != slices.Contains(verdicts, c.Verdict), !done && c.Verdict != "", done && (c.Counts == nil || c.Ended.IsZero()):
		return nil, errors.New("its verdict does not fit its state")
	case done && (r.Size <= 0 || r.Size > maxReport || len(r.SHA256) != sha256.Size*2):
		return nil, errors.New("it does not say what its report is")
	}
	c.Links = links(id)
	return &job{scan: *c, share: r.Share, ref: ref, size: r.Size, sum: r.SHA256, changed: make(chan struct{})}, nil
}

var errNoFile = errors.New("it is no regular file, or too large")

// readRegular reads a file, and waits for nothing that is none.
//
// Errors: [errNoFile], and those of the file.
func readRegular(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("%w: %w", errNoFile, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > most {
		return nil, errNoFile
	}
	return inventory.ReadAll(f, most)
}

// aside moves a file that cannot be used out of the way. The oldest of those go.
func (s *Service) aside(name string, why error) {
	dir := filepath.Join(s.o.Dir, asideName)
	to := filepath.Join(dir, name)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		_ = os.RemoveAll(to) // of an earlier time
		err = os.Rename(filepath.Join(s.o.Dir, name), to)
	}
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	s.count("damaged")
	s.o.Log.Warn("a file of a scan cannot be used and was set aside", "file", to, attr.Error, short(errors.Join(why, err).Error()))
	if err != nil {
		s.remove(name) // what cannot be moved must not be met again
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) <= maxAside {
		return
	}
	slices.SortFunc(list, func(a, b os.DirEntry) int { return modified(a).Compare(modified(b)) })
	for _, e := range list[:len(list)-maxAside] {
		_ = os.RemoveAll(filepath.Join(dir, e.Name()))
	}
}

func modified(e os.DirEntry) time.Time {
	st, err := e.Info()
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

func sumOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
