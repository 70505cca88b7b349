package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Repositories calls fn with the name of each repository of REGISTRY or, of REGISTRY/REPOSITORY,
// with that alone. Names are with their registry.
//
// Errors: that of fn; a registry without a catalogue (many public ones) answers 401, 403 or 404.
func (c *Client) Repositories(ctx context.Context, target string, fn func(repo string) error) error {
	if host, path, ok := strings.Cut(strings.TrimSuffix(target, "/"), "/"); ok && path != "" {
		repo, err := name.NewRepository(host+"/"+path, c.names()...)
		if err != nil {
			return fmt.Errorf("%q is no repository: want REGISTRY[/REPOSITORY]: %w", target, err)
		}
		return fn(repo.Name())
	}
	reg, err := name.NewRegistry(strings.TrimSuffix(target, "/"), append(c.names(), name.StrictValidation)...)
	if err != nil {
		return fmt.Errorf("%q is no registry: want REGISTRY[/REPOSITORY]: %w", target, err)
	}
	h, err := c.client(ctx, reg, reg, reg.Scope(transport.CatalogScope))
	if err != nil {
		return err
	}
	p := place{repo: reg.Repo("_"), http: h}
	start := url.URL{Scheme: reg.Scheme(), Host: reg.RegistryStr(), Path: "/v2/_catalog", RawQuery: "n=1000"}
	return p.pages(ctx, start.String(), "repositories", func(n string) error {
		repo, err := name.NewRepository(reg.RegistryStr()+"/"+n, c.names()...)
		if err != nil {
			return fmt.Errorf("the registry lists a repository %.100q: %w", n, err)
		}
		return fn(repo.Name())
	})
}

// Tags calls fn with each tag of a repository. Errors: that of fn, [ErrNotFound], those of the network.
func (c *Client) Tags(ctx context.Context, repo string, fn func(tag string) error) error {
	p, err := c.named(ctx, repo)
	if err != nil {
		return err
	}
	return p.pages(ctx, p.url("tags", "list")+"?n=1000", "tags", fn)
}

func (c *Client) named(ctx context.Context, repo string) (place, error) {
	r, err := name.NewRepository(repo, c.names()...)
	if err != nil {
		return place{}, err
	}
	return c.place(ctx, r)
}

var sha256Digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Digest asks for the digest of a tag without fetching its manifest, which many registries
// count. It is the registry's word; empty where it does not say.
//
// Errors: [ErrNotFound], those of the network.
func (c *Client) Digest(ctx context.Context, ref string) (string, error) {
	r, err := c.parse(ref)
	if err != nil {
		return "", err
	}
	p, err := c.place(ctx, r.Context())
	if err != nil {
		return "", err
	}
	digest := ""
	q := request{method: http.MethodHead, url: p.url("manifests", r.Identifier()), accept: manifestTypes}
	err = p.get(ctx, q, func(res *http.Response) error {
		if d := res.Header.Get("Docker-Content-Digest"); sha256Digest.MatchString(d) {
			digest = d
		}
		return nil
	})
	return digest, err
}

// pages reads a list of names that may come in pages (distribution specification, "Listing
// Tags"): the header Link leads to the next one, which must be of the same host.
func (p place) pages(ctx context.Context, start, field string, fn func(string) error) error {
	seen := map[string]bool{} // addresses of pages, so that none leads to itself
	total, empty := 0, 0
	for at := start; at != ""; {
		if seen[at] {
			return fmt.Errorf("the registry's list leads back to %s", at)
		}
		seen[at] = true
		var list map[string]json.RawMessage
		var next string
		err := p.get(ctx, request{url: at, accept: []string{"application/json"}}, func(r *http.Response) error {
			b, err := inventory.ReadAll(r.Body, maxList)
			if err != nil {
				return err
			}
			if next, err = following(r); err != nil {
				return err
			}
			return json.Unmarshal(b, &list)
		})
		if err != nil {
			return fmt.Errorf("list %s: %w", field, err)
		}
		var names []string
		raw, ok := list[field]
		if !ok {
			return fmt.Errorf("list %s: the registry's answer has no %q", field, field)
		}
		if err := json.Unmarshal(raw, &names); err != nil {
			return fmt.Errorf("list %s: %w", field, err)
		}
		if total += len(names); total > maxNames {
			return fmt.Errorf("the registry lists more than %d %s", maxNames, field)
		}
		for _, n := range names {
			if err := fn(n); err != nil {
				return err
			}
		}
		if empty++; len(names) > 0 {
			empty = 0
		}
		if empty > maxEmpty {
			return fmt.Errorf("list %s: the registry sends more than %d empty pages", field, maxEmpty)
		}
		if at = next; len(names) == 0 && seen[at] {
			return nil // the last page of some registries: it would go on with what was there
		}
	}
	return nil
}

// following returns the address of the next page, if there is one. Source: RFC 8288.
func following(r *http.Response) (string, error) {
	link := strings.ReplaceAll(strings.Join(r.Header.Values("Link"), ", "), `"`, "")
	i := strings.Index(link, "rel=next")
	if i < 0 {
		return "", nil
	}
	// Other addresses may stand before it.
	link = link[:i]
	from, to := strings.LastIndexByte(link, '<'), strings.LastIndexByte(link, '>')
	if from < 0 || to < from {
		return "", errors.New("the address of the next page cannot be read")
	}
	ref := link[from+1 : to]
	u, err := r.Request.URL.Parse(ref)
	if err != nil {
		return "", fmt.Errorf("the address of the next page: %w", err)
	}
	if u.Host != r.Request.URL.Host || u.Scheme != r.Request.URL.Scheme {
		return "", errors.New("the next page is of another host")
	}
	return u.String(), nil
}
