package factor

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/atomicfile"
)

const (
	// CredentialName is what the key is called among the unit's credentials.
	CredentialName = "belay-factor-key"
	keyFile        = "key"
	minKeyBytes    = 32
	maxKeyBytes    = 64 << 10
	keyIDBytes     = 8
)

// The places that a key can come from.
const (
	FromCredential = "systemd credential" // see systemd.exec(5), LoadCredentialEncrypted=
	FromFile       = "file"               // mode 0600, in the folder of what it seals
)

// Key seals enrolments.
type Key struct {
	Source string // FromCredential or FromFile
	Path   string

	aead cipher.AEAD
	id   [keyIDBytes]byte
}

// LoadKey returns the key for a store in dir. Where the process has a credential of the name
// [CredentialName] in credentials ($CREDENTIALS_DIRECTORY; "" for none) the key is made from
// that; elsewhere from a file in dir, which is made at the first time.
//
// A credential that is there and cannot be used is an error: the file is not taken in its
// place. Errors: also if the file can be read by others.
func LoadKey(dir, credentials string) (*Key, error) {
	if credentials != "" {
		path := filepath.Join(credentials, CredentialName)
		material, err := readKey(path, false)
		switch {
		case err == nil:
			return newKey(material, FromCredential, path)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("key of the second factor from systemd: %w", err)
		}
	}
	k, err := loadKeyFile(dir)
	if errors.Is(err, fs.ErrNotExist) {
		path := filepath.Join(dir, keyFile)
		if err := atomicfile.WriteFile(path, random(minKeyBytes), 0o600); err != nil {
			return nil, fmt.Errorf("make the key of the second factor: %w", err)
		}
		k, err = loadKeyFile(dir)
	}
	return k, err
}

// loadKeyFile returns the key of the file in dir.
func loadKeyFile(dir string) (*Key, error) {
	path := filepath.Join(dir, keyFile)
	material, err := readKey(path, true)
	if err != nil {
		return nil, fmt.Errorf("key of the second factor: %w", err)
	}
	return newKey(material, FromFile, path)
}

// readKey reads a key's material. With private, only its owner may be able to read it:
// systemd gives credentials modes of its own.
func readKey(path string, private bool) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s is no file", path)
	case private && (st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid()):
		return nil, fmt.Errorf("%s can be read by others: chown it to the agent's user and chmod it to 0600, then enrol everybody anew", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) < minKeyBytes || len(b) > maxKeyBytes {
		return nil, fmt.Errorf("%s has %d bytes, want %d to %d of random", path, len(b), minKeyBytes, maxKeyBytes)
	}
	return b, nil
}

func newKey(material []byte, source, path string) (*Key, error) {
	k := &Key{Source: source, Path: path}
	derived, err := hkdf.Key(sha256.New, material, nil, "belay second factor v1: seal", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key of the second factor: %w", err)
	}
	id, err := hkdf.Key(sha256.New, material, nil, "belay second factor v1: name", keyIDBytes)
	if err != nil {
		return nil, fmt.Errorf("derive the key's name: %w", err)
	}
	copy(k.id[:], id)
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	k.aead, err = cipher.NewGCM(block)
	return k, err
}
