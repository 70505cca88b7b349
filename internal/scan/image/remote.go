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
	root   string
	layers bool // it answers what layers hold, too
	ask    io.Writer
	from   *bufio.Reader
}

func openAsked(answers, ask *os.File, job inventory.Job) (*asked, error) {
	if answers == nil || ask == nil {
		return nil, errors.New("a job with a descriptor that is not there")
	}
	return &asked{root: job.Root, layers: job.Layers, ask: ask, from: bufio.NewReaderSize(answers, 64<<10)}, nil
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

// layerStore is an archive whose caller may know what layers hold.
type layerStore interface {
	// layer returns what a layer of that name in the archive holds, and its digest; nil where it
	// is to be read.
	layer(r *reader, name string) (*layer, string, error)
}

func (a *asked) layer(r *reader, name string) (*layer, string, error) {
	digits, ok := strings.CutPrefix(name, "blobs/sha256/")
	digest := "sha256:" + digits
	if a == nil || !a.layers || !ok || !sha256Digest.MatchString(digest) {
		return nil, "", nil
	}
	answer, err := a.question(inventory.Ask{Digest: digest, Layer: true})
	if err != nil {
		return nil, "", err
	}
	in := bufio.NewReaderSize(answer, 64<<10)
	var l *layer
	if _, err = in.Peek(1); err == nil {
		l, digest, err = r.layerOf(in)
	}
	// What is no record, or nothing, has the layer read; what cannot be fetched ends the scan.
	if e := answer.Drain(); e != nil {
		return nil, "", fmt.Errorf("layer %s: %w", digest, e)
	}
	if e := r.stopped(); e != nil {
		return nil, "", e
	}
	if err != nil {
		return nil, "", nil
	}
	return l, digest, nil
}

func (d *layoutDir) layer(r *reader, name string) (*layer, string, error) {
	return d.helper.layer(r, name)
}

// known returns the layers of which the caller knows what they hold, and their digests, by
// name in the archive.
func (r *reader) known(a archive, order []manifestLayer) (map[string]*layer, map[string]string, error) {
	read, digests := map[string]*layer{}, map[string]string{}
	s, ok := a.(layerStore)
	if !ok {
		return read, digests, nil
	}
	asked := map[string]bool{}
	for _, ml := range order {
		if asked[ml.name] {
			continue
		}
		asked[ml.name] = true
		l, digest, err := s.layer(r, ml.name)
		if err != nil {
			return nil, nil, err
		}
		if l == nil {
			continue
		}
		if err := r.adopt(l); err != nil {
			return nil, nil, err
		}
		read[ml.name], digests[ml.name] = l, digest
	}
	return read, digests, nil
}
