package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// kept is the manifest.
type kept struct {
	Files []string `json:"files"`
	// Pending is that the agent has not been restarted since files of its own changed.
	Pending bool `json:"pending"`
}

// lock keeps a second process out: two pods of a node, or a pod and its administrator. It is on the
// directory itself, so that no lock file is left. An init container that finds it taken is started again.
func lock(root *os.Root) (unlock func(), err error) {
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make /%s: %w", dir, err)
	}
	f, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w; fix: wait for it, and call this again", ErrBusy)
		}
		return nil, fmt.Errorf("lock /%s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

func readManifest(root *os.Root) (kept, error) {
	var k kept
	raw, err := root.ReadFile(manifest)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &k)
	}
	if err != nil {
		return kept{}, fmt.Errorf("what an earlier version has put on the host (/%s): %w; fix: mend or remove that file", manifest, err)
	}
	for _, name := range k.Files {
		if !owned(name) {
			return kept{}, fmt.Errorf("/%s names %q, which Belay never writes; fix: mend or remove that file", manifest, name)
		}
	}
	return k, nil
}

// owned tells whether a path is one that Install writes.
func owned(name string) bool {
	base := path.Base(name)
	switch path.Dir(name) {
	case binaries:
		return programs[name] != ""
	case units:
		return base == agentUnit || base == "belay.slice"
	case policies:
		return strings.HasSuffix(base, ".yaml")
	}
	return name == agentConf
}

func writeManifest(root *os.Root, k kept) error {
	raw, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return write(root, manifest, file{data: append(raw, '\n'), mode: 0o644})
}
