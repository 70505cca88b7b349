package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
)

// Images returns the IDs of all images.
func (e *Engine) Images(ctx context.Context) ([]string, error) {
	var list []struct {
		ID string `json:"Id"`
	}
	if err := e.ask(ctx, "list images", "GET", "/images/json", nil, nil, &list); err != nil {
		return nil, err
	}
	var ids []string
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	return ids, nil
}

// Save returns an image as a tar stream, with its name if ref is one. The caller closes it.
func (e *Engine) Save(ctx context.Context, ref string) (io.ReadCloser, error) {
	return e.stream(ctx, "save image "+ref, "GET", "/images/get", url.Values{"names": {ref}}, nil, "", true)
}

// Load reads a stream of [Engine.Save], and returns the names and IDs that the engine says it
// has loaded.
func (e *Engine) Load(ctx context.Context, r io.Reader) ([]string, error) {
	body, err := e.stream(ctx, "load image", "POST", "/images/load", url.Values{"quiet": {"1"}}, r, "application/x-tar", true)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var names []string
	err = messages("load image", body, func(m message) {
		for _, p := range []string{"Loaded image ID: ", "Loaded image: "} {
			if n, ok := strings.CutPrefix(strings.TrimSpace(m.Stream), p); ok {
				names = append(names, n)
			}
		}
	})
	return names, err
}

// Pull has the engine fetch an image from its registry, without credentials of ours.
func (e *Engine) Pull(ctx context.Context, ref string) error {
	// "fromImage" may hold a digest; a tag is part of it.
	body, err := e.stream(ctx, "pull image "+ref, "POST", "/images/create", url.Values{"fromImage": {ref}}, strings.NewReader(""), "text/plain", true)
	if err != nil {
		return err
	}
	defer body.Close()
	return messages("pull image "+ref, body, func(message) {})
}

// message is one of a stream of progress.
type message struct {
	Stream string
	Error  string
}

// maxMessages is more than any image has layers times updates; without a bound an engine could
// keep us for ever.
const maxMessages = 1 << 20

// messages reads a stream of progress to its end. The status of the answer was sent before the
// work began: its failure is in here.
func messages(what string, r io.Reader, each func(message)) error {
	d := json.NewDecoder(r)
	for range maxMessages {
		var m message
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: read the progress: %w", what, err)
		}
		if m.Error != "" {
			return fmt.Errorf("%s: the engine says: %s", what, m.Error)
		}
		each(m)
	}
	return fmt.Errorf("%s: the engine does not come to an end", what)
}
