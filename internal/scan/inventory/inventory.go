// Package inventory has the words of image scanning: what a scan is asked to read
// (a [Job]), and what it found (a [Result] with packages, layers and what could not
// be read), with the bounds under which one process believes another.
//
// It owns no state and does no I/O but on the readers and writers that it is given.
// It never parses bytes of an image. Row: vocabulary; standard library only.
package inventory

import (
	"strconv"
	"strings"
)

// Schema names the form of a [Result].
const Schema = "belay.dev/inventory/v1"

// Kinds of packages: the type of a package URL (https://github.com/package-url/purl-spec).
const (
	KindDeb    = "deb"
	KindApk    = "apk"
	KindRPM    = "rpm"
	KindGo     = "golang"
	KindNPM    = "npm"
	KindPython = "pypi"

	KindComposer = "composer"
	KindNuGet    = "nuget"
	KindGem      = "gem"
	KindJava     = "maven" // names are GROUP:ARTIFACT, or ARTIFACT where the group is not told
	KindRust     = "cargo"
)

// Package is one package that an image has.
type Package struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// Source and SourceVersion are the source package it was built from, if the
	// package manager keeps it: distributions publish advisories for sources. They
	// are set for deb, apk and rpm, also where they equal Name and Version. For an archive
	// of Java whose group is not certain, Source is the package that all of its classes are in.
	Source        string `json:"source,omitempty"`
	SourceVersion string `json:"sourceVersion,omitempty"`
	Arch          string `json:"arch,omitempty"`
	// Path is the file that told of it, from the image's root, without a leading slash.
	Path string `json:"path"`
	// Layer is the index in [Result.Layers] of the lowest layer from which on this
	// name and version were there without a break.
	Layer int `json:"layer"`
	// Owner is the package of the distribution that the file at Path belongs to, if
	// any, by its own word: advisories are the distribution's if it is installed and they
	// know it.
	Owner string `json:"owner,omitempty"`
	// Locked says that a lock file names it, and nothing that is installed: it was asked
	// for, which is no proof that it is there.
	Locked bool `json:"locked,omitempty"`
	// Functions are those that a Go program has of this module, by their keys: see [FunctionKey].
	// Empty: not known. It is for whoever matches, and stands in no report.
	Functions string `json:"functions,omitempty"`
}

// OfDistribution reports whether packages of a kind are those of a distribution.
func OfDistribution(kind string) bool {
	return kind == KindDeb || kind == KindApk || kind == KindRPM
}

// OS is the distribution, as os-release(5) has it.
type OS struct {
	ID        string `json:"id,omitempty"`
	VersionID string `json:"versionId,omitempty"`
	Codename  string `json:"codename,omitempty"`
	Pretty    string `json:"pretty,omitempty"`
}

// Layer is one layer of an image, or the one directory of a root file system.
type Layer struct {
	// DiffID is the digest of the uncompressed layer, as the image's configuration
	// names it; empty for a directory. It is not computed anew.
	DiffID  string `json:"diffId,omitempty"`
	Entries int    `json:"entries"`
	// CreatedBy is the beginning of the command that made it, by the image's own history.
	CreatedBy string `json:"createdBy,omitempty"`
}

// ClaimedBase is the image that an image says it is built on. Whoever made the image says
// so: nothing of it is proven.
type ClaimedBase struct {
	// Name and Digest are those of the labels or annotations org.opencontainers.image.base.*
	// (OCI image specification, annotations.md).
	Name   string `json:"name,omitempty"`
	Digest string `json:"digest,omitempty"`
	// Layers is how many of the lowest layers seem to be its, by the history: those up to the last
	// command to run (CMD) that layers follow; 0 where it does not tell.
	Layers int `json:"layers,omitempty"`
}

// Note is something that was not read, and why: what it would have told is missing
// from the inventory.
type Note struct {
	Path string `json:"path,omitempty"`
	Text string `json:"text"`
	// Count is how often this happened; Path is the first place.
	Count int `json:"count"`
}

// Result is what the scanner says of one image. It comes from a process that has
// read hostile bytes: texts are bounded and valid UTF-8, nothing more.
type Result struct {
	Schema string `json:"schema"`
	// Error says why there is no inventory; all but Sandbox is unset then.
	Error string `json:"error,omitempty"`
	// Sandbox is what held the process that read the image.
	Sandbox Sandbox `json:"sandbox"`

	ImageID  string   `json:"imageId,omitempty"` // digest of the configuration
	Digest   string   `json:"digest,omitempty"`  // digest of the manifest
	Tags     []string `json:"tags,omitempty"`
	Platform string   `json:"platform,omitempty"` // os/arch[/variant]
	OS       OS       `json:"os"`
	Layers   []Layer  `json:"layers,omitempty"`
	// Base is what the image says of its base image; nil: nothing.
	Base     *ClaimedBase `json:"base,omitempty"`
	Packages []Package    `json:"packages,omitempty"`
	// Owned are the files of packages by which their use can be seen.
	Owned []OwnedFiles `json:"owned,omitempty"`
	Notes []Note       `json:"notes,omitempty"`
	// ConfigRead says that the image's configuration was looked at: a root file system
	// has none, and that of an image in the store of a local Docker is not at hand.
	ConfigRead bool `json:"configRead,omitempty"`
	// Misconfigurations are what its configuration and its files have that they should not.
	Misconfigurations []Misconfiguration `json:"misconfigurations,omitempty"`
	// Unsearched are files that were not searched for secrets though they are of those that
	// are, with one of the reasons. They keep no package from being known.
	Unsearched *Note `json:"unsearched,omitempty"`
	// Skipped are the scanners that were left out, as whoever asked says: nothing is known of
	// what they look for.
	Skipped []string `json:"skipped,omitempty"`
}

// Scanners that may be left out. That of packages may not: the distribution, and whose a file is, are
// known by them.
const (
	ScannerSecret    = "secret"    // secrets in files and in the configuration
	ScannerMisconfig = "misconfig" // all other misconfigurations
)

// Scanners lists them.
func Scanners() []string { return []string{ScannerSecret, ScannerMisconfig} }

// ScannerOf returns the scanner that finds misconfigurations of a name.
func ScannerOf(id string) string {
	if IsSecret(id) {
		return ScannerSecret
	}
	return ScannerMisconfig
}

// What an image's configuration may have that it should not.
const (
	ConfigRootUser      = "root-user"         // it runs as root unless it is told otherwise
	ConfigSecretEnv     = "secret-in-env"     // a variable looks like a secret
	ConfigSecretHistory = "secret-in-history" // a command that made it has what looks like a secret
	ConfigAddURL        = "add-url"           // ADD of a URL: what came is not pinned
	ConfigSSHPort       = "ssh-port"          // it exposes port 22
)

// What its files may have, or be, that they should not.
const (
	FileSecret        = "secret-in-file"
	FileSecretDeleted = "secret-in-lower-layer" // a later layer hides the file: who has the image has it
	FileSetuid        = "setuid-file"
	FileSetgid        = "setgid-file"
	FileCapabilities  = "file-capabilities"
	FileWorldWritable = "world-writable" // all of them in one
)

// MisconfigurationIDs lists their names.
func MisconfigurationIDs() []string {
	return []string{
		ConfigRootUser, ConfigSecretEnv, ConfigSecretHistory, ConfigAddURL, ConfigSSHPort,
		FileSecret, FileSecretDeleted, FileSetuid, FileSetgid, FileCapabilities, FileWorldWritable,
	}
}

// Misconfiguration is one of them. It never has the value of a secret.
type Misconfiguration struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	// Where is the variable, the number of the command in the history, from 1, or the file,
	// from the image's root without a leading slash, with the line behind a colon.
	Where string `json:"where,omitempty"`
	// Path is the file, if it is about one, and Layer the index of its layer.
	Path  string `json:"path,omitempty"`
	Layer int    `json:"layer,omitempty"`
	// Owner is the package of the distribution that says the file is its own.
	Owner string `json:"owner,omitempty"`
	// FromBase says that its layer is of a base image that somebody named; set by whoever asks.
	FromBase bool `json:"fromBase,omitempty"`
	// Count is how many there are, if it is about more than the one at Path.
	Count int `json:"count,omitempty"`
	// Ignored is the reason for which somebody accepts it, IgnoredBy the rule, and Known says that
	// an earlier scan had it: set by whoever asks.
	Ignored   string `json:"ignored,omitempty"`
	IgnoredBy string `json:"ignoredBy,omitempty"`
	Known     bool   `json:"known,omitempty"`
}

// Accepted reports whether it is ignored or known: it fails nothing.
func (m *Misconfiguration) Accepted() bool { return m.Ignored != "" || m.Known }

// Unmark forgets what was said of who accepts it.
func (m *Misconfiguration) Unmark() { m.Ignored, m.IgnoredBy, m.Known = "", "", false }

// IsSecret reports whether misconfigurations of a name are secrets.
func IsSecret(id string) bool {
	return id == FileSecret || id == FileSecretDeleted || id == ConfigSecretEnv || id == ConfigSecretHistory
}

// FaultPlace tells a misconfiguration from others, of whatever layer. Text is that of a secret: it
// says of what kind it is, or which variable, and another may stand in the same place.
type FaultPlace struct{ ID, Where, Text string }

// Place returns where it is.
func (m *Misconfiguration) Place() FaultPlace {
	p := FaultPlace{ID: m.ID, Where: m.Where}
	if IsSecret(m.ID) {
		p.Text = m.Text
	}
	return p
}

// Covers reports whether n says no more than m: it is in the same place, no worse, and stands for
// no more of them.
func (m *Misconfiguration) Covers(n *Misconfiguration) bool {
	return m.Place() == n.Place() && n.Severity <= m.Severity && n.Count <= m.Count
}

// Ordinary reports whether it is of those that images of a distribution have by design:
// a program of a package that is to run with rights of its own.
func (m *Misconfiguration) Ordinary() bool {
	return m.Owner != "" && m.Severity == SeverityNegligible
}

// Line is the line of the file that it is about, 1 where it is about none.
func (m *Misconfiguration) Line() int {
	if rest, ok := strings.CutPrefix(m.Where, m.Path+":"); ok && m.Path != "" {
		if n, err := strconv.Atoi(rest); err == nil && n > 0 {
			return n
		}
	}
	return 1
}

// Sandbox lists which pieces held the scanner and which did not.
type Sandbox struct {
	Held []string `json:"held,omitempty"`
	Lost []string `json:"lost,omitempty"`
	// MemoryMax is the cap in bytes.
	MemoryMax int64 `json:"memoryMax,omitempty"`
}

// Complete reports whether everything that should have been read was read.
func (r *Result) Complete() bool { return r.Error == "" && len(r.Notes) == 0 }

// File is what one file of an image told.
type File struct {
	Packages []Package
	OS       *OS
	// Owns are files that packages of the distribution say are theirs.
	Owns []Owned
}

// Owned is a path, without a leading slash, and the package that claims it.
type Owned struct{ Path, Owner string }

// SourceRPM splits the file name of a source package, NAME-VERSION-RELEASE.src.rpm, into its
// name and VERSION-RELEASE. It has no epoch.
func SourceRPM(file string) (name, version string, ok bool) {
	nevra, ok := strings.CutSuffix(file, ".src.rpm")
	if !ok {
		nevra, ok = strings.CutSuffix(file, ".nosrc.rpm")
	}
	r := strings.LastIndexByte(nevra, '-')
	v := strings.LastIndexByte(nevra[:max(r, 0)], '-')
	if !ok || v <= 0 {
		return "", "", false
	}
	return nevra[:v], nevra[v+1:], true
}
