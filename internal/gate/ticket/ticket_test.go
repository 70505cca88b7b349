package ticket

import (
	"errors"
	"testing"
	"time"
)

func TestTake(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	k := New(func() time.Time { return now })
	other := New(func() time.Time { return now })
	body := []byte(`{"Image":"x"}`)
	const target = "/v1.41/containers/create?name=a"
	mint := func(kind Body) string { return string(k.Append(nil, "POST", target, kind, body)) }
	for _, c := range []struct {
		name, ticket, method, target string
		body                         []byte
		later                        time.Duration
		want                         error
	}{
		{name: "good", ticket: mint(Digest), body: body},
		{name: "none", want: ErrMissing},
		{name: "another keeper's", ticket: string(other.Append(nil, "POST", target, Digest, body)), body: body, want: ErrForged},
		{name: "another method", ticket: mint(Digest), method: "PUT", body: body, want: ErrForged},
		{name: "another target", ticket: mint(Digest), target: "/v1.41/containers/create?name=b", body: body, want: ErrForged},
		{name: "another body", ticket: mint(Digest), body: []byte("{}"), want: ErrForged},
		{name: "A1 body withheld", ticket: mint(Digest), want: ErrNoBody},
		{name: "body where none was", ticket: mint(None), body: body, want: ErrForged},
		{name: "stream", ticket: mint(Stream)},
		{name: "old", ticket: mint(Digest), body: body, later: time.Minute, want: ErrExpired},
		{name: "short", ticket: "abc", want: ErrForged},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.method == "" {
				c.method = "POST"
			}
			if c.target == "" {
				c.target = target
			}
			start := now
			now = now.Add(c.later)
			defer func() { now = start }()
			if err := k.Take(c.ticket, c.method, c.target, c.body); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// A ticket whose body was not shown is used up: its caller may let it pass all the same.
func TestTakeOnceWithoutBody(t *testing.T) {
	k := New(nil)
	tk := string(k.Append(nil, "POST", "/auth", Digest, []byte("{}")))
	for _, want := range []error{ErrNoBody, ErrUsed} {
		if err := k.Take(tk, "POST", "/auth", nil); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestTakeOnce(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	k := New(func() time.Time { return now })
	first := string(k.Append(nil, "GET", "/_ping", None, nil))
	if err := k.Take(first, "GET", "/_ping", nil); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lifetime) // still young enough to be taken, were it not used
	if err := k.Take(first, "GET", "/_ping", nil); !errors.Is(err, ErrUsed) {
		t.Errorf("second use: got %v, want ErrUsed", err)
	}
	for range 3 {
		now = now.Add(lifetime + 2*time.Second)
		if err := k.Take(string(k.Append(nil, "GET", "/_ping", None, nil)), "GET", "/_ping", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(k.used) + len(k.old); n > 2 {
		t.Errorf("%d used tickets are remembered, want at most 2", n)
	}
}
