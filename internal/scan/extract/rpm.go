package extract

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/rpmdb"
)

// Databases of RPM, and the file in which SQLite keeps what is not in its database yet.
func wantsRPM(name string, _ fs.FileMode, size int64) bool {
	dir, base := path.Split(name)
	switch dir {
	case "var/lib/rpm/", "usr/lib/sysimage/rpm/", "usr/share/rpm/":
		return base == "rpmdb.sqlite" || base == "Packages" || base == "Packages.db" || base == sqliteWAL && size != 0
	}
	return false
}

const sqliteWAL = "rpmdb.sqlite-wal"

// maxRPM is the largest database that is held in memory, which one in a compressed layer is.
// That of a server with 1,500 packages has some 40 MB; it counts against the cap of 128 MiB.
const maxRPM = 64 << 20

// readRPM reads a database of RPM.
func readRPM(name string, c image.Content) (inventory.File, error) {
	if path.Base(name) == sqliteWAL {
		return inventory.File{}, errors.New("an RPM database with changes that are not in it yet: what they tell is missing")
	}
	at := c.At
	if at == nil {
		if c.Size > maxRPM {
			return inventory.File{}, fmt.Errorf("an RPM database of more than %d bytes in a compressed layer", maxRPM)
		}
		b := make([]byte, c.Size)
		n, err := io.ReadFull(c, b)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return inventory.File{}, err
		}
		at, c.Size = bytes.NewReader(b[:n]), int64(n)
	}
	var f inventory.File
	err := rpmdb.Read(at, c.Size, func(p rpmdb.Package) error {
		if p.Name == "gpg-pubkey" {
			return nil // a key that rpm trusts, kept as if it were a package
		}
		pkg := rpmPackage(p)
		f.Packages = append(f.Packages, pkg)
		if len(f.Packages) > inventory.MaxPackages {
			return fmt.Errorf("an RPM database of more than %d packages", inventory.MaxPackages)
		}
		own := owning{f: &f, owner: p.Name}
		p.Files(func(file string) { own.add(strings.TrimPrefix(file, "/")) })
		return nil
	})
	sourceEpochs(f.Packages)
	return f, err
}

// sourceEpochs gives source versions their epochs, which the names of source packages lack. It is
// that of the package with its source's name and version: perl-Pod-Escapes 1:1.07 and perl 4:5.26.3
// are built from perl 4:5.26.3. Without one it is the lowest of those with its source's version, and
// without any none, so that a version counts as older rather than newer than it is.
func sourceEpochs(list []inventory.Package) {
	type source struct{ name, version string }
	type told struct {
		epoch int
		own   bool // by the package of the source's name
	}
	epochs := map[source]told{}
	for i := range list {
		p := &list[i]
		text, version, ok := strings.Cut(p.Version, ":")
		if !ok {
			text, version = "0", p.Version
		}
		epoch, err := strconv.Atoi(text)
		if err != nil {
			continue
		}
		key, now := source{p.Source, version}, told{epoch, p.Name == p.Source}
		if was, known := epochs[key]; !known || now.own || !was.own && now.epoch < was.epoch {
			epochs[key] = now
		}
	}
	for i := range list {
		p := &list[i]
		if of := epochs[source{p.Source, p.SourceVersion}]; of.epoch > 0 {
			p.SourceVersion = fmt.Sprintf("%d:%s", of.epoch, p.SourceVersion)
		}
	}
}

// rpmPackage gives a package its version as advisories write it: [EPOCH:]VERSION-RELEASE.
func rpmPackage(p rpmdb.Package) inventory.Package {
	version := p.Version + "-" + p.Release
	if p.HasEpoch && p.Epoch > 0 {
		version = fmt.Sprintf("%d:%s", p.Epoch, version)
	}
	out := inventory.Package{Kind: inventory.KindRPM, Name: p.Name, Version: version, Arch: p.Arch, Source: p.Name, SourceVersion: p.Version + "-" + p.Release}
	// The epoch is not in the file's name: see sourceEpochs.
	if name, of, ok := inventory.SourceRPM(p.SourceRPM); ok {
		out.Source, out.SourceVersion = name, of
	}
	return out
}
