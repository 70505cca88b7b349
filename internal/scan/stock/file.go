package stock

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// A file of the folder is named by the image's ID. Its first line has the format and the
// SHA-256 of the rest; the second is a [meta] in JSON; then comes the scanner's result.
const (
	fileMagic = "belay-inventory 1 "
	suffix    = ".inventory"
	firstFile = "first-seen.json"
	maxMeta   = 8 << 20
	maxFile   = maxMeta + inventory.MaxResultBytes + 1024
	maxFirst  = 500_000 // vulnerabilities of which the first sight is kept
)

// meta is what a file says beside the inventory.
type meta struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
	// Scanner is the version of what read the image.
	Scanner string `json:"scanner,omitempty"`
	// Matched says that Seen holds what the last match found: the names of vulnerabilities.
	Matched bool     `json:"matched,omitempty"`
	Seen    []string `json:"seen,omitempty"`
}

var errDamaged = errors.New("it is damaged")

func (k *Keeper) path(id string) string {
	return filepath.Join(k.o.Dir, strings.TrimPrefix(id, "sha256:")+suffix)
}

// write keeps an inventory.
func (k *Keeper) write(m *meta, res *inventory.Result) error {
	head, err := json.Marshal(m)
	if err != nil {
		return err
	}
	body, err := json.Marshal(res)
	if err != nil {
		return err
	}
	rest := slices.Concat(head, []byte("\n"), body)
	if len(head) > maxMeta || len(rest) > maxFile {
		return fmt.Errorf("keep the inventory: %w", inventory.ErrTooLarge)
	}
	sum := sha256.Sum256(rest)
	if err := atomicfile.WriteFile(k.path(m.ID), slices.Concat([]byte(fileMagic+hex.EncodeToString(sum[:])+"\n"), rest), 0o600); err != nil {
		return fmt.Errorf("keep the inventory: %w", err)
	}
	return nil
}

// read reads an inventory back, as bytes of an enemy.
//
// Errors: errDamaged, those of files.
func (k *Keeper) read(id string) (*meta, *inventory.Result, error) {
	m, body, err := k.readMeta(id)
	if err != nil {
		return nil, nil, err
	}
	res, err := decodeResult(body)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", k.path(id), err)
	}
	return m, res, nil
}

// readMeta reads what stands beside an inventory, and leaves the inventory as it is written.
//
// Errors: as of read.
func (k *Keeper) readMeta(id string) (m *meta, body []byte, err error) {
	f, err := os.Open(k.path(id))
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s: %w: no regular file", k.path(id), errDamaged)
	}
	m, body, err = decodeMeta(f)
	if err == nil && m.ID != id {
		err = fmt.Errorf("%w: it is of %.80q", errDamaged, m.ID)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", k.path(id), err)
	}
	return m, body, nil
}

func decode(r io.Reader) (*meta, *inventory.Result, error) {
	m, body, err := decodeMeta(r)
	if err != nil {
		return nil, nil, err
	}
	res, err := decodeResult(body)
	if err != nil {
		return nil, nil, err
	}
	return m, res, nil
}

func decodeMeta(r io.Reader) (*meta, []byte, error) {
	all, err := inventory.ReadAll(r, maxFile)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	first, rest, _ := bytes.Cut(all, []byte("\n"))
	sum := sha256.Sum256(rest)
	if string(first) != fileMagic+hex.EncodeToString(sum[:]) {
		return nil, nil, fmt.Errorf("%w: its checksum is wrong", errDamaged)
	}
	head, body, _ := bytes.Cut(rest, []byte("\n"))
	m := new(meta)
	if len(head) > maxMeta {
		return nil, nil, fmt.Errorf("%w: %w", errDamaged, inventory.ErrTooLarge)
	}
	if err := json.Unmarshal(head, m); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return m, body, nil
}

func decodeResult(body []byte) (*inventory.Result, error) {
	res, err := inventory.ReadResult(bytes.NewReader(body))
	if err == nil && res.Error != "" {
		err = errors.New("it holds no inventory")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return res, nil
}

// recall makes the states of what the folder holds. Findings come with the first match.
func (k *Keeper) recall() error {
	entries, err := os.ReadDir(k.o.Dir)
	if err != nil {
		return fmt.Errorf("folder of inventories: %w", err)
	}
	for _, e := range entries {
		hexID, ok := strings.CutSuffix(e.Name(), suffix)
		id := "sha256:" + hexID
		if !ok || !imageID.MatchString(id) {
			continue
		}
		m, res, err := k.read(id)
		if err != nil {
			k.o.Health.Counter("inventories_unreadable").Add(1)
			k.o.Log.Warn("an inventory is not used; its image is scanned again", attr.Error, err.Error())
			if errors.Is(err, errDamaged) {
				_ = os.Remove(k.path(id))
			}
			continue
		}
		k.take(m, res)
	}
	return nil
}

// take makes an inventory the state of its image. It is to be matched then.
func (k *Keeper) take(m *meta, res *inventory.Result) {
	keys := vulndb.Keys(res)
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.states[m.ID]
	if s == nil {
		s = &State{ID: m.ID}
		k.states[m.ID] = s
	}
	if k.db == nil || s.Database.IsZero() || s.Other(res.Digest) {
		s.Database, s.Unmatched, s.Findings, s.Complete = time.Time{}, "", nil, false
		s.Notes = slices.Clone(res.Notes[:min(len(res.Notes), maxNotes)])
	} // else the last match stands until the next one, which follows, takes its place
	s.Manifest, s.by = res.Digest, m.Scanner
	s.At, s.OS, s.Count = m.At, cmp.Or(res.OS.Pretty, res.OS.ID), len(res.Packages)
	s.Secrets, s.Unsearched = secrets(res), unsearched(res)
	list := make([]int32, len(keys))
	for i, key := range keys {
		n, ok := k.names[key]
		if !ok {
			n = int32(len(k.names))
			k.names[key] = n
		}
		list[i] = n
	}
	k.keys[m.ID] = list
}

// keep stores the result of a scan and matches it.
func (k *Keeper) keep(ctx context.Context, id string, res *inventory.Result) error {
	now, _ := k.now()
	m := &meta{ID: id, At: now.UTC(), Scanner: k.o.Scanner}
	// What the image has had before was told; what a scan anew brings is not.
	if old, _, err := k.readMeta(id); err == nil {
		m.Matched, m.Seen = old.Matched, old.Seen
	}
	if err := k.write(m, res); err != nil {
		return err
	}
	k.take(m, res)
	k.evict(id)
	k.learnKeys(id)
	k.match(ctx, m, res)
	return nil
}

// evict drops the oldest inventories of images that are not in use, beyond the bound.
func (k *Keeper) evict(but string) {
	k.mu.Lock()
	var old []*State
	n := 0
	for id, s := range k.states {
		if !s.At.IsZero() {
			n++
		}
		if id != but && !s.Queued {
			old = append(old, s)
		}
	}
	all := len(k.states)
	k.mu.Unlock()
	slices.SortFunc(old, func(a, b *State) int { return a.At.Compare(b.At) })
	// States without an inventory are bounded too: each failed scan leaves one.
	drop := max(n-k.o.MaxImages, all-2*k.o.MaxImages)
	for _, s := range old {
		if drop <= 0 {
			return
		}
		if k.o.InUse(s.ID) {
			continue
		}
		drop--
		k.mu.Lock()
		delete(k.states, s.ID)
		delete(k.keys, s.ID)
		k.mu.Unlock()
		if err := os.Remove(k.path(s.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.o.Log.Warn("an inventory is not removed", attr.Error, err.Error())
		}
	}
}

// readFirst reads when vulnerabilities were first seen. A file that is not there is that of
// a host which has seen none.
func (k *Keeper) readFirst() error {
	f, err := os.Open(filepath.Join(k.o.Dir, firstFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := inventory.ReadAll(bufio.NewReader(f), 64<<20)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, &k.first)
}

// writeFirst keeps it, if there is something new.
func (k *Keeper) writeFirst() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.dirty || k.lost {
		return nil
	}
	b, err := json.Marshal(k.first)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteFile(filepath.Join(k.o.Dir, firstFile), b, 0o600); err != nil {
		return fmt.Errorf("keep when vulnerabilities were first seen: %w", err)
	}
	k.dirty = false
	return nil
}
