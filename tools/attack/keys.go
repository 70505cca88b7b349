package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// keyAttacks read a private key or plant an authorised one: ssh.keys, F1 to F3, P6.
func keyAttacks() []attack {
	return []attack{
		{"keys-read", "F1", "", "open a private key", func(e *env) error { return readKey(e.key()) }},
		{"keys-procroot", "F7", "", "by /proc/self/root", func(e *env) error { return readKey("/proc/self/root" + e.key()) }},
		{"keys-symlink", "F1", "", "by a symbolic link", keysSymlink},
		{"keys-hardlink", "F1", "", "by a hard link of another name", keysHardlink},
		{"keys-rename", "F1", "", "after a rename", keysRename},
		{"keys-renamedir", "F1", needVolume, "after .ssh was renamed", keysRenameDir},
		{"keys-opath", "F3", "", "by an O_PATH descriptor opened again", keysOPath},
		{"keys-uring", "P6", "", "by io_uring", func(e *env) error {
			return e.start(command{path: prim, args: []string{prim, "uring", e.key()}, want: "PRIVATE KEY"})
		}},
		{"auth-write", "F2", "", "append to authorized_keys", authWrite},
		{"auth-truncate", "F2", "", "truncate authorized_keys", authTruncate},
		{"auth-replace", "F2", "", "remove authorized_keys and make it anew", authReplace},
		{"auth-rename", "F1", "", "rename a file over authorized_keys", authRename},
		{"auth-exchange", "F1", "", "swap a file with authorized_keys", authExchange},
		{"auth-link", "F1", "", "link a file to authorized_keys", authLink},
		{"auth-symlink", "F1", "", "make authorized_keys a symbolic link", authSymlink},
		{"auth-renamedir", "F1", needVolume, "put another folder in the place of .ssh", authRenameDir},
	}
}

const planted = "ssh-rsa AAAA attacker\n"

func (e *env) key() string  { return filepath.Join(e.home, ".ssh/id_rsa") }
func (e *env) auth() string { return filepath.Join(e.home, ".ssh/authorized_keys") }

func readKey(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(data), "PRIVATE KEY") {
		return untried(fmt.Errorf("%s holds no key", path))
	}
	return nil
}

func keysSymlink(e *env) error {
	if err := os.Symlink(e.key(), e.path("x")); err != nil {
		return untried(err)
	}
	return readKey(e.path("x"))
}

// The links and renames stay in the folder of the key: another may be another mount.

func keysHardlink(e *env) error {
	to := filepath.Join(e.home, "notes")
	if err := os.Link(e.key(), to); err != nil {
		return err
	}
	return readKey(to)
}

func keysRename(e *env) error {
	to := filepath.Join(e.home, "notes")
	if err := os.Rename(e.key(), to); err != nil {
		return err
	}
	return readKey(to)
}

func keysRenameDir(e *env) error {
	to := filepath.Join(e.home, "holiday")
	if err := os.Rename(filepath.Join(e.home, ".ssh"), to); err != nil {
		return err
	}
	// Renamed once more, because id_rsa is known by its own name too.
	if err := os.Rename(filepath.Join(to, "id_rsa"), filepath.Join(to, "photo")); err != nil {
		return err
	}
	return readKey(filepath.Join(to, "photo"))
}

func keysOPath(e *env) error {
	fd, err := unix.Open(e.key(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return readKey(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// authorised tells whether authorized_keys now holds the planted key. Reading it is
// nobody's secret.
func (e *env) authorised() error {
	data, err := os.ReadFile(e.auth())
	if err != nil {
		return untried(err)
	}
	if !strings.Contains(string(data), planted) {
		return fmt.Errorf("%w: the key was not planted", errRefused)
	}
	return nil
}

// plant writes a file of another name beside authorized_keys.
func (e *env) plant() (string, error) {
	p := filepath.Join(e.home, ".ssh", "known_hosts2")
	return p, untried(os.WriteFile(p, []byte(planted), 0o600))
}

func authWrite(e *env) error {
	f, err := os.OpenFile(e.auth(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(planted)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return e.authorised()
}

func authTruncate(e *env) error {
	if err := unix.Truncate(e.auth(), 0); err != nil {
		return err
	}
	st, err := os.Stat(e.auth())
	if err != nil {
		return untried(err)
	}
	if st.Size() != 0 {
		return fmt.Errorf("%w: it has its content still", errRefused)
	}
	return nil
}

func authReplace(e *env) error {
	if err := os.Remove(e.auth()); err != nil {
		return err
	}
	if err := os.WriteFile(e.auth(), []byte(planted), 0o600); err != nil {
		return err
	}
	return e.authorised()
}

func authRename(e *env) error {
	p, err := e.plant()
	if err != nil {
		return err
	}
	if err := os.Rename(p, e.auth()); err != nil {
		return err
	}
	return e.authorised()
}

func authExchange(e *env) error {
	p, err := e.plant()
	if err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, e.auth(), unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return e.authorised()
}

func authLink(e *env) error {
	p, err := e.plant()
	if err != nil {
		return err
	}
	if err := os.Remove(e.auth()); err != nil {
		return err
	}
	if err := os.Link(p, e.auth()); err != nil {
		return err
	}
	return e.authorised()
}

func authSymlink(e *env) error {
	p, err := e.plant()
	if err != nil {
		return err
	}
	if err := os.Remove(e.auth()); err != nil {
		return err
	}
	if err := os.Symlink(p, e.auth()); err != nil {
		return err
	}
	return e.authorised()
}

func authRenameDir(e *env) error {
	dir := filepath.Join(e.home, "new")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return untried(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "authorized_keys"), []byte(planted), 0o600); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(e.home, ".ssh"), filepath.Join(e.home, "old")); err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(e.home, ".ssh")); err != nil {
		return err
	}
	return e.authorised()
}
