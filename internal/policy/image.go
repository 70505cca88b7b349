package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/verdict"
)

// ImageKind is the kind of documents that say which images may start.
const ImageKind = "ImagePolicy"

// ImagePolicy is one parsed and validated document of kind [ImageKind].
type ImagePolicy struct {
	File        string // as given to Parse
	Line        int    // first line of the document, from 1
	Revision    string // as that of a RuntimePolicy
	Name        string
	Annotations map[string]string
	Spec        ImageSpec
}

// ImageSpec is the body of an ImagePolicy. Each field that is set is a rule of its own, and
// an image must meet all of them.
type ImageSpec struct {
	Mode     verdict.Mode
	Priority int
	Selector ImageSelector
	// Registries are image globs: one of the registries' digests of the image must be of a
	// repository that one of them names.
	Registries []string
	// Digests are the only images: ID, or a registry's digest.
	Digests []string
	// MaxAge is how long ago the image may have been made; 0: any time.
	MaxAge time.Duration
	// NonRoot says that the image's own user must not be root.
	NonRoot bool
	// SecretsInEnv says that no variable of the image may look like a secret.
	SecretsInEnv bool
	// Secrets, if set, bounds the secrets that a scan finds in files: how many there may be, by
	// kind ([SecretKinds]); none of a kind that it does not name.
	Secrets *SecretLimits
	// Scanned says that the image must have been scanned, at most ScanMaxAge ago (0: ever).
	Scanned    bool
	ScanMaxAge time.Duration
	// DatabaseMaxAge is how old the vulnerability database may be; 0: any age.
	DatabaseMaxAge time.Duration
	// AllowIncomplete lets images pass of which not all could be read or matched.
	AllowIncomplete bool
	Findings        []FindingRule
	// Unscanned is what an image gets that was not scanned yet: Deny, Allow or [ScanFirst].
	// Fallback (Deny, Allow) is what it gets if no scan ends within Deadline.
	Unscanned  Value
	Deadline   time.Duration
	Fallback   Value
	Exceptions []ImageException
}

// ScanFirst is the value of unscanned that has the image scanned before it is judged.
const ScanFirst Value = "scan"

// DefaultDeadline is the deadline of unscanned: scan.
const DefaultDeadline = 20 * time.Second

// ImageSelector says which images and containers a policy is for. All that is set must
// hold; nothing set is every image.
type ImageSelector struct {
	// Images are image globs, of any name that the image has.
	Images []string `yaml:"images,omitempty"`
	// Labels are those of the container. Its creator chooses them.
	Labels map[string]string `yaml:"labels,omitempty"`
}

// FindingRule refuses images with a finding that meets all that is set.
type FindingRule struct {
	Name      string             // "findings[2]" if the document gives none
	Severity  inventory.Severity // at least; a finding that nobody rated counts as high
	Fixable   bool               // a version without it is known
	Exploited bool               // of CISA's catalogue
	EPSS      Threshold          // of FIRST's estimate; one that is not there meets it
	// Use is what must have been observed of the package in running containers. Where that is
	// unknown, the rule reports and does not deny.
	Use UseCondition
	// Symbols are the states of a Go program's vulnerable functions for which it counts: of
	// [inventory.SymbolStates]; none: all of them.
	Symbols  []string
	Packages []string // globs of package names, of source packages too
	// Grace is how long after the host first saw it a finding does not count yet.
	Grace time.Duration
	Line  int

	named bool
}

// ImageException waives findings for a time. All that is set must hold.
type ImageException struct {
	Vulnerability string   // any of its names
	Packages      []string // globs
	Images        []string // digests: IDs or those of registries
	Until         time.Time
	Reason        string
	Line          int
}

// needsScan reports whether the policy asks what is inside an image.
func (p *ImagePolicy) needsScan() bool {
	return p.Spec.Scanned || len(p.Spec.Findings) > 0 || p.Spec.Secrets != nil
}

func orderImages(ps []*ImagePolicy) {
	slices.SortFunc(ps, func(a, b *ImagePolicy) int {
		return cmp.Or(cmp.Compare(b.Spec.Priority, a.Spec.Priority), cmp.Compare(a.Name, b.Name))
	})
}

type canonImageDoc struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Metadata   canonMeta      `yaml:"metadata"`
	Spec       canonImageSpec `yaml:"spec"`
}

type canonImageSpec struct {
	Priority       int                   `yaml:"priority,omitempty"`
	Mode           string                `yaml:"mode"`
	Selector       *ImageSelector        `yaml:"selector,omitempty"`
	Registries     []string              `yaml:"registries,omitempty"`
	Digests        []string              `yaml:"digests,omitempty"`
	MaxAge         string                `yaml:"maxAge,omitempty"`
	NonRoot        bool                  `yaml:"nonRoot,omitempty"`
	SecretsInEnv   Value                 `yaml:"secretsInEnv,omitempty"`
	Secrets        any                   `yaml:"secrets,omitempty"`
	Scanned        *canonScanned         `yaml:"scanned,omitempty"`
	DatabaseMaxAge string                `yaml:"databaseMaxAge,omitempty"`
	Incomplete     Value                 `yaml:"incomplete,omitempty"`
	Findings       []canonFindingRule    `yaml:"findings,omitempty"`
	Unscanned      Value                 `yaml:"unscanned,omitempty"`
	Deadline       string                `yaml:"deadline,omitempty"`
	Fallback       Value                 `yaml:"fallback,omitempty"`
	Exceptions     []canonImageException `yaml:"exceptions,omitempty"`
}

type canonScanned struct {
	Required bool   `yaml:"required"`
	MaxAge   string `yaml:"maxAge,omitempty"`
}

type canonFindingRule struct {
	Name      string   `yaml:"name,omitempty"`
	Severity  string   `yaml:"severity,omitempty"`
	Fixable   bool     `yaml:"fixable,omitempty"`
	Exploited bool     `yaml:"exploited,omitempty"`
	EPSS      string   `yaml:"epss,omitempty"`
	InUse     bool     `yaml:"inUse,omitempty"`
	Listening bool     `yaml:"listening,omitempty"`
	Reachable bool     `yaml:"reachable,omitempty"`
	Symbols   []string `yaml:"symbols,omitempty,flow"`
	Packages  []string `yaml:"packages,omitempty"`
	Grace     string   `yaml:"grace,omitempty"`
}

type canonImageException struct {
	Vulnerability string   `yaml:"vulnerability,omitempty"`
	Packages      []string `yaml:"packages,omitempty"`
	Images        []string `yaml:"images,omitempty"`
	Until         string   `yaml:"until"`
	Reason        string   `yaml:"reason"`
}

// Canonical returns the document in its normal form; see [RuntimePolicy.Canonical].
func (p *ImagePolicy) Canonical() []byte {
	s := &p.Spec
	span := func(d time.Duration) string {
		if d == 0 {
			return ""
		}
		return d.String()
	}
	d := canonImageDoc{APIVersion: APIVersion, Kind: ImageKind, Metadata: canonMeta{Name: p.Name, Annotations: p.Annotations}}
	d.Spec = canonImageSpec{
		Priority: s.Priority, Mode: s.Mode.String(), Registries: s.Registries, Digests: s.Digests, MaxAge: span(s.MaxAge),
		NonRoot: s.NonRoot, DatabaseMaxAge: span(s.DatabaseMaxAge),
	}
	if len(s.Selector.Images) > 0 || len(s.Selector.Labels) > 0 {
		d.Spec.Selector = &s.Selector
	}
	if s.SecretsInEnv {
		d.Spec.SecretsInEnv = Deny
	}
	if s.Secrets != nil {
		d.Spec.Secrets = s.Secrets.canonical()
	}
	if s.Scanned {
		d.Spec.Scanned = &canonScanned{true, span(s.ScanMaxAge)}
	}
	if p.needsScan() {
		d.Spec.Incomplete = Deny
		if s.AllowIncomplete {
			d.Spec.Incomplete = Allow
		}
		d.Spec.Unscanned = s.Unscanned
		if s.Unscanned == ScanFirst {
			d.Spec.Deadline, d.Spec.Fallback = span(s.Deadline), s.Fallback
		}
	}
	for i := range s.Findings {
		f := &s.Findings[i]
		c := canonFindingRule{Fixable: f.Fixable, Exploited: f.Exploited, EPSS: f.EPSS.String(), InUse: f.Use.InUse, Listening: f.Use.Listening, Reachable: f.Use.Reachable, Symbols: f.Symbols, Packages: f.Packages, Grace: span(f.Grace)}
		if f.named {
			c.Name = f.Name
		}
		if f.Severity != inventory.SeverityUnknown {
			c.Severity = f.Severity.String()
		}
		d.Spec.Findings = append(d.Spec.Findings, c)
	}
	for i := range s.Exceptions {
		e := &s.Exceptions[i]
		d.Spec.Exceptions = append(d.Spec.Exceptions, canonImageException{
			e.Vulnerability, e.Packages, e.Images, e.Until.UTC().Format(time.RFC3339), e.Reason,
		})
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&d); err != nil {
		// Only strings, numbers, maps of strings and bools are in there: none can fail.
		panic(fmt.Sprintf("encode policy %s: %v", p.Name, err))
	}
	return b.Bytes()
}
