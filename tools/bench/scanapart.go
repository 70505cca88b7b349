package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// apart measures what reads every byte: the search for secrets in a folder of texts, and archives of
// Java within each other. Both are made of the sources that Go comes with.
func apart(ctx context.Context, b *bench, dir string) (out []figure, err error) {
	text, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("ask where Go's sources are: %w", err)
	}
	sources := filepath.Join(strings.TrimSpace(string(text)), "src")
	texts, archives := filepath.Join(dir, "texts"), filepath.Join(dir, "archives")
	defer os.RemoveAll(texts)
	defer os.RemoveAll(archives)
	size, files, err := copyTexts(sources, filepath.Join(texts, "srv"))
	if err != nil {
		return nil, fmt.Errorf("make a folder of texts: %w", err)
	}
	searched, _, err := b.scanFolder(ctx, dir, texts, "secret")
	if err != nil {
		return nil, err
	}
	not, _, err := b.scanFolder(ctx, dir, texts, "none")
	if err != nil {
		return nil, err
	}
	out = append(out,
		plain("Secrets: a folder of texts", "%.0f MB, %d files", float64(size)/1e6, files),
		plain("… searched, the least of five", "%.2f CPU-s", searched.cpu.Seconds()),
		plain("… for 100 MiB", "%.2f CPU-s", searched.cpu.Seconds()/float64(size)*(100<<20)),
		plain("… the most memory", "%.0f MiB", float64(searched.peak)/(1<<20)),
		plain("… not searched (packages alone)", "%.2f CPU-s", not.cpu.Seconds()))
	size, want, err := writeArchives(sources, archives)
	if err != nil {
		return out, fmt.Errorf("make archives of Java: %w", err)
	}
	for _, kind := range []struct{ folder, title string }{{stored, "stored in others"}, {packed, "compressed in others"}} {
		s, packages, err := b.scanFolder(ctx, dir, filepath.Join(archives, kind.folder), "none")
		if err != nil {
			return out, err
		}
		if packages != want {
			return out, fmt.Errorf("%d packages were found in archives of Java, want %d", packages, want)
		}
		out = append(out,
			plain("Archives of Java "+kind.title, "%.0f MB, %d packages", float64(size)/1e6, packages),
			plain("… the least of five", "%.2f CPU-s", s.cpu.Seconds()),
			plain("… the most memory", "%.0f MiB", float64(s.peak)/(1<<20)))
	}
	return out, nil
}

// scanFolder scans a folder five times for packages and what is named, and tells how many packages it has.
func (b *bench) scanFolder(ctx context.Context, dir, root, scanners string) (*spent, int, error) {
	_, s, err := repeated(5, func() (*spent, error) {
		return measure(ctx, b, dir, filepath.Join(b.bin, "belay"), "scan", root, "--no-cache", "-o", "json", "--scanners", scanners)
	})
	if err != nil {
		return nil, 0, err
	}
	var rep struct {
		Inventory struct {
			Packages []json.RawMessage `json:"packages"`
		} `json:"inventory"`
	}
	if err := json.Unmarshal(s.stdout, &rep); err != nil {
		return nil, 0, err
	}
	return s, len(rep.Inventory.Packages), nil
}

// eachSource calls do for Go's sources but those of tests' data, which no scan searches.
func eachSource(sources string, do func(path string) error) error {
	return filepath.WalkDir(sources, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "testdata":
			return fs.SkipDir
		case !d.Type().IsRegular() || filepath.Ext(path) != ".go":
			return nil
		}
		return do(path)
	})
}

func copyTexts(sources, to string) (size int64, files int, err error) {
	err = eachSource(sources, func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file := filepath.Join(to, strings.TrimPrefix(path, sources))
		size, files = size+int64(len(b)), files+1
		return errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, b, 0o644))
	})
	return size, files, err
}

// Archives within archives, as Spring Boot stores them and as other tools pack them.
const (
	stored = "stored"
	packed = "packed"

	jarBytes = 512 << 10 // of what is in one, unpacked
	jarsIn   = 20        // a larger one
)

// writeArchives writes the same archives of Java, with Go's sources as their classes, into others in both
// ways: size is what is in them, unpacked, and packages how many there are.
func writeArchives(sources, to string) (size int64, packages int, err error) {
	var inner [][]byte
	outer := 0
	flush := func() error {
		if len(inner) == 0 {
			return nil
		}
		outer++
		packages += 1 + len(inner)
		for folder, method := range map[string]uint16{stored: zip.Store, packed: zip.Deflate} {
			if err := writeOuter(filepath.Join(to, folder, fmt.Sprintf("app%d-1.0.0.war", outer)), outer, inner, method); err != nil {
				return err
			}
		}
		inner = nil
		return nil
	}
	var one bytes.Buffer
	var z *zip.Writer
	held := 0
	end := func() error {
		if z == nil {
			return nil
		}
		err := z.Close()
		inner, z, held = append(inner, bytes.Clone(one.Bytes())), nil, 0
		if err == nil && len(inner) == jarsIn {
			err = flush()
		}
		return err
	}
	err = eachSource(sources, func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if z == nil {
			one.Reset()
			if z, err = newArchive(&one, inArtifact(outer+1, len(inner))); err != nil {
				return err
			}
		}
		size, held = size+int64(len(b)), held+len(b)
		if err := addEntry(z, "org/example/bench"+strings.TrimSuffix(strings.TrimPrefix(path, sources), ".go")+".class", b, zip.Deflate); err != nil {
			return err
		}
		if held >= jarBytes {
			return end()
		}
		return nil
	})
	return size, packages, errors.Join(err, end(), flush())
}

// newArchive begins an archive that tells its name as Maven has it.
func newArchive(w io.Writer, artifact string) (*zip.Writer, error) {
	z := zip.NewWriter(w)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed) })
	pom := fmt.Sprintf("groupId=org.example.bench\nartifactId=%s\nversion=1.0.0\n", artifact)
	return z, addEntry(z, "META-INF/maven/org.example.bench/"+artifact+"/pom.properties", []byte(pom), zip.Deflate)
}

// inArtifact names the i-th archive within the n-th.
func inArtifact(n, i int) string { return fmt.Sprintf("lib%dx%d", n, i) }

func addEntry(z *zip.Writer, name string, b []byte, method uint16) error {
	w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: method})
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func writeOuter(path string, n int, inner [][]byte, method uint16) error {
	var b bytes.Buffer
	z, err := newArchive(&b, fmt.Sprintf("app%d", n))
	if err != nil {
		return err
	}
	for i, jar := range inner {
		if err := addEntry(z, "WEB-INF/lib/"+inArtifact(n, i)+"-1.0.0.jar", jar, method); err != nil {
			return err
		}
	}
	return errors.Join(z.Close(), os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b.Bytes(), 0o644))
}
