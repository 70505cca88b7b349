package authz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/attr"
)

const (
	// maxBreakGlass bounds how long one breaking lasts. Touching the file begins another,
	// which is recorded like the first.
	maxBreakGlass = time.Hour
	maxReason     = 1024
	glassCheck    = 2 * time.Second
)

var (
	errNotBroken = errors.New("there is no break-glass file")
	errMended    = errors.New("the break-glass file is too old")
)

// breakGlass is the way out when the gate is broken: a file of root's, that holds the
// reason and counts for a bounded time from its modification.
type breakGlass struct {
	file  string
	lasts time.Duration

	// mu guards what follows: the breaking that was told last.
	mu    sync.Mutex
	since time.Time // of the file; zero: whole
	wrong string    // what is wrong with a file that does not count
}

// look returns the reason and the times of a glass that is broken now.
//
// Errors: errNotBroken; errMended; others if the file does not count.
func (g *breakGlass) look(now time.Time) (reason string, since, until time.Time, err error) {
	if g.file == "" {
		return "", since, until, errNotBroken
	}
	f, err := os.OpenFile(g.file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", since, until, errNotBroken
	}
	if err != nil {
		return "", since, until, fmt.Errorf("open the break-glass file: %w", err)
	}
	defer f.Close()
	var st, dir unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &st), unix.Stat(filepath.Dir(g.file), &dir)); err != nil {
		return "", since, until, fmt.Errorf("look at the break-glass file: %w", err)
	}
	since = time.Unix(st.Mtim.Unix())
	until = since.Add(g.lasts)
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = errors.New("the break-glass file is no regular file")
	case !ours(st.Uid) || st.Mode&0o022 != 0 || st.Nlink != 1:
		err = errors.New("the break-glass file can be changed by others than root")
	case !ours(dir.Uid) || dir.Mode&0o022 != 0:
		err = errors.New("the directory of the break-glass file can be changed by others than root")
	case since.Sub(now) > time.Second:
		err = errors.New("the break-glass file is from the future")
	case !now.Before(until):
		err = errMended
	}
	if err != nil {
		return "", since, until, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxReason))
	if err != nil {
		return "", since, until, fmt.Errorf("read the break-glass file: %w", err)
	}
	if reason = printable(string(raw)); reason == "" {
		return "", since, until, errors.New("the break-glass file says no reason")
	}
	return reason, since, until, nil
}

// ours tells whether a uid is root's or this process's own.
func ours(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// glassBroken tells whether everything passes now, and why. It tells of a change once.
func (p *Plugin) glassBroken() (reason string, ok bool) {
	g := &p.glass
	if g.file == "" {
		return "", false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	reason, since, until, err := g.look(p.o.now())
	switch {
	case err == nil:
		if !g.since.Equal(since) {
			g.since, g.wrong = since, ""
			p.o.Health.SetDegraded("authz", "the glass is broken until "+until.UTC().Format(time.RFC3339)+": requests around the gate pass")
			p.o.Note("break-glass: requests around the gate pass until " + until.UTC().Format(time.RFC3339) + ": " + reason)
			p.o.Log.Warn("the glass is broken: requests around the gate pass", attr.Reason, reason, attr.File, g.file)
		}
		return reason, true
	case !g.since.IsZero():
		g.since = time.Time{}
		p.o.Health.SetOK("authz")
		p.o.Note("break-glass: over, requests around the gate are refused again")
		p.o.Log.Info("the glass is whole again", attr.File, g.file)
	}
	if errors.Is(err, errNotBroken) || errors.Is(err, errMended) {
		g.wrong = ""
		return "", false
	}
	if g.wrong != err.Error() {
		g.wrong = err.Error()
		p.o.Note("break-glass: refused: " + err.Error())
		p.o.Log.Error("the break-glass file does not count", attr.File, g.file, attr.Error, err.Error())
	}
	return "", false
}

// watchGlass tells of a change also while nobody calls.
func (p *Plugin) watchGlass(ctx context.Context) {
	if p.glass.file == "" {
		return
	}
	t := time.NewTicker(glassCheck)
	defer t.Stop()
	for {
		p.glassBroken()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// GlassBroken tells whether the break-glass file says now that things pass, why, and until
// when. lasts is as [Options].BreakGlassFor: 15 min if it is zero, at most 1 h. A file that
// others than root could have written does not count.
func GlassBroken(file string, lasts time.Duration, now time.Time) (reason string, until time.Time, ok bool) {
	if lasts <= 0 {
		lasts = 15 * time.Minute
	}
	g := breakGlass{file: file, lasts: min(lasts, maxBreakGlass)}
	reason, _, until, err := g.look(now)
	return reason, until, err == nil
}
