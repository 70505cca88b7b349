// Package ticket makes and takes the proofs by which one half of the gate knows what
// came through the other: the proxy puts a ticket on each request that it forwards,
// and the authorisation plugin, which the daemon asks about every request, lets pass
// only what has one.
//
// A ticket is for one method, one request target, one body and one use within a short
// time. The key is made at random when the agent starts and never leaves its memory.
// The package owns the set of tickets that were used; it does no I/O and decides
// nothing. It imports the standard library only (row: core).
package ticket

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"
)

// Header is the field that a ticket travels in. The proxy takes it out of whatever
// clients send.
const Header = "X-Belay-Ticket"

// lifetime bounds the time between the proxy's forwarding a request and the daemon's
// asking the plugin, which is the first thing that it does.
const lifetime = 30 * time.Second

// maxUsed bounds the memory of used tickets of one lifetime: 8,000 requests a second, some
// 10 MB when it comes to that. When it is full none is taken.
const maxUsed = 1 << 18

// Errors of [Keeper.Take].
var (
	ErrMissing = errors.New("the request has no ticket: it did not come through the gate")
	ErrForged  = errors.New("the ticket is not one of this gate's, or is for another request")
	ErrExpired = errors.New("the ticket has expired")
	ErrUsed    = errors.New("the ticket was used before")
	ErrFull    = errors.New("too many tickets are in use")
	ErrNoBody  = errors.New("the request's body was not shown, and one was judged")
)

// Body says what a request's body is to a ticket.
type Body uint8

// The kinds.
const (
	None   Body = iota // no body
	Digest             // bytes that were judged: the ticket holds their digest
	Stream             // a stream that is not judged by its bytes (archives, build contexts)
)

const (
	nonceLen = 16
	// time, kind, nonce, digest, mac
	rawLen = 8 + 1 + nonceLen + sha256.Size + sha256.Size
)

// Keeper makes tickets and takes them back. Make one with [New]. All methods are safe
// for concurrent use.
type Keeper struct {
	key  [32]byte
	macs sync.Pool
	now  func() time.Time

	// mu guards what follows: used nonces of the present and of the former lifetime.
	mu        sync.Mutex
	used, old map[[nonceLen]byte]struct{}
	turned    time.Time
}

// New returns a keeper with a key of its own. now is the clock; nil is [time.Now].
func New(now func() time.Time) *Keeper {
	if now == nil {
		now = time.Now
	}
	k := &Keeper{now: now, used: map[[nonceLen]byte]struct{}{}, turned: now()}
	_, _ = rand.Read(k.key[:]) // never fails: crypto/rand
	k.macs.New = func() any { return hmac.New(sha256.New, k.key[:]) }
	return k
}

// Append appends a ticket for one request to dst. target is what follows the method in
// the request line.
func (k *Keeper) Append(dst []byte, method, target string, kind Body, body []byte) []byte {
	var raw [rawLen]byte
	binary.BigEndian.PutUint64(raw[:], uint64(k.now().UnixNano()))
	raw[8] = byte(kind)
	_, _ = rand.Read(raw[9 : 9+nonceLen])
	if kind == Digest {
		sum := sha256.Sum256(body)
		copy(raw[9+nonceLen:], sum[:])
	}
	k.sum(raw[:rawLen-sha256.Size], method, target, raw[:rawLen-sha256.Size])
	return base64.RawURLEncoding.AppendEncode(dst, raw[:])
}

// sum appends the MAC of a ticket's content and its request to dst.
func (k *Keeper) sum(dst []byte, method, target string, content []byte) []byte {
	m, ok := k.macs.Get().(hash.Hash)
	if !ok {
		m = hmac.New(sha256.New, k.key[:])
	}
	m.Reset()
	m.Write(content)
	_, _ = io.WriteString(m, method)
	m.Write([]byte{0}) // no method has one
	_, _ = io.WriteString(m, target)
	dst = m.Sum(dst)
	k.macs.Put(m)
	return dst
}

// Take checks a ticket and uses it up. body is what the daemon showed of the request's
// body, nil if it showed nothing.
//
// Errors: those of this package, wrapped. [ErrNoBody] says that all else about the ticket
// is right, and that it is used up all the same.
func (k *Keeper) Take(t, method, target string, body []byte) error {
	if t == "" {
		return ErrMissing
	}
	var raw [rawLen]byte
	if len(t) != base64.RawURLEncoding.EncodedLen(rawLen) {
		return ErrForged
	}
	if _, err := base64.RawURLEncoding.Strict().Decode(raw[:], []byte(t)); err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	content, mac := raw[:rawLen-sha256.Size], raw[rawLen-sha256.Size:]
	var want [sha256.Size]byte
	if !hmac.Equal(k.sum(want[:0], method, target, content), mac) {
		return ErrForged
	}
	made := time.Unix(0, int64(binary.BigEndian.Uint64(raw[:])))
	if age := k.now().Sub(made); age < -time.Second || age > lifetime {
		return ErrExpired
	}
	switch Body(raw[8]) {
	case None:
		if len(body) > 0 {
			return ErrForged
		}
	case Digest:
		if len(body) == 0 {
			// The caller may know that the daemon never shows this body: the ticket is used.
			if err := k.use([nonceLen]byte(raw[9 : 9+nonceLen])); err != nil {
				return err
			}
			return ErrNoBody
		}
		if sum := sha256.Sum256(body); !hmac.Equal(sum[:], raw[9+nonceLen:9+nonceLen+sha256.Size]) {
			return ErrForged
		}
	case Stream:
	default:
		return ErrForged
	}
	return k.use([nonceLen]byte(raw[9 : 9+nonceLen]))
}

func (k *Keeper) use(nonce [nonceLen]byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	// A nonce is remembered for at least one lifetime and at most two.
	if now := k.now(); now.Sub(k.turned) > lifetime+time.Second {
		k.old, k.used, k.turned = k.used, map[[nonceLen]byte]struct{}{}, now
	}
	if _, ok := k.used[nonce]; ok {
		return ErrUsed
	}
	if _, ok := k.old[nonce]; ok {
		return ErrUsed
	}
	if len(k.used) >= maxUsed {
		return ErrFull
	}
	k.used[nonce] = struct{}{}
	return nil
}
