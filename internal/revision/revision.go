// Package revision keeps the history of a host's policies: each change with its
// author, time, reason and the texts before and after.
//
// It owns one directory, with a file for each revision. Files are written whole and
// durably, are chained by hashes and bounded in number and size. Beyond the bounds the
// oldest go of whoever has made most, so that nobody's changes push out the history of
// others; see [KeptEach].
// It knows nothing of what a policy says and decides nothing. Row: core.
package revision

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Bounds of a store.
const (
	// MaxRevisions is how many revisions are kept.
	MaxRevisions = 256
	// MaxBytes is how many bytes all their files have together; the newest is kept
	// however large it is.
	MaxBytes = 32 << 20
	// KeptEach is how many of its newest revisions each policy keeps, whatever is done to
	// others, as long as all of these together are within the bounds above.
	KeptEach = 4
)

var (
	// ErrNotFound is returned for a revision that there is not, or not any more.
	ErrNotFound = errors.New("no such revision")
	// ErrDamaged is returned for a revision whose file was cut or altered.
	ErrDamaged = errors.New("the file of the revision is damaged")
)

// The kinds of authors.
const (
	ByUser      = "user"      // over the control socket
	ByContainer = "container" // over the control socket, from inside a container
	ByFile      = "file"      // somebody wrote into the policy directory
	ByAgent     = "agent"     // the agent itself
)

// Author is who made a change. Of a file it is the file's owner.
type Author struct {
	Kind      string  `json:"kind"`
	UID       *uint32 `json:"uid,omitempty"`
	Name      string  `json:"name,omitempty"` // of the user or container
	LoginUID  *uint32 `json:"loginUid,omitempty"`
	LoginName string  `json:"loginName,omitempty"`
	// LoginKnown: it was a session of the host. Else the author's process may have chosen it.
	LoginKnown bool   `json:"loginKnown,omitempty"`
	PID        int32  `json:"pid,omitempty"`
	Container  string `json:"container,omitempty"` // its ID
}

// What a revision does, and what happens to one policy in it.
const (
	OpApply    = "apply"
	OpDelete   = "delete"
	OpRollback = "rollback"
	OpFile     = "file"

	Created  = "created"
	Updated  = "updated"
	Deleted  = "deleted"
	Restored = "restored" // an override went: the shipped policy is in force again
)

// Change is what a revision does to one policy. Digests are those of the policies'
// normal forms; empty where there is no policy. Texts are as they were written.
type Change struct {
	Kind         string `json:"kind"`
	Name         string `json:"name"`
	What         string `json:"what"`
	File         string `json:"file,omitempty"`
	BeforeDigest string `json:"beforeDigest,omitempty"`
	AfterDigest  string `json:"afterDigest,omitempty"`
	Before       string `json:"before,omitempty"`
	After        string `json:"after,omitempty"`
}

// Revision is one change of one or more policies, made whole.
type Revision struct {
	Number  uint64    `json:"number"` // from 1, without gaps
	Time    time.Time `json:"time"`
	Author  Author    `json:"author"`
	Op      string    `json:"op"`
	Message string    `json:"message,omitempty"`
	To      uint64    `json:"to,omitempty"` // of a rollback: the revision that it went back to
	Changes []Change  `json:"changes"`
	// Prev is the hash of the file of the revision before; empty for the first.
	Prev string `json:"prev,omitempty"`
	// Damaged is why the revision cannot be read. It has no more than its number then.
	Damaged string `json:"damaged,omitempty"`
}

// Of returns what the revision does to a policy; nil: nothing.
func (r *Revision) Of(name string) *Change {
	for i := range r.Changes {
		if r.Changes[i].Name == name {
			return &r.Changes[i]
		}
	}
	return nil
}

// sealed is a revision's file: the revision, and the hash of its bytes.
type sealed struct {
	SHA256   string          `json:"sha256"`
	Revision json.RawMessage `json:"revision"`
}

func seal(r *Revision) (file []byte, hash string, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, "", fmt.Errorf("encode revision %d: %w", r.Number, err)
	}
	hash = hashOf(body)
	file, err = json.Marshal(sealed{SHA256: hash, Revision: body})
	if err != nil {
		return nil, "", fmt.Errorf("encode revision %d: %w", r.Number, err)
	}
	return append(file, '\n'), hash, nil
}

func unseal(file []byte, number uint64) (*Revision, string, error) {
	var s sealed
	if err := json.Unmarshal(file, &s); err != nil {
		return nil, "", fmt.Errorf("revision %d: %w: %w", number, ErrDamaged, err)
	}
	if got := hashOf(s.Revision); got != s.SHA256 {
		return nil, "", fmt.Errorf("revision %d: %w: its hash is %s, not %s", number, ErrDamaged, got, s.SHA256)
	}
	r := new(Revision)
	if err := json.Unmarshal(s.Revision, r); err != nil {
		return nil, "", fmt.Errorf("revision %d: %w: %w", number, ErrDamaged, err)
	}
	if r.Number != number {
		return nil, "", fmt.Errorf("revision %d: %w: it holds revision %d", number, ErrDamaged, r.Number)
	}
	return r, s.SHA256, nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
