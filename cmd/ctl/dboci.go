package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/registry"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// ociPrefix says that a database is an artifact in a registry.
const ociPrefix = "oci://"

// Types and annotations of the artifact (docs/scan.md, "The database").
const (
	dbArtifactType = "application/vnd.belay.vulndb.v1"
	dbLayerType    = "application/vnd.belay.vulndb.layer.v1+gzip"
	ociCreated     = "org.opencontainers.image.created"
	ociTitle       = "org.opencontainers.image.title"
	dbFormatNote   = "dev.belay.vulndb.format"
	dbDigestNote   = "dev.belay.vulndb.digest"
	dbRecordsNote  = "dev.belay.vulndb.records"
)

// pushDB puts a database into a registry.
func (t *terminal) pushDB(ctx context.Context, reg *registryFlags, path, ref string) error {
	db, err := openDB(path)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Verify(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var packed bytes.Buffer
	h, z := sha256.New(), gzip.NewWriter(&packed)
	if _, err := db.WriteTo(io.MultiWriter(h, z)); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	st := db.Status()
	client := reg.client()
	defer client.Close()
	digest, err := client.Push(ctx, ref, registry.Artifact{Type: dbArtifactType, LayerType: dbLayerType, Annotations: map[string]string{
		ociCreated: st.Built.Format(time.RFC3339), ociTitle: filepath.Base(defaultDB), dbFormatNote: strconv.Itoa(vulndb.Format),
		dbDigestNote: "sha256:" + hex.EncodeToString(h.Sum(nil)), dbRecordsNote: strconv.Itoa(st.Records),
	}}, packed.Bytes())
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(struct {
			Reference string        `json:"reference"`
			Digest    string        `json:"digest"`
			Database  vulndb.Status `json:"database"`
		}{ociPrefix + ref, digest, st})
	}
	t.writeDB(path, &st)
	fmt.Fprintf(t.out, "it is %s%s@%s, %s\n", ociPrefix, clean(repositoryOf(ref)), digest, mebibytes(packed.Len()))
	return nil
}

// repositoryOf is a name without its tag.
func repositoryOf(ref string) string {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i]
	}
	return ref
}

// pullDB takes a database from a registry. With newer one that is older than the one in place is
// refused, and the same is not fetched.
func (t *terminal) pullDB(ctx context.Context, reg *registryFlags, ref, path string, newer bool) error {
	client := reg.client()
	defer client.Close()
	a, err := client.Artifact(ctx, ref, dbArtifactType, dbLayerType)
	if err != nil {
		return fmt.Errorf("%w; the former database stays", err)
	}
	if f := a.Annotations[dbFormatNote]; f != "" && f != strconv.Itoa(vulndb.Format) {
		return fmt.Errorf("%s has format %.20q, and this version of belay reads %d; the former database stays", ref, f, vulndb.Format)
	}
	here, err := fileDigest(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if newer && here != "" && here == a.Annotations[dbDigestNote] {
		db, err := vulndb.Open(path)
		if err == nil {
			defer db.Close()
			if t.output == formatJSON {
				return t.writeJSON(db.Status())
			}
			fmt.Fprintf(t.out, "%s: nothing changed\n", clean(path))
			return nil
		}
	}
	dir, done, err := pullDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer done()
	fresh := filepath.Join(dir, "vuln.db")
	m := t.meter()
	err = unpackDB(ctx, a, m, filepath.Join(dir, "packed"), fresh)
	m.end()
	if err != nil {
		return fmt.Errorf("%s: %w; the former database stays", ref, err)
	}
	if newer {
		if err := notOlder(fresh, path, t.now()); err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
	}
	return t.copyDB(fresh, path)
}

// pullPrefix begins the names of folders that databases are pulled into.
const pullPrefix = ".belay-db-"

// pullDir makes a folder to pull a database into, which done removes, and removes those that killed
// pulls have left: a live one holds the lock of its own.
func pullDir(parent string) (dir string, done func(), err error) {
	left, err := filepath.Glob(filepath.Join(parent, pullPrefix+"*"))
	if err != nil {
		return "", nil, err
	}
	for _, old := range left {
		if f, err := lockDir(old); err == nil {
			_ = os.RemoveAll(old) // who may not remove it leaves it to whoever may
			f.Close()
		}
	}
	// One that was taken for a dead one's before it was locked is gone: the next is not.
	for range 10 {
		if dir, err = os.MkdirTemp(parent, pullPrefix); err != nil {
			return "", nil, err
		}
		f, err := lockDir(dir)
		if err != nil {
			continue
		}
		if _, err := os.Lstat(dir); err != nil {
			f.Close()
			continue
		}
		return dir, func() { os.RemoveAll(dir); f.Close() }, nil
	}
	return "", nil, fmt.Errorf("make a folder in %s: others remove it at once", parent)
}

// lockDir locks a folder for as long as the file is open, also for other processes.
func lockDir(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), dir)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// unpackDB fetches the blob, and unpacks it when its digest was seen to be right.
func unpackDB(ctx context.Context, a *registry.Artifact, m *meter, packed, fresh string) error {
	f, err := os.OpenFile(packed, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := a.Copy(ctx, m.counts(f, a.Size)); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("unpack the database: %w", err)
	}
	out, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(z, vulndb.MaxFile+1))
	if err != nil {
		return fmt.Errorf("unpack the database: %w", err)
	}
	if n > vulndb.MaxFile {
		return fmt.Errorf("the database has more than %d bytes", vulndb.MaxFile)
	}
	got := "sha256:" + hex.EncodeToString(h.Sum(nil))
	if want := a.Annotations[dbDigestNote]; want != "" && got != want {
		return fmt.Errorf("the database has the digest %s, and %s by its annotation: %w", got, clean(want), registry.ErrDamaged)
	}
	return out.Close()
}

// notOlder fails if one database has older data than another, or the same and was built before it: a
// registry that shows yesterday's must not make findings vanish unseen. One of the future is not taken: how
// old it is nobody knows, and it would keep all others out.
func notOlder(fresh, path string, now time.Time) error {
	next, err := vulndb.Open(fresh)
	if err != nil {
		return fmt.Errorf("%w; the former database stays", err)
	}
	defer next.Close()
	latest := now.Add(time.Hour) // clocks differ
	if next.AsOf().After(latest) || next.Built().After(latest) {
		return fmt.Errorf("its data are of %s and it was built %s, which is in the future: a clock is wrong; the former database stays", next.AsOf().Format(time.RFC3339), next.Built().Format(time.RFC3339))
	}
	here, err := vulndb.Open(path)
	if err != nil {
		return nil //nolint:nilerr // any is better than none, or one that is broken
	}
	defer here.Close()
	if here.AsOf().After(latest) || here.Built().After(latest) {
		return nil
	}
	if cmp.Or(next.AsOf().Compare(here.AsOf()), next.Built().Compare(here.Built())) < 0 {
		times := func(db *vulndb.DB) string {
			return fmt.Sprintf("are of %s and it was built %s", db.AsOf().Format(time.RFC3339), db.Built().Format(time.RFC3339))
		}
		return fmt.Errorf("its data %s, those of the one in place, which stays, %s: 'belay db import' takes an older one", times(next), times(here))
	}
	return nil
}

// fileDigest is the digest of a file.
func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// notJoined refuses flags about what a database is made of where one is taken as it is.
func notJoined(cmd *cobra.Command, from string, flags ...string) error {
	for _, name := range flags {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("%s is a database, and --%s is about what one is made of: leave it out", from, name)
		}
	}
	return nil
}
