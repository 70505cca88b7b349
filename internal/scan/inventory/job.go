package inventory

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Source is the shape of what a [Job] hands over.
type Source string

// The shapes of a source. What a file really is, compressed or not, is for the
// sandboxed process to find out.
const (
	SourceArchive Source = "archive" // one file: docker-archive or OCI layout in a tar
	SourceLayout  Source = "layout"  // one directory with an OCI layout
	SourceRootfs  Source = "rootfs"  // one directory: a root file system
	SourceOverlay Source = "overlay" // directories of overlayfs, lowest layer first
	SourceAsked   Source = "asked"   // a pipe of answers to what is asked at AskFD: see [Ask]
	SourceLayer   Source = "layer"   // a pipe with one layer: the answer is no [Result], but what it holds
)

// Input is one file descriptor of a job, open for reading.
type Input struct {
	// FD is its number in the scanner's process.
	FD int `json:"fd"`
	// DiffID names the layer, for overlays.
	DiffID string `json:"diffId,omitempty"`
	// Opaque lists directories below this one that hide all that lies lower, for
	// overlays: the mark is an attribute that only a privileged process can read.
	Opaque []string `json:"opaque,omitempty"`
	// Config says that it is no layer but the image's configuration, for overlays, behind them.
	Config bool `json:"config,omitempty"`
}

// Job is what the scanner is asked to do. It comes from the one who starts it.
type Job struct {
	Source Source  `json:"source"`
	Inputs []Input `json:"inputs"`
	// Platform chooses from an image of several, as os/arch[/variant].
	Platform string `json:"platform,omitempty"`
	ImageID  string `json:"imageId,omitempty"` // passed through, for overlays
	// Root is the digest of the image's manifest or index, for blobs that are asked for.
	Root string `json:"root,omitempty"`
	// AskFD is the descriptor on which the scanner asks for blobs, open for writing.
	AskFD int `json:"askFd,omitempty"`
	// LendFD is a socket on which the scanner asks to have opened what it may not open itself, below
	// its inputs: see [Lend]. 0: there is none.
	LendFD int `json:"lendFd,omitempty"`
	// Layers says that what layers hold may be asked for too. Of a layout, the pipe of answers is
	// the last input then.
	Layers bool `json:"layers,omitempty"`
	// Skip lists [Scanners] to leave out.
	Skip []string `json:"skip,omitempty"`
	// Without lists pieces of the sandbox that may be missing. See package sandbox.
	Without []string `json:"without,omitempty"`
	// MemoryMax is the cap in bytes; 0 is [DefaultMemoryMax].
	MemoryMax int64 `json:"memoryMax,omitempty"`
	// CPUSeconds is the cap of processor time; 0 is [DefaultCPUSeconds].
	CPUSeconds uint64 `json:"cpuSeconds,omitempty"`
	// Cgroup says that the process was put into a cgroup with that memory cap.
	Cgroup bool `json:"cgroup,omitempty"`
	// Idle asks for the idle classes of the processor and of block devices.
	Idle bool `json:"idle,omitempty"`
}

// Defaults and bounds.
const (
	DefaultMemoryMax  = 128 << 20
	DefaultCPUSeconds = 600

	MaxJobBytes    = 16 << 20
	MaxResultBytes = 32 << 20
	// MaxLayerBytes bounds what a scanner writes of one layer; of one that holds more nothing is
	// kept.
	MaxLayerBytes = 32 << 20
	MaxPackages   = 200_000
	MaxNotes      = 1_000
	MaxLayers     = 1_024
	// MaxOwnedFiles bounds the files in all [OwnedFiles] of one image.
	MaxOwnedFiles = 200_000
	// MaxMisconfigurations bounds those of one image; more are a note.
	MaxMisconfigurations = 2048
	// MaxText bounds names, versions and paths, in bytes.
	MaxText = 4_096
	// MaxVersion bounds versions: comparing them may take time of their square.
	MaxVersion = 256
)

// ErrTooLarge is returned for a message beyond its bound.
var ErrTooLarge = errors.New("the message is larger than its bound")

// ReadJob reads a job. Errors: [ErrTooLarge], those of encoding/json.
func ReadJob(r io.Reader) (Job, error) {
	var j Job
	b, err := ReadAll(r, MaxJobBytes)
	if err == nil {
		err = decode(b, &j)
	}
	return j, err
}

// ReadResult reads what a scanner wrote, as bytes of an enemy: at most
// [MaxResultBytes], no unknown fields, every list and text within its bound, every
// index inside its list.
//
// Errors: [ErrTooLarge], those of encoding/json, and a sentence for what is out of
// bounds.
func ReadResult(r io.Reader) (*Result, error) {
	res := new(Result)
	b, err := ReadAll(r, MaxResultBytes)
	if err == nil {
		err = countTokens(b)
	}
	if err == nil {
		err = decode(b, res)
	}
	if err != nil {
		return nil, fmt.Errorf("read the scanner's result: %w", err)
	}
	if err := res.Check(); err != nil {
		return nil, fmt.Errorf("read the scanner's result: %w", err)
	}
	return res, nil
}

// Bounds on the JSON of a result, whatever it says. The lists of a result hold
// objects, but for tags and the pieces of the sandbox.
const (
	maxPieces  = 16 // in either list of a [Sandbox], and of scanners
	maxObjects = 2*MaxPackages + MaxNotes + MaxLayers + MaxMisconfigurations + 16
	maxLoose   = MaxLayers + 3*maxPieces + 16 // elements of lists that are no objects
	maxNesting = 8
)

// countTokens fails for a message that has more of anything than a result may. A
// decoder makes a value of hundreds of bytes out of each two of "{},", so this comes
// before it.
func countTokens(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var open []json.Delim
	objects, loose := 0, 0
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		delim, ok := t.(json.Delim)
		switch {
		case ok && (delim == '}' || delim == ']'):
			open = open[:len(open)-1]
			continue
		case ok && delim == '{':
			objects++
		case len(open) > 0 && open[len(open)-1] == '[':
			loose++
		}
		if ok {
			open = append(open, delim)
		}
		if objects > maxObjects || loose > maxLoose || len(open) > maxNesting {
			return fmt.Errorf("more than %d objects, %d other elements of lists or %d levels: too many", maxObjects, maxLoose, maxNesting)
		}
	}
}

func decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("there is something after the message")
	}
	return nil
}

// ReadAll reads r to its end, or fails with [ErrTooLarge] beyond limit bytes.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer
	if n, err := io.CopyN(&b, r, limit+1); n > limit {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, limit)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b.Bytes(), nil
}

// Chain returns the digest of what another is of, and of a text behind it.
func Chain(sum [sha256.Size]byte, text []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(sum[:])
	h.Write(text)
	return [sha256.Size]byte(h.Sum(nil))
}

// Check fails for a result that is not within its bounds: lists, texts, indices. What it does
// not say is whether it is true.
func (r *Result) Check() error {
	if r.Schema != Schema {
		return fmt.Errorf("the schema is %.40q, want %q: belay and belay-scanner are of different versions", r.Schema, Schema)
	}
	if len(r.Packages) > MaxPackages || len(r.Layers) > MaxLayers || len(r.Notes) > MaxNotes || len(r.Tags) > MaxLayers {
		return fmt.Errorf("%d packages, %d layers, %d notes, %d tags: too many", len(r.Packages), len(r.Layers), len(r.Notes), len(r.Tags))
	}
	for _, s := range r.Skipped {
		if !slices.Contains(Scanners(), s) {
			return fmt.Errorf("it left out the scanner %.40q, which there is not", s)
		}
	}
	if len(r.Skipped) > maxPieces || len(r.Sandbox.Held) > maxPieces || len(r.Sandbox.Lost) > maxPieces {
		return fmt.Errorf("%d and %d pieces of a sandbox, %d scanners: too many", len(r.Sandbox.Held), len(r.Sandbox.Lost), len(r.Skipped))
	}
	texts := append([]string{r.Error, r.ImageID, r.Digest, r.Platform, r.OS.ID, r.OS.VersionID, r.OS.Codename, r.OS.Pretty}, r.Tags...)
	texts = append(append(texts, r.Sandbox.Held...), r.Sandbox.Lost...)
	for _, l := range r.Layers {
		texts = append(texts, l.DiffID, l.CreatedBy)
	}
	if b := r.Base; b != nil {
		texts = append(texts, b.Name, b.Digest)
		if b.Layers < 0 || b.Layers > len(r.Layers) {
			return fmt.Errorf("a base of %d of %d layers", b.Layers, len(r.Layers))
		}
	}
	for _, n := range r.Notes {
		texts = append(texts, n.Path, n.Text)
	}
	if len(r.Misconfigurations) > MaxMisconfigurations {
		return fmt.Errorf("%d misconfigurations: too many", len(r.Misconfigurations))
	}
	for i := range r.Misconfigurations {
		m := &r.Misconfigurations[i]
		texts = append(texts, m.ID, m.Text, m.Where, m.Path, m.Owner)
		if m.Layer < 0 || m.Layer >= max(len(r.Layers), 1) {
			return fmt.Errorf("a misconfiguration in layer %d of %d", m.Layer, len(r.Layers))
		}
	}
	if r.Unsearched != nil {
		texts = append(texts, r.Unsearched.Path, r.Unsearched.Text)
	}
	if !r.checkFunctions() {
		return fmt.Errorf("packages with the functions of a program of more than %d bytes, or %d in all", MaxFunctions, MaxAllFunctions)
	}
	if err := r.checkOwned(); err != nil {
		return err
	}
	for i := range r.Packages {
		p := &r.Packages[i]
		if err := p.check(len(r.Layers)); err != nil {
			return fmt.Errorf("package %d: %w", i, err)
		}
	}
	for _, s := range texts {
		if len(s) > MaxText || !utf8.ValidString(s) {
			return fmt.Errorf("a text of %d bytes, want at most %d of UTF-8", len(s), MaxText)
		}
	}
	return nil
}

// Cut makes a hostile text fit for a [Result]: valid UTF-8 of at most [MaxText] bytes.
func Cut(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= MaxText {
		return s
	}
	s = s[:MaxText]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}

func (p *Package) check(layers int) error {
	if p.Kind == "" || p.Name == "" || p.Version == "" {
		return errors.New("it has no kind, name or version")
	}
	if p.Layer < 0 || p.Layer >= layers {
		return fmt.Errorf("layer %d of %d", p.Layer, layers)
	}
	if len(p.Version) > MaxVersion || len(p.SourceVersion) > MaxVersion {
		return fmt.Errorf("a version of more than %d bytes", MaxVersion)
	}
	for _, s := range []string{p.Kind, p.Name, p.Version, p.Source, p.SourceVersion, p.Arch, p.Path, p.Owner} {
		if len(s) > MaxText || !utf8.ValidString(s) {
			return fmt.Errorf("a text of %d bytes, want at most %d of UTF-8", len(s), MaxText)
		}
	}
	return nil
}

// Pieces of the sandbox, as [Job.Without] and [Sandbox] name them.
const (
	PieceCapabilities = "capabilities" // every capability set is empty
	PieceNoNewPrivs   = "no-new-privs" // exec gives nothing, on top of being refused
	PieceLandlock     = "landlock"     // only the given directories can be opened
	PieceSeccomp      = "seccomp"      // no sockets, programs, processes, ptrace, mounts, writes to files
	PieceRlimits      = "rlimits"      // memory, processor time, open files, no file growth, no core
	PieceNamespaces   = "namespaces"   // an empty network, and a cap on threads where the user has one of its own; the caller makes them
	PieceCgroup       = "cgroup"       // the memory cap for the page cache too, and a cap on threads; the caller makes it
)

// Pieces lists those that may be given up by name. The last two are made by who starts the scanner, the others are set
// by itself in that order.
var Pieces = []string{PieceRlimits, PieceNoNewPrivs, PieceLandlock, PieceCapabilities, PieceSeccomp, PieceNamespaces, PieceCgroup}

// CheckPieces returns an error about a name that is none of [Pieces].
func CheckPieces(names []string) error {
	for _, p := range names {
		if !slices.Contains(Pieces, p) {
			return fmt.Errorf("there is no sandbox piece %q, only %s", p, strings.Join(Pieces, ", "))
		}
	}
	return nil
}
