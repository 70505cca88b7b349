package image

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// manifests is an archive that keeps manifests apart from other blobs.
type manifests interface {
	manifest(digest string) ([]byte, error)
}

// asked is a store of blobs elsewhere, which the caller fetches when it is asked. It has
// no index of its own: root says which image is meant.
type asked struct {
	root string
	ask  io.Writer
	from *bufio.Reader
}

func openAsked(answers, ask *os.File, root string) (*asked, error) {
	if answers == nil || ask == nil {
		return nil, errors.New("a job with a descriptor that is not there")
	}
	return &asked{root: root, ask: ask, from: bufio.NewReaderSize(answers, 64<<10)}, nil
}

func (a *asked) question(q inventory.Ask) (*inventory.Answer, error) {
	if err := q.Write(a.ask); err != nil {
		return nil, fmt.Errorf("ask for %s: %w", q.Digest, err)
	}
	return inventory.NewAnswer(a.from), nil
}

func (a *asked) read(q inventory.Ask) ([]byte, error) {
	answer, err := a.question(q)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, answer, maxJSON+1); err == nil {
		return nil, fmt.Errorf("%w: %d bytes", inventory.ErrTooLarge, maxJSON)
	} else if !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("fetch %s: %w", q.Digest, err)
	}
	return b.Bytes(), nil
}

func (a *asked) manifest(digest string) ([]byte, error) {
	return a.read(inventory.Ask{Digest: digest, Manifest: true})
}

func (a *asked) small(name string) ([]byte, error) {
	switch name {
	case "index.json":
		return json.Marshal(map[string]any{"manifests": []any{map[string]string{"digest": a.root}}})
	case "manifest.json":
		return nil, os.ErrNotExist
	}
	return a.read(inventory.Ask{Digest: "sha256:" + path.Base(name)})
}

func (a *asked) each(names map[string]bool, fn func(string, Content) error) error {
	for name := range names {
		digest := "sha256:" + strings.TrimPrefix(name, "blobs/sha256/")
		answer, err := a.question(inventory.Ask{Digest: digest})
		if err != nil {
			return err
		}
		// The size is not known before: the stream has an end of its own.
		if err := fn(name, Content{Reader: answer, Size: 1 << 62}); err != nil {
			return fmt.Errorf("layer %s: %w", digest, err)
		}
		// What the reader left, such as padding, so that the next answer follows.
		if err := answer.Drain(); err != nil {
			return fmt.Errorf("fetch %s: %w", digest, err)
		}
	}
	return nil
}
