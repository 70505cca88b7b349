// Package token keeps the bearer tokens by which programs call the gate: names, times, and
// hashes of what only the holder has.
//
// It owns one file. A token is shown once, when it is made; its 256 bits of randomness cannot be
// searched, so one round of SHA-256 is enough to keep it. It decides nothing but whose a
// token is. Row: core.
package token

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
)

const (
	// Max is how many tokens there can be.
	Max = 1024
	// MaxName is how long a name can be, in bytes.
	MaxName = 63
	// Longest is how long a token can be valid.
	Longest = 366 * 24 * time.Hour

	prefix      = "belay_"
	idBytes     = 8
	secretBytes = 32
	textBytes   = len(prefix) + 2*idBytes + 1 + 2*secretBytes
	maxFile     = 1 << 20
)

// What the store refuses, for callers that branch on it.
var (
	// ErrInvalid is all that is told of a token that is not taken: it is wrong, has expired, or
	// was revoked.
	ErrInvalid  = errors.New("the token is not valid")
	ErrName     = errors.New("not a name for a token: want letters, digits, '.', '_' and '-', at most 63")
	ErrExists   = errors.New("there is a token of that name already")
	ErrNotFound = errors.New("there is no token of that name")
	ErrLife     = errors.New("a token is valid for a minute at least, and for 366 days at most")
	ErrFull     = errors.New("there are too many tokens")
)

// Token is what is kept of one; it does not hold the secret.
type Token struct {
	Name      string    `json:"name"`
	ID        string    `json:"id"` // the part of the text that is no secret
	Created   time.Time `json:"created"`
	CreatedBy uint32    `json:"createdBy"` // uid
	Expires   time.Time `json:"expires"`
}

type kept struct {
	Token
	SHA256 string `json:"sha256"` // of the whole text, in hexadecimal
}

// Store keeps tokens in a file. Make one with [Open]. Safe for concurrent use by one process.
type Store struct {
	path string

	// mu guards what follows. It is held over writes.
	mu   sync.RWMutex
	byID map[string]*kept
}

// Open reads the tokens of a file; one that is not there has none.
//
// Errors: a file that cannot be read whole. Nobody has a token then, and nothing is
// written over it.
func Open(path string) (*Store, error) {
	s := &Store{path: path, byID: map[string]*kept{}}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil {
		err = s.parse(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("tokens in %s: %w", path, err)
	}
	return s, nil
}

var errFormat = errors.New("it is not a file of tokens, or damaged; fix: move it away and make the tokens anew")

func (s *Store) parse(raw []byte) error {
	var list []*kept
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if len(raw) > maxFile || dec.Decode(&list) != nil || len(list) > Max {
		return errFormat
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errFormat
	}
	names := map[string]bool{}
	for _, k := range list {
		if k == nil || !isName(k.Name) || names[k.Name] || !isHex(k.ID, idBytes) || !isHex(k.SHA256, sha256.Size) || s.byID[k.ID] != nil || k.Expires.IsZero() {
			return errFormat
		}
		names[k.Name], s.byID[k.ID] = true, k
	}
	return nil
}

func isHex(s string, n int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == n && strings.ToLower(s) == s
}

func isName(s string) bool {
	ok := s != "" && len(s) <= MaxName && s[0] != '.' && s[0] != '-'
	for _, c := range []byte(s) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	return ok
}

// Create makes a token and returns its text, which is not kept. It is on the disk when Create
// returns.
//
// Errors: [ErrName], [ErrExists], [ErrLife], [ErrFull]; those of [atomicfile.WriteFile].
func (s *Store) Create(name string, lasts time.Duration, by uint32, now time.Time) (Token, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !isName(name):
		return Token{}, "", ErrName
	case lasts < time.Minute || lasts > Longest:
		return Token{}, "", ErrLife
	case s.find(name) != nil:
		return Token{}, "", fmt.Errorf("%w: %s", ErrExists, name)
	case len(s.byID) >= Max:
		return Token{}, "", fmt.Errorf("%w (%d)", ErrFull, Max)
	}
	random := make([]byte, idBytes+secretBytes)
	_, _ = rand.Read(random) // it never fails; see crypto/rand
	k := &kept{Token: Token{
		Name: name, ID: hex.EncodeToString(random[:idBytes]), Created: now.UTC().Round(time.Second), CreatedBy: by,
		Expires: now.Add(lasts).UTC().Round(time.Second),
	}}
	text := prefix + k.ID + "_" + hex.EncodeToString(random[idBytes:])
	k.SHA256 = hash(text)
	s.byID[k.ID] = k
	if err := s.write(); err != nil {
		delete(s.byID, k.ID)
		return Token{}, "", err
	}
	return k.Token, text, nil
}

// Revoke ends a token. It is gone from the disk when Revoke returns; on an error of the disk it
// ends all the same, until the next start.
//
// Errors: [ErrNotFound]; those of [atomicfile.WriteFile].
func (s *Store) Revoke(name string) (Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.find(name)
	if k == nil {
		return Token{}, fmt.Errorf("%w: %.64q", ErrNotFound, name)
	}
	delete(s.byID, k.ID)
	return k.Token, s.write()
}

// List returns all tokens by name, those that have expired too.
func (s *Store) List() []Token {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Token, 0, len(s.byID))
	for _, k := range s.byID {
		out = append(out, k.Token)
	}
	slices.SortFunc(out, func(a, b Token) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Verify returns the name of the token that text is. A hash is compared, in constant time, also
// where there is no such token.
//
// Errors: [ErrInvalid].
func (s *Store) Verify(text string, now time.Time) (name string, err error) {
	if len(text) != textBytes || !strings.HasPrefix(text, prefix) {
		return "", ErrInvalid
	}
	sum := hash(text)
	s.mu.RLock()
	defer s.mu.RUnlock()
	k := s.byID[text[len(prefix):len(prefix)+2*idBytes]]
	want := &kept{SHA256: strings.Repeat("0", 2*sha256.Size)}
	if k != nil {
		want = k
	}
	if subtle.ConstantTimeCompare([]byte(sum), []byte(want.SHA256)) != 1 || k == nil || !now.Round(0).Before(k.Expires) {
		return "", ErrInvalid
	}
	return k.Name, nil
}

// find returns the token of a name. Callers hold mu.
func (s *Store) find(name string) *kept {
	for _, k := range s.byID {
		if k.Name == name {
			return k
		}
	}
	return nil
}

// write keeps what is in memory. Callers hold mu.
func (s *Store) write() error {
	list := make([]*kept, 0, len(s.byID))
	for _, k := range s.byID {
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b *kept) int { return strings.Compare(a.Name, b.Name) })
	raw, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		return fmt.Errorf("keep the tokens: %w", err)
	}
	if err := atomicfile.WriteFile(s.path, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the tokens: %w", err)
	}
	return nil
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
