package inventory

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestAsk(t *testing.T) {
	var b bytes.Buffer
	for _, a := range []Ask{{Digest: "sha256:" + strings.Repeat("a", 64)}, {Digest: "sha256:" + strings.Repeat("0", 64), Manifest: true}} {
		if err := a.Write(&b); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadAsk(&b); err != nil || got != a {
			t.Errorf("got %+v, %v, want %+v", got, err, a)
		}
	}
	if _, err := ReadAsk(&b); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	for _, s := range []string{"x" + strings.Repeat("a", 64) + "\n", "b" + strings.Repeat("/", 64) + "\n", "b" + strings.Repeat("a", 65), "b"} {
		if a, err := ReadAsk(strings.NewReader(s)); err == nil {
			t.Errorf("%q is %+v", s, a)
		}
	}
	if err := (Ask{Digest: "sha256:../x"}).Write(&b); err == nil {
		t.Error("a path was asked for")
	}
}

// FuzzReadAsk: what is taken for a question is what a scanner would have written for it.
func FuzzReadAsk(f *testing.F) {
	for _, a := range []Ask{{}, {Manifest: true}, {Layer: true}} {
		var b bytes.Buffer
		a.Digest = "sha256:" + strings.Repeat("a", 64)
		if err := a.Write(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ReadAsk(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := a.Write(&again); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("%q is %+v, which is written %q, %v", b, a, again.Bytes(), err)
		}
	})
}

func TestAnswer(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 50_000)
	var b bytes.Buffer
	broken := errors.New("the registry is gone")
	for _, err := range []error{
		WriteAnswer(&b, bytes.NewReader(body)),
		WriteAnswer(&b, iotest.OneByteReader(strings.NewReader("abc"))),
		WriteAnswer(&b, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))),
		WriteAnswer(&b, strings.NewReader("")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := bufio.NewReader(&b)
	if got, err := io.ReadAll(NewAnswer(r)); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := NewAnswer(r).Drain(); err != nil {
		t.Errorf("Drain: %v", err)
	}
	if got, err := io.ReadAll(NewAnswer(r)); string(got) != "half" || err == nil || err.Error() != broken.Error() {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := io.ReadAll(NewAnswer(r)); len(got) > 0 || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := io.ReadAll(NewAnswer(r)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after all answers: %v", err)
	}
}
