package extract

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// Bounds on one archive of Java, with all that are within it.
const (
	maxJarDepth   = 6         // archives within archives
	maxJarEntries = 1_000_000 // over all
	maxJars       = 5_000
	maxJarHeld    = 64 << 20 // held in memory at once: what is compressed
	maxJarWork    = 1 << 30  // decompressed in all
	maxJarText    = 1 << 20  // a manifest, a pom.properties
	maxJarPoms    = 10_000
)

var javaArchives = map[string]bool{".jar": true, ".war": true, ".ear": true, ".hpi": true, ".jpi": true, ".par": true, ".sar": true, ".kar": true, ".rar": true}

func isJar(name string) bool { return javaArchives[strings.ToLower(path.Ext(name))] }

func wantsJava(name string, _ fs.FileMode, _ int64) bool { return isJar(name) || isPom(name) }

// isPom tells META-INF/maven/GROUP/ARTIFACT/pom.properties, which Maven puts into what it builds
// (Apache Maven Archiver, "addMavenDescriptor"), in an archive or unpacked.
func isPom(name string) bool {
	if !strings.HasSuffix(name, "/pom.properties") {
		return false
	}
	part := strings.Split("/"+name, "/")
	return len(part) >= 6 && part[len(part)-4] == "maven" && part[len(part)-5] == "META-INF"
}

// readJava reads an archive, or the pom.properties of one that was unpacked.
func readJava(name string, c image.Content) (inventory.File, error) {
	if isPom(name) {
		b, err := inventory.ReadAll(c, maxJarText)
		if err != nil {
			return inventory.File{}, fmt.Errorf("a pom.properties: %w", err)
		}
		return inventory.File{Packages: []inventory.Package{pomOf(name, b)}}, nil
	}
	j := &jars{}
	at, size := c.At, c.Size
	if at == nil {
		// The directory is at the end: what can be read only once is held.
		if size > maxJarHeld {
			return inventory.File{}, fmt.Errorf("an archive of Java of more than %d bytes in a compressed layer", maxJarHeld)
		}
		b := make([]byte, size)
		n, err := io.ReadFull(c, b)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return inventory.File{}, err
		}
		at, size, j.held = bytes.NewReader(b[:n]), int64(n), int64(n)
	}
	var head [4]byte
	if n, err := at.ReadAt(head[:], 0); n < len(head) && errors.Is(err, io.EOF) || size == 0 {
		return inventory.File{}, fmt.Errorf("an archive of Java of %d bytes: %w", size, errBroken)
	}
	j.archive(name, "", at, size, 0)
	return inventory.File{Packages: j.out}, j.err()
}

// jars gathers what one file and the archives within it hold.
type jars struct {
	out     []inventory.Package
	errs    []error
	entries int
	count   int
	held    int64 // bytes in memory now
	work    int64 // bytes decompressed
}

// maxJarErrors bounds how many things are said of one file.
const maxJarErrors = 5

// err is all that could not be read, on one line.
func (j *jars) err() error {
	if len(j.errs) < 2 {
		return errors.Join(j.errs...)
	}
	texts := make([]string, 0, len(j.errs))
	for _, err := range j.errs {
		texts = append(texts, err.Error())
	}
	return errors.New(strings.Join(texts, "; "))
}

// bad notes what could not be read, once.
func (j *jars) bad(err error) {
	if len(j.errs) < maxJarErrors && !slices.ContainsFunc(j.errs, func(e error) bool { return e.Error() == err.Error() }) {
		j.errs = append(j.errs, err)
	}
}

// jar is what one archive tells of itself.
type jar struct {
	name     string
	poms     []inventory.Package
	pomOnly  map[string]string // artifact to group, of a pom.xml
	manifest map[string]string
	// classes is the longest package that all classes are in, with slashes.
	classes string
	any     bool // there are classes
}

// archive reads one archive. inner is its place in the file, empty for the file itself.
func (j *jars) archive(name, inner string, at io.ReaderAt, size int64, depth int) {
	if j.count++; j.count > maxJars {
		j.bad(fmt.Errorf("more than %d archives of Java within one: the others were not read", maxJars))
		return
	}
	z, err := openZip(at, size)
	if err != nil {
		j.bad(fmt.Errorf("an archive of Java: %w", err))
		return
	}
	me := &jar{name: path.Base(name), pomOnly: map[string]string{}}
	n, err := z.each(maxJarEntries-j.entries, func(e zipEntry) error { return j.entry(me, z, e, inner, depth) })
	j.entries += n
	if err != nil {
		j.bad(err)
	}
	before := len(j.out)
	own, err := me.packages()
	if err != nil {
		j.bad(err)
	}
	j.out = append(j.out, own...)
	for i := range j.out[before:] {
		j.out[before+i].Path = inner
	}
	if len(j.out) > inventory.MaxPackages {
		j.out = j.out[:inventory.MaxPackages]
		j.bad(fmt.Errorf("an archive of Java of more than %d packages", inventory.MaxPackages))
	}
}

func (j *jars) entry(me *jar, z *zipDir, e zipEntry, inner string, depth int) error {
	switch {
	case strings.HasSuffix(e.name, "/"):
	case strings.HasSuffix(e.name, ".class"):
		me.class(e.name)
	case e.name == "META-INF/MANIFEST.MF":
		if b := j.text(z, e); b != nil {
			me.manifest = manifestOf(b)
		}
	case path.Base(e.name) == "pom.properties":
		if len(me.poms) >= maxJarPoms {
			return fmt.Errorf("an archive of Java with more than %d pom.properties", maxJarPoms)
		}
		// Other builds put it elsewhere: then its path says nothing, and it must itself.
		if b := j.text(z, e); b != nil {
			switch p := pomOf(e.name, b); {
			case len(p.Name) > inventory.MaxText || len(p.Version) > inventory.MaxVersion:
				j.bad(fmt.Errorf("a pom.properties with a name or version that is too long: %w", errBroken))
			case p.Name[0] != ':' && p.Name[len(p.Name)-1] != ':':
				me.poms = append(me.poms, p)
			}
		}
	case strings.HasPrefix(e.name, "META-INF/maven/") && strings.HasSuffix(e.name, "/pom.xml"):
		if part := strings.Split(e.name, "/"); len(part) == 5 && len(me.pomOnly) < maxJarPoms {
			me.pomOnly[part[3]] = part[2]
		}
	case isJar(e.name):
		j.within(z, e, inner, depth)
	}
	return nil
}

// text reads a small entry, nil if that cannot be.
func (j *jars) text(z *zipDir, e zipEntry) []byte {
	if j.work > maxJarWork {
		j.bad(fmt.Errorf("archives of Java that unpack to more than %d bytes: what follows was not read", maxJarWork))
		return nil
	}
	b, err := z.read(e, maxJarText)
	j.work += int64(len(b))
	if err != nil {
		j.bad(fmt.Errorf("%s of an archive of Java: %w", path.Base(e.name), err))
		return nil
	}
	return b
}

// within reads an archive in an archive: in place if it is stored, held if it is compressed.
func (j *jars) within(z *zipDir, e zipEntry, inner string, depth int) {
	if depth+1 > maxJarDepth {
		j.bad(fmt.Errorf("archives of Java more than %d deep in each other: they were not read", maxJarDepth))
		return
	}
	at := e.name
	if inner != "" {
		at = inner + "!/" + e.name
	}
	if len(at) > inventory.MaxText/2 {
		at = at[:inventory.MaxText/2]
	}
	if e.method == zipStored && e.flags&zipEncrypted == 0 {
		s, err := z.section(e)
		if err != nil {
			j.bad(err)
			return
		}
		j.archive(e.name, at, s, s.Size(), depth+1)
		return
	}
	limit := min(maxJarHeld-j.held, maxJarWork-j.work)
	b, err := z.read(e, limit)
	j.work += int64(len(b))
	if errors.Is(err, inventory.ErrTooLarge) {
		err = fmt.Errorf("archives of Java within one, of more than %d bytes at once or %d in all: they were not read", maxJarHeld, maxJarWork)
	}
	if err != nil {
		j.bad(err)
		return
	}
	j.held += int64(len(b))
	j.archive(e.name, at, bytes.NewReader(b), int64(len(b)), depth+1)
	j.held -= int64(len(b))
}

// class narrows the package that all classes are in. Those of other versions of Java, and of
// applications in web archives, have folders of their own before it.
func (me *jar) class(name string) {
	for _, p := range []string{"BOOT-INF/classes/", "WEB-INF/classes/"} {
		name = strings.TrimPrefix(name, p)
	}
	dir := path.Dir(name)
	if strings.HasPrefix(name, "META-INF/") || dir == "." {
		return
	}
	if !me.any {
		me.classes, me.any = dir, true
		return
	}
	for me.classes != "" && dir != me.classes && !strings.HasPrefix(dir, me.classes+"/") {
		i := strings.LastIndexByte(me.classes, '/')
		me.classes = me.classes[:max(i, 0)]
	}
}

// pomOf reads a pom.properties (java.util.Properties, as Maven writes it); what it lacks of
// group and artifact its path has, if that is Maven's.
func pomOf(name string, b []byte) inventory.Package {
	dir := path.Dir(name)
	group, artifact, version := "", "", ""
	if isPom(name) {
		group, artifact = path.Base(path.Dir(dir)), path.Base(dir)
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if value = strings.TrimSpace(value); value == "" {
			continue
		}
		switch strings.TrimSpace(key) {
		case "groupId":
			group = value
		case "artifactId":
			artifact = value
		case "version":
			version = value
		}
	}
	// A copy: parts of the text would keep all of it.
	return inventory.Package{Kind: inventory.KindJava, Name: group + ":" + artifact, Version: strings.Clone(version)}
}

// manifestOf reads the main section of a manifest. Source: JAR File Specification, "Notes on
// Manifest and Signature Files": lines of at most 72 bytes, continued by a space.
func manifestOf(b []byte) map[string]string {
	out := map[string]string{}
	key := ""
	for line := range strings.SplitSeq(string(b), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" {
			break
		}
		if rest, ok := strings.CutPrefix(line, " "); ok {
			if key == "" {
				continue
			}
			if out[key] += rest; len(out[key]) > inventory.MaxText {
				return out
			}
			continue
		}
		var value string
		key, value, _ = strings.Cut(line, ":")
		switch key {
		case "Implementation-Vendor-Id", "Implementation-Version", "Bundle-SymbolicName", "Bundle-Version":
			out[key] = strings.TrimSpace(value)
		default:
			key = ""
		}
	}
	return out
}

// jarName is how Maven names a file: ARTIFACT-VERSION.jar. Versions begin with a digit.
var jarName = regexp.MustCompile(`^(.+?)-(\d[^/]*)$`)

// packages returns what an archive is and what was shaded into it: one for each pom.properties,
// and itself by its name and manifest if none of these is about it.
func (me *jar) packages() ([]inventory.Package, error) {
	stem := me.name[:len(me.name)-len(path.Ext(me.name))]
	artifact, version := stem, ""
	if m := jarName.FindStringSubmatch(stem); m != nil {
		artifact, version = m[1], m[2]
	}
	for _, p := range me.poms {
		if _, a, _ := strings.Cut(p.Name, ":"); a == artifact || a == stem || len(me.poms) == 1 && version == "" {
			return me.poms, nil
		}
	}
	for _, key := range []string{"Implementation-Version", "Bundle-Version"} {
		// A file's name may have a classifier behind its version: netty-4.1.0.Final-linux.jar.
		if v := me.manifest[key]; v != "" && !strings.ContainsAny(v, "$ ") && (version == "" || strings.HasPrefix(version, v+"-")) {
			version = v
		}
	}
	if version == "" {
		if len(me.poms) > 0 || !me.any {
			return me.poms, nil // a container of others, or of no code at all
		}
		return nil, errors.New("an archive of Java that tells neither its name nor its version")
	}
	p := inventory.Package{Kind: inventory.KindJava, Name: artifact, Version: version}
	if group := me.group(artifact); group != "" {
		p.Name = group + ":" + artifact
	}
	if strings.Contains(me.classes, "/") && me.pomOnly[artifact] == "" {
		p.Source = strings.ReplaceAll(me.classes, "/", ".")
	}
	return append(me.poms, p), nil
}

// group is the group of an archive by its own word: of a pom.xml without properties, of the
// manifest, or as the beginning of the bundle's name.
func (me *jar) group(artifact string) string {
	if g := me.pomOnly[artifact]; g != "" {
		return g
	}
	if g := me.manifest["Implementation-Vendor-Id"]; g != "" && !strings.ContainsAny(g, " :$") {
		return g
	}
	bundle, _, _ := strings.Cut(me.manifest["Bundle-SymbolicName"], ";")
	if g, ok := strings.CutSuffix(bundle, "."+artifact); ok && strings.Contains(g, ".") {
		return g
	}
	return ""
}
