package move

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/recreate"
)

// bringImage has the target get the image: it is there, it is pulled by digest, or it comes as
// a stream from the source.
func (r *run) bringImage(ctx context.Context, p *Plan) error {
	if _, err := r.imageRef(ctx, p); err == nil || !errors.Is(err, errNoImage) {
		return err
	}
	how := r.j.Settings.Image
	var pulled error
	if how != "stream" {
		if pulled = r.pull(ctx, p); pulled == nil {
			return nil
		}
	}
	if how == "pull" {
		return fmt.Errorf("target: the image cannot be pulled: %w; fix: --image stream sends it from here", pulled)
	}
	return r.stream(ctx, p)
}

var errNoImage = errors.New("the image is not there")

// imageRef returns a name by which the target has the image: the operator's, if it stands for
// the same image there.
func (r *run) imageRef(ctx context.Context, p *Plan) (string, error) {
	refs := []string{p.Recipe.Request.Image, p.Image.ID}
	refs = append(refs, p.Image.RepoDigests...)
	refs = append(refs, p.Image.RepoTags...)
	for _, ref := range refs {
		if ref == "" {
			continue
		}
		img, err := r.to.Image(ctx, ref)
		if errors.Is(err, engine.ErrNotFound) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("target: %w", err)
		}
		if recreate.SameImage(p.Image, img) {
			if ref == p.Recipe.Request.Image {
				return ref, nil
			}
			return img.ID, nil
		}
	}
	return r.untagged(ctx, p)
}

// untagged looks among all images for one without a name: engines that let containerd keep
// images give the same content another ID.
func (r *run) untagged(ctx context.Context, p *Plan) (string, error) {
	ids, err := r.to.Images(ctx)
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	for _, id := range ids {
		img, err := r.to.Image(ctx, id)
		if errors.Is(err, engine.ErrNotFound) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("target: %w", err)
		}
		if recreate.SameImage(p.Image, img) {
			return id, nil
		}
	}
	return "", fmt.Errorf("target: %w", errNoImage)
}

// pull tries all digests under which the source knows the image.
func (r *run) pull(ctx context.Context, p *Plan) error {
	errs := []error{errors.New("the source knows no digest of a registry for it")}
	for _, d := range p.Image.RepoDigests {
		r.o.Progress(Event{Step: StepImage, Text: "pull " + d})
		if err := r.to.Pull(ctx, d); err != nil {
			errs = append(errs, err)
			continue
		}
		if _, err := r.imageRef(ctx, p); err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s is another image there", d))
	}
	return errors.Join(errs...)
}

// stream sends the image from the source to the target.
func (r *run) stream(ctx context.Context, p *Plan) error {
	name, err := r.saveAs(ctx, p)
	if err != nil {
		return err
	}
	body, err := r.from.Save(ctx, name)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	defer body.Close()
	in := &counter{r: body, tell: func(n int64) {
		r.o.Progress(Event{Step: StepImage, Text: "send " + name, Bytes: n, Total: p.Image.Size, CopiedBytes: true})
	}}
	if _, err := r.to.Load(ctx, in); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if _, err := r.imageRef(ctx, p); err != nil {
		return fmt.Errorf("after it was sent: %w", err)
	}
	return nil
}

// saveAs returns the name to save the image under. With its name it has that on the target too,
// unless the target has given it to another image, which would lose it.
func (r *run) saveAs(ctx context.Context, p *Plan) (string, error) {
	ref := p.Recipe.Request.Image
	for _, tag := range []string{ref, ref + ":latest"} {
		if !slices.Contains(p.Image.RepoTags, tag) {
			continue
		}
		_, err := r.to.Image(ctx, tag)
		if errors.Is(err, engine.ErrNotFound) {
			return tag, nil
		}
		if err != nil {
			return "", fmt.Errorf("target: %w", err)
		}
	}
	return p.Image.ID, nil
}

// counter counts what is read through it, and tells every megabyte.
type counter struct {
	r       io.Reader
	n, told int64
	tell    func(int64)
}

// Read implements [io.Reader].
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.add(n, err != nil)
	return n, err
}

func (c *counter) add(n int, end bool) {
	c.n += int64(n)
	if c.n-c.told >= 1<<20 || end {
		c.told = c.n
		c.tell(c.n)
	}
}
