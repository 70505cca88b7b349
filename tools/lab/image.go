package lab

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// File is one entry of an image. A name that ends in a slash is a directory.
type File struct {
	Name string // without a leading slash
	Mode int64  // with 0o4000 for setuid
	UID  int
	Body []byte // of a file
	Link string // target: makes it a symbolic link
}

// Program returns a file of root's that everybody may run.
func Program(name string, body []byte) File { return File{Name: name, Mode: 0o755, Body: body} }

// Import makes an image of files. changes are lines of a Dockerfile, such as
// "USER 1000".
func (e *Engine) Import(ctx context.Context, ref string, files []File, changes ...string) error {
	return e.importFrom(ctx, ref, func(w io.Writer) error { return writeTar(w, files) }, changes)
}

// ImportTar makes an image of the tar archive in a file, with extra files on top.
func (e *Engine) ImportTar(ctx context.Context, ref, archive string, extra []File, changes ...string) error {
	return e.importFrom(ctx, ref, func(w io.Writer) error {
		f, err := os.Open(archive)
		if err != nil {
			return err
		}
		defer f.Close()
		return appendTar(w, f, extra)
	}, changes)
}

func (e *Engine) importFrom(ctx context.Context, ref string, write func(io.Writer) error, changes []string) error {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(write(pw)) }()
	args := []string{"import"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	r := e.DockerIn(ctx, pr, append(args, "-", ref)...)
	pr.Close() // ends the writer if docker did not read it all
	if r.Code != 0 {
		return fmt.Errorf("make image %s: %w", ref, r.Err())
	}
	return nil
}

func writeTar(w io.Writer, files []File) error {
	tw := tar.NewWriter(w)
	if err := addFiles(tw, files); err != nil {
		return err
	}
	return tw.Close()
}

func addFiles(tw *tar.Writer, files []File) error {
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Uid: f.UID, Gid: f.UID, Size: int64(len(f.Body)), Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(f.Name, "/"):
			h.Typeflag = tar.TypeDir
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("image file %s: %w", f.Name, err)
		}
		if _, err := tw.Write(f.Body); err != nil {
			return fmt.Errorf("image file %s: %w", f.Name, err)
		}
	}
	return nil
}

// appendTar copies an archive entry by entry, so that more can follow its last.
func appendTar(w io.Writer, archive io.Reader, extra []File) error {
	tw, tr := tar.NewWriter(w), tar.NewReader(archive)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
	if err := addFiles(tw, extra); err != nil {
		return err
	}
	return tw.Close()
}

// Digest returns the digest that names an image.
func (e *Engine) Digest(ctx context.Context, ref string) (string, error) {
	r := e.Docker(ctx, "image", "inspect", "--format", "{{.Id}}", ref)
	if r.Code != 0 {
		return "", r.Err()
	}
	return strings.TrimSpace(r.Stdout), nil
}

// Actor returns the static program that plays in the containers; see tools/lab/actor.
func (l *Lab) Actor(ctx context.Context) ([]byte, error) {
	if l.opts.Actor == "" {
		if err := l.build(ctx, "actor", "./tools/lab/actor"); err != nil {
			return nil, err
		}
		l.opts.Actor = l.Path("bin", "actor")
	}
	b, err := os.ReadFile(l.opts.Actor)
	if err != nil {
		return nil, fmt.Errorf("the actor: %w", err)
	}
	return b, nil
}

// Busybox returns the host's busybox, which must be static.
func Busybox() ([]byte, error) {
	b, err := os.ReadFile("/bin/busybox")
	if errors.Is(err, fs.ErrNotExist) || err == nil && strings.Contains(string(b), "/lib64/ld-linux") {
		return nil, errors.New("a static /bin/busybox is missing: apt-get install busybox-static")
	}
	return b, err
}

// build makes a static program from the module's source.
func (l *Lab) build(ctx context.Context, name, pkg string) error {
	l.logf("building %s", name)
	if err := os.MkdirAll(l.Path("bin"), 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", l.Path("bin", name), pkg)
	cmd.Dir, cmd.Env = l.opts.Source, append(os.Environ(), "CGO_ENABLED=0")
	if r := run(cmd); r.Code != 0 {
		return fmt.Errorf("build %s: %w", name, r.Err())
	}
	return nil
}

// Scanner returns the path of belay-scanner.
func (l *Lab) Scanner(ctx context.Context) (string, error) {
	return l.binary(ctx, "belay-scanner", "./cmd/scanner")
}

// binary returns the path of one of the product's binaries.
func (l *Lab) binary(ctx context.Context, name, pkg string) (string, error) {
	if l.opts.BinDir != "" {
		p, err := filepath.Abs(filepath.Join(l.opts.BinDir, name))
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(p); err != nil {
			return "", fmt.Errorf("%w; run make build", err)
		}
		return p, nil
	}
	p := l.Path("bin", name)
	if _, err := os.Stat(p); err == nil {
		return p, nil
	}
	return p, l.build(ctx, name, pkg)
}
