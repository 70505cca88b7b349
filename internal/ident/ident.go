// Package ident holds the identifiers that every other package shares: which
// container, which cgroup.
//
// It owns no state, does no I/O and imports the standard library only (bottom row).
package ident

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrFormat is returned for text that is not an identifier of the asked kind.
var ErrFormat = errors.New("not a valid identifier")

// ContainerID is a container's full ID: 64 lower-case hexadecimal digits, as
// Docker, containerd/CRI, CRI-O and Podman write it.
type ContainerID string

// ShortLen is the number of digits that runtimes print as the short ID.
const ShortLen = 12

// ParseContainerID returns s as a ContainerID.
//
// Errors: [ErrFormat] unless s is exactly 64 lower-case hexadecimal digits.
func ParseContainerID(s string) (ContainerID, error) {
	if len(s) != 64 {
		return "", fmt.Errorf("container ID %q: want 64 hex digits, got %d characters: %w", s, len(s), ErrFormat)
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("container ID %q: want lower-case hex digits: %w", s, ErrFormat)
		}
	}
	return ContainerID(s), nil
}

// CgroupContainer returns the container whose cgroup has this name: 64 digits, alone or behind a prefix
// that ends in "-" and, as a rule, before ".scope" (Docker, containerd, CRI-O, Podman). That of a
// container's conmon is not the container's.
func CgroupContainer(name string) (id ContainerID, ok bool) {
	if len(name) != 64 {
		name = strings.TrimSuffix(name, ".scope")
		if len(name) < 66 || name[len(name)-65] != '-' || strings.HasSuffix(name[:len(name)-65], "conmon") {
			return "", false
		}
		name = name[len(name)-64:]
	}
	id, err := ParseContainerID(name)
	return id, err == nil
}

// ContainerIDFromBytes returns the ID whose binary form is b.
func ContainerIDFromBytes(b [32]byte) ContainerID { return ContainerID(hex.EncodeToString(b[:])) }

// Bytes returns the binary form of the ID, the key of the kernel's maps.
//
// Errors: [ErrFormat] if id is not 64 hexadecimal digits.
func (id ContainerID) Bytes() (b [32]byte, err error) {
	if _, err = ParseContainerID(string(id)); err != nil {
		return b, err
	}
	_, err = hex.Decode(b[:], []byte(id))
	return b, err
}

// Short returns the first [ShortLen] digits, or the whole ID if it is shorter.
func (id ContainerID) Short() string {
	if len(id) <= ShortLen {
		return string(id)
	}
	return string(id[:ShortLen])
}

// CgroupID is the kernfs id of a cgroup directory of the v2 hierarchy (its inode
// number; on v1-only hosts that of the pids hierarchy). It is never reused while
// the machine is up on 64-bit kernels.
type CgroupID uint64
