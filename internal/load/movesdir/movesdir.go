// Package movesdir is the directory of the journals of moves and leaves: whose it must be, what IDs
// are, and who works at one. Row: vocabulary.
package movesdir

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Below returns the directory of the journals, of the agent's directory of state.
func Below(stateDir string) string { return filepath.Join(stateDir, "moves") }

// ErrBusy is for a move that another process holds the lock of.
var ErrBusy = errors.New("another process is carrying out this move")

// ValidID reports whether id is one: 16 hexadecimal digits.
func ValidID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 8 && strings.ToLower(id) == id
}

// Trusted fails for a directory into which others could put a journal: a journal says what root
// does.
func Trusted(dir string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return fmt.Errorf("directory of moves: %w", &fs.PathError{Op: "stat", Path: dir, Err: err})
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("directory of moves %s: others may write to it; fix: chmod 700, and your own", dir)
	}
	return nil
}

// Lock takes a move for this process, and makes the directory. The kernel gives it back when
// the process ends, however it ends.
func Lock(dir, id string) (func(), error) {
	if !ValidID(id) {
		return nil, fmt.Errorf("%q is no ID of a move: see belay move list", id)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of moves: %w", err)
	}
	if err := Trusted(dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, id+".lock"), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock move %s: %w", id, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("move %s: %w", id, ErrBusy)
		}
		return nil, fmt.Errorf("lock move %s: %w", id, err)
	}
	return func() { f.Close() }, nil
}
