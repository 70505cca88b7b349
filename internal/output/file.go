package output

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/journal"
)

// file appends lines to a file, and begins the next one when it is full: NAME, NAME.1, NAME.2 and
// so on, the newest first. It owns the open file and its lock.
//
// It is code of its own because the libraries for this open by name, follow symbolic links
// where another user put one, and do not notice that the file was moved away.
type file struct {
	dir, base string
	size      int64
	keep      int
	enc       encode

	f    *os.File // nil: none is open
	at   int64    // its size, after the last whole line
	torn bool     // part of a line may lie behind that
	buf  []byte
	progress
}

func newFile(spec Spec, enc encode) *file {
	return &file{dir: filepath.Dir(spec.Target), base: filepath.Base(spec.Target), size: spec.Size, keep: spec.Keep, enc: enc}
}

// send appends a batch. What is written is not synced: the journal is what survives a loss of power.
func (s *file) send(_ context.Context, batch []*journal.Record) error {
	s.progress = progress{}
	return s.end(len(batch), s.append(batch))
}

func (s *file) append(batch []*journal.Record) error {
	if err := s.ready(); err != nil {
		return err
	}
	s.buf = s.buf[:0]
	lines := 0 // in buf
	for _, r := range batch {
		line, err := s.enc(r)
		if err != nil {
			if err := s.write(&lines); err != nil {
				return err
			}
			s.refuse(err)
			continue
		}
		// Many lines go in one write, but not into a file that is full.
		if n := s.at + int64(len(s.buf)); n > 0 && n+int64(len(line))+1 > s.size {
			if err := s.write(&lines); err != nil {
				return err
			}
			if err := s.rotate(); err != nil {
				return err
			}
		}
		s.buf = append(append(s.buf, line...), '\n')
		if lines++; len(s.buf) >= piece {
			if err := s.write(&lines); err != nil {
				return err
			}
		}
	}
	return s.write(&lines)
}

// write writes buf, all or nothing.
func (s *file) write(lines *int) error {
	if len(s.buf) == 0 {
		return nil
	}
	if s.torn {
		if err := s.f.Truncate(s.at); err != nil {
			return fmt.Errorf("cut what a failed write has left: %w", err)
		}
		s.torn = false
	}
	if n, err := s.f.Write(s.buf); err != nil {
		s.torn = n > 0 && s.f.Truncate(s.at) != nil
		return err
	}
	s.at += int64(len(s.buf))
	s.done += *lines
	s.buf, *lines = s.buf[:0], 0
	return nil
}

// directory opens the directory, through no symbolic link.
func (s *file) directory() (int, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, s.dir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	switch {
	case errors.Is(err, unix.ELOOP):
		return -1, fmt.Errorf("%s has a symbolic link in it: name the directory by its own path", s.dir)
	case err != nil:
		return -1, fmt.Errorf("open %s: %w", s.dir, err)
	}
	return fd, nil
}

// ready opens the file, anew if it is no longer the one of its name.
func (s *file) ready() error {
	dir, err := s.directory()
	if err != nil {
		return errors.Join(err, s.close())
	}
	defer unix.Close(dir)
	if s.f != nil {
		var named, mine unix.Stat_t
		err := unix.Fstatat(dir, s.base, &named, unix.AT_SYMLINK_NOFOLLOW)
		if ferr := unix.Fstat(int(s.f.Fd()), &mine); err == nil && ferr == nil && named.Dev == mine.Dev && named.Ino == mine.Ino {
			// Somebody may have cut it, as logrotate's copytruncate does, or added to it.
			if !s.torn || mine.Size < s.at {
				s.at, s.torn = mine.Size, false
			}
			return nil
		}
		if err := s.close(); err != nil {
			return err
		}
	}
	return s.open(dir)
}

// open opens the file in dir, and makes it if it is missing. It takes no other file than one of
// the agent's own, that has one name.
func (s *file) open(dir int) error {
	const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	path := filepath.Join(s.dir, s.base)
	fd, err := unix.Openat(dir, s.base, flags, 0o640)
	if errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("%s is a symbolic link: nothing is written through one", path)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = errors.New("it is no regular file")
	case st.Nlink != 1:
		err = errors.New("it has more than one name, so it may be a file of something else")
	case int(st.Uid) != os.Geteuid():
		err = errors.New("another user owns it")
	default:
		if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another program has it locked, such as the agent or a replay: give another file")
		}
	}
	if err == nil {
		err = unix.Fchmod(fd, 0o640) // whatever the umask
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	s.f, s.at, s.torn = f, st.Size, false
	return nil
}

// rotate moves the files one number up, as far as the first number that is free, lets the oldest go if none is, and
// begins a new one. A rotation that failed half-way left a free number: trying again lets nothing go.
func (s *file) rotate() error {
	dir, err := s.directory()
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := func(i int) string {
		if i == 0 {
			return s.base
		}
		return s.base + "." + strconv.Itoa(i)
	}
	if s.keep == 1 {
		err = unix.Unlinkat(dir, s.base, 0)
	}
	to := min(1, s.keep-1)
	for to < s.keep-1 && unix.Faccessat(dir, name(to), unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil {
		to++
	}
	for i := to - 1; i >= 0; i-- {
		if rerr := unix.Renameat(dir, name(i), dir, name(i+1)); rerr != nil && !errors.Is(rerr, unix.ENOENT) {
			err = rerr
			break
		}
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("begin the next file of %s: %w", filepath.Join(s.dir, s.base), err)
	}
	if err := s.close(); err != nil {
		return err
	}
	return s.open(dir)
}

func (s *file) close() error {
	if s.f == nil {
		return nil
	}
	f := s.f
	s.f = nil
	return f.Close()
}
