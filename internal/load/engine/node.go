package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/belay-project/belay/internal/load/plan"
)

// gatePrefix begins the paths that are not the engine's but those of a gate before it.
const gatePrefix = "/belay/"

// NodePath is where a gate describes its node, and says whether images may run there.
const NodePath = "/belay/v1/node"

// MaxAskedImages bounds how many images are asked about at once.
const MaxAskedImages = 256

// Node asks the gate at a to describe its node, and whether images, by their IDs, may run there.
//
// Errors: an address that is none; what the gate says, in words for the operator.
func Node(ctx context.Context, a Address, images []string) (*plan.Description, error) {
	if len(images) > MaxAskedImages {
		return nil, fmt.Errorf("more than %d images are asked about at once", MaxAskedImages)
	}
	e, err := reach(a, nil)
	if err != nil {
		return nil, fmt.Errorf("gate %s: %w", a.URL, err)
	}
	e.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	defer e.Close()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	q := url.Values{}
	if len(images) > 0 {
		q["image"] = images
	}
	body, err := e.send(ctx, "ask for the node", http.MethodGet, NodePath, q, nil, "")
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, fmt.Errorf("gate %s: it describes no node: this is an engine without Belay's gate, or an older Belay; fix: name the address of the gate", a.URL)
	case err != nil:
		return nil, fmt.Errorf("gate %s: %w", a.URL, err)
	}
	defer body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(io.LimitReader(body, maxAnswer+1)); err != nil {
		return nil, fmt.Errorf("gate %s: %w", a.URL, err)
	}
	if b.Len() > maxAnswer {
		return nil, fmt.Errorf("gate %s: the description has more than %d bytes", a.URL, maxAnswer)
	}
	d, err := plan.ReadDescription(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("gate %s: %w", a.URL, err)
	}
	return d, nil
}
