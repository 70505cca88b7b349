package move

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/recreate"
)

// volumeAt is where a helper has the volume.
const volumeAt = "/belay-volume"

var noRestart = container.RestartPolicy{Name: container.RestartPolicyDisabled}

// copyVolumes copies each volume, and has what is on the target read: what counts is that both
// sides have the same tree, by one digest. Nothing runs on either side meanwhile.
func (r *run) copyVolumes(ctx context.Context) error {
	if err := r.sourcesRest(ctx); err != nil {
		return err
	}
	for i := range r.j.Volumes {
		v := &r.j.Volumes[i]
		if v.Digest != "" {
			continue // copied and compared before this process began, and nothing has run since
		}
		if err := r.copyVolume(ctx, v); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		if err := r.save(); err != nil {
			return err
		}
		r.o.At(string(StepCopy) + "/volume")
	}
	// Whoever started the source meanwhile has made what was copied worthless, and whoever started the
	// copy has written to it.
	if err := errors.Join(r.sourcesRest(ctx), r.alone(ctx)); err != nil {
		return err
	}
	return r.each(func(m *Member) error {
		c, err := r.to.Container(ctx, m.Target)
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		if started(c) {
			return errors.New("target: somebody has started the copy before its data was there")
		}
		return nil
	})
}

// helpers makes the two containers that reach a volume, or returns those that are there. They have the image of the first container
// that moves, since that is there.
func (r *run) helpers(ctx context.Context, name string) (src, dst string, err error) {
	if src, err = r.helper(ctx, r.from, name, r.j.Member.plan.Recipe.ImageID, true); err != nil {
		return "", "", fmt.Errorf("source: %w", err)
	}
	ref, err := r.imageRef(ctx, r.j.Member.plan)
	if err != nil {
		return "", "", err
	}
	if dst, err = r.helper(ctx, r.to, name, ref, false); err != nil {
		return "", "", fmt.Errorf("target: %w", err)
	}
	return src, dst, nil
}

// copyVolume copies a volume as it is packed here, if it can be, and else, or if that is not the same there, as the source's engine
// packs it: engines have habits, and those of one go well with those of the other.
func (r *run) copyVolume(ctx context.Context, v *JournalVolume) error {
	src, dst, err := r.helpers(ctx, v.Name)
	if err != nil {
		return err
	}
	err = r.copySame(ctx, v, src, dst, r.sendFromHere)
	if errors.Is(err, errNotSame) {
		again := fmt.Sprintf("note: volume %s is copied again, from its engine: %v", v.Name, err)
		r.j.note(r.o.Now(), again)
		r.o.Progress(Event{Step: StepCopy, Text: again})
	}
	if errors.Is(err, errNotSame) || errors.Is(err, errNotHere) {
		err = r.copySame(ctx, v, src, dst, r.send)
	}
	return err
}

// errNotSame is for a volume that is another on the target than was sent.
var errNotSame = errors.New("the copy is not the same")

func (r *run) copySame(ctx context.Context, v *JournalVolume, src, dst string, send func(ctx context.Context, name, src, dst string) (string, int64, error)) error {
	sent, n, err := send(ctx, v.Name, src, dst)
	if err != nil {
		return err
	}
	there, err := r.there(ctx, dst, sent)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if sent != there {
		return fmt.Errorf("%w: %s here, %s there", errNotSame, sent, there)
	}
	v.Digest, v.Bytes = sent, n
	return nil
}

// there returns the digest of what is on the target: of what its gate has read there or, where that says none or another one
// than it should be, of what its engine sends back. Engines differ in what they have of a file, and the gate goes by one.
func (r *run) there(ctx context.Context, helper, want string) (string, error) {
	if !remapped(r.to.Info.SecurityOptions) { // engines have other owners of files than their hosts then
		if said, err := r.to.TreeDigest(ctx, helper, volumeAt); err == nil && said == want {
			return said, nil
		}
	}
	back, err := r.to.Archive(ctx, helper, volumeAt)
	if err != nil {
		return "", err
	}
	defer back.Close()
	return digestTree(back)
}

// sending is what a volume that was sent had.
type sending struct {
	digest string
	err    error
}

// counted tells how much of a volume was sent.
func (r *run) counted(name string, body io.Reader) *counter {
	return &counter{r: body, tell: func(n int64) {
		r.o.Progress(Event{Step: StepCopy, Text: "copy " + name, Bytes: n, CopiedBytes: true})
	}}
}

// send streams a volume from one helper to the other, and returns the digest of its tree.
func (r *run) send(ctx context.Context, name, src, dst string) (digest string, n int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := r.from.Archive(ctx, src, volumeAt)
	if err != nil {
		return "", 0, fmt.Errorf("source: %w", err)
	}
	defer body.Close()
	in := r.counted(name, body)
	pr, pw := io.Pipe()
	read := make(chan sending, 1)
	go func() {
		d, err := digestTree(pr)
		pr.CloseWithError(err) // a reader that gave up must not hold up the stream
		read <- sending{d, err}
	}()
	tee := &ending{r: io.TeeReader(in, pw), end: pw.CloseWithError}
	// Names in the stream begin with the volume's directory. It is unpacked above that: engines
	// refuse links that lead out of where they unpack, and volumes may have such.
	err = r.to.Extract(ctx, dst, "/", tee)
	if err != nil {
		pw.CloseWithError(io.ErrUnexpectedEOF) // nothing, if the stream came to its end
	}
	var got sending
	select {
	case got = <-read:
	case <-time.After(r.o.streamEnd):
		pw.CloseWithError(io.ErrUnexpectedEOF)
		got = <-read
	}
	if got.err != nil && !errors.Is(got.err, io.ErrUnexpectedEOF) {
		return "", 0, fmt.Errorf("source: read the archive: %w", got.err)
	}
	if err != nil {
		return "", 0, fmt.Errorf("target: %w", err)
	}
	if got.err != nil {
		return "", 0, fmt.Errorf("source: read the archive: %w", got.err)
	}
	return got.digest, in.n, nil
}

// ending passes the end of a stream on.
type ending struct {
	r   io.Reader
	end func(error) error
}

// Read implements [io.Reader].
func (e *ending) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil {
		_ = e.end(err) // io.EOF ends the other side in order; it returns nil always
	}
	return n, err
}

// helper makes a container that has the volume and never starts, or returns the one that is
// there. Where the image would have volumes of its own it has the same one, so that no other is
// made. Engines read and write a container's volumes whether it runs or not.
func (r *run) helper(ctx context.Context, e *engine.Engine, name, image string, readOnly bool) (string, error) {
	sum := sha256.Sum256([]byte(name))
	list, err := r.ours(ctx, e)
	if err != nil {
		return "", err
	}
	for i := range list {
		if list[i].Labels[recreate.LabelHelper] == name {
			return list[i].ID, nil
		}
	}
	img, err := e.Image(ctx, image)
	if err != nil {
		return "", err
	}
	at := []string{volumeAt}
	if img.Config != nil {
		for p := range img.Config.Volumes {
			if p = strings.TrimRight(p, "/"); p != "" && p != volumeAt {
				at = append(at, p)
			}
		}
	}
	req := container.CreateRequest{
		Config: &container.Config{
			Image: image, Entrypoint: []string{""}, Cmd: []string{"/belay-never-started"},
			Labels: map[string]string{recreate.LabelMove: r.j.ID, recreate.LabelHelper: name},
		},
		HostConfig: &container.HostConfig{NetworkMode: "none", RestartPolicy: noRestart},
	}
	for _, p := range at {
		req.HostConfig.Mounts = append(req.HostConfig.Mounts, mount.Mount{
			Type: mount.TypeVolume, Source: name, Target: p, ReadOnly: readOnly, VolumeOptions: &mount.VolumeOptions{NoCopy: true},
		})
	}
	return e.Create(ctx, "belay-move-"+r.j.ID[:8]+"-"+hex.EncodeToString(sum[:6]), req, "")
}
