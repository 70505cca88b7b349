package policy

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/verdict"
)

// Limits of one file. They bound what a hostile or broken file costs; a policy with
// 10,000 paths fits many times.
const (
	MaxFileBytes = 4 << 20
	MaxDocuments = 1024  // of one file
	MaxPaths     = 20000 // of one exec.allow or exec.deny
	MaxDests     = 512   // of one ssh.client.to
	maxDepth     = 12
	maxPriority  = 1_000_000
	maxStartFor  = time.Hour
)

// topLevel names the root of a document in messages.
const topLevel = "the document"

// fieldHome says where a field belongs, to help a person who wrote it elsewhere.
var fieldHome = map[string]string{
	"apiVersion": topLevel, "kind": topLevel, "metadata": topLevel, "spec": topLevel,
	"annotations": "metadata",
	"phase":       "spec", "after": "spec.phase", "within": "spec.phase",
	"selector": "spec", "priority": "spec", "require": "spec", "loosen": "spec", "onError": "spec",
	"exec": "spec", "ssh": "spec", "files": "spec", "guard": "spec", "host": "spec",
	"labels": "spec.selector", "image": "spec.selector", "imageDigest": "spec.selector",
	"namespace": "spec.selector", "podLabels": "spec.selector",
	"asRoot": "spec.exec", "startFor": "spec.exec", "nested": "spec.exec", "fileCaps": "spec.exec",
	"drift": "spec.exec", "metadataOnly": "spec.exec", "volumes": "spec.exec", "memfd": "spec.exec",
	"runtimeHelpers": "spec.exec",
	"server":         "spec.ssh", "client": "spec.ssh", "keys": "spec.ssh",
	"to":  "spec.ssh.client",
	"bpf": "spec.guard", "sockets": "spec.guard",
	"agent": "spec.host", "runtimes": "spec.host", "engineConfig": "spec.host",
	"privileges":     "spec",
	"mount":          "spec.privileges",
	"ptrace":         "spec.privileges",
	"otherTasks":     "spec.privileges",
	"userNamespaces": "spec.privileges",
	"modules":        "spec.privileges",
	"moduleAutoload": "spec.privileges",
	"perfEvents":     "spec.privileges",
	"keyctl":         "spec.privileges",
	"ioUring":        "spec.privileges",
	"rawDevices":     "spec.privileges",
	"kernelControl":  "spec.privileges",
	"setid":          "spec.privileges",
	"capabilities":   "spec.privileges",
	"network":        "spec",
	"egress":         "spec.network",
	"ingress":        "spec.network",
	"listen":         "spec.network",
	"rawSockets":     "spec.network",
	"packetSockets":  "spec.network",
	"from":           "spec.network.ingress.allow[]",
	"readOnly":       "spec.files", "rules": "spec.files", "paths": "spec.files.rules[]",
}

// Documents is what files of policies hold, by kind.
type Documents struct {
	Runtime []*RuntimePolicy
	Access  []*AccessPolicy
	Images  []*ImagePolicy
	Loads   []*LoadPolicy
}

// Len returns the number of documents of all kinds.
func (d *Documents) Len() int { return len(d.Runtime) + len(d.Access) + len(d.Images) + len(d.Loads) }

// Append adds the documents of o.
func (d *Documents) Append(o Documents) {
	d.Runtime = append(d.Runtime, o.Runtime...)
	d.Access = append(d.Access, o.Access...)
	d.Images = append(d.Images, o.Images...)
	d.Loads = append(d.Loads, o.Loads...)
}

// Parse reads the policies of one file for which only RuntimePolicies make sense;
// see [ParseAll].
//
// Errors: as ParseAll; a document of another kind is one of them.
func Parse(file string, data []byte) ([]*RuntimePolicy, error) {
	docs, err := ParseAll(file, data)
	if err != nil {
		return nil, err
	}
	for _, e := range docs.Entries() {
		if e.Kind != Kind {
			return nil, Errors{{
				File: file, Line: e.Line, Msg: "kind must be " + Kind + " here, got " + quote(e.Kind),
				Fix: "move it to another file",
			}}
		}
	}
	return docs.Runtime, nil
}

// ParseAll reads the policies of one file; file is its name for messages. A file may
// hold several documents of any kind, parted by "---".
//
// Errors: [Errors] with everything that is wrong, sorted by line; no policy is
// returned then. A file without any policy is an error: it is more often a file cut
// short than a wish.
func ParseAll(file string, data []byte) (Documents, error) {
	var out Documents
	errs := eachDocument(file, data, func(root *yaml.Node) Errors {
		d := &decoder{file: file}
		if !d.checkShape(root, 1) {
			return d.errs
		}
		return out.read(file, root)
	})
	if len(errs) > 0 {
		return Documents{}, errs
	}
	return out, nil
}

// read reads one document; its shape was checked.
func (d *Documents) read(file string, root *yaml.Node) Errors {
	switch kindOf(root) {
	case AccessKind:
		p, errs := parseAccess(file, root)
		d.Access = append(d.Access, p)
		return errs
	case ImageKind:
		p, errs := parseImage(file, root)
		d.Images = append(d.Images, p)
		return errs
	case LoadKind:
		p, errs := parseLoad(file, root)
		d.Loads = append(d.Loads, p)
		return errs
	}
	p, errs := parseRuntime(file, root)
	d.Runtime = append(d.Runtime, p)
	return errs
}

// kindOf returns what a document says it is, "" if it says nothing or too much.
func kindOf(root *yaml.Node) string {
	kind := ""
	for i := 0; root.Kind == yaml.MappingNode && i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "kind" {
			if kind != "" {
				return ""
			}
			kind = root.Content[i+1].Value
		}
	}
	return kind
}

// eachDocument calls read for each document of a file until it has found too many
// errors, and returns them sorted.
func eachDocument(file string, data []byte, read func(root *yaml.Node) Errors) Errors {
	if len(data) > MaxFileBytes {
		return Errors{{
			File: file, Msg: "the file is larger than " + strconv.Itoa(MaxFileBytes) + " bytes",
			Fix: "split it",
		}}
	}
	var (
		errs Errors
		docs int
		dec  = yaml.NewDecoder(bytes.NewReader(data))
	)
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			errs = append(errs, syntaxError(file, err))
			break
		}
		if len(doc.Content) == 0 || isNull(doc.Content[0]) {
			continue // "---" at the end, or comments only
		}
		if docs++; docs > MaxDocuments {
			errs = append(errs, &Error{
				File: file, Line: doc.Line,
				Msg: "more than " + strconv.Itoa(MaxDocuments) + " documents in one file", Fix: "split it",
			})
			break
		}
		if errs = append(errs, read(doc.Content[0])...); len(errs) > maxErrors {
			break
		}
	}
	if docs == 0 && len(errs) == 0 {
		errs = append(errs, &Error{
			File: file, Line: 1, Msg: "the file holds no policy",
			Fix: "delete it, or write a document with apiVersion: " + APIVersion + " and kind: " + Kind,
		})
	}
	errs.sortByLine()
	return errs
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

func syntaxError(file string, err error) *Error {
	msg := err.Error()
	m := yamlLine.FindStringSubmatch(msg)
	line, _ := strconv.Atoi(m[1]) // no number: line 0, which means unknown
	fix := "check indentation, quotes and brackets there"
	if strings.Contains(msg, "found character that cannot start any token") {
		fix = "indent with spaces, not tabs, and quote text that starts with @, ` or %"
	}
	return &Error{File: file, Line: line, Msg: "not valid YAML: " + short(msg[len(m[0]):]), Fix: fix}
}

// parseRuntime reads one document of kind [Kind]; its shape was checked.
func parseRuntime(file string, root *yaml.Node) (*RuntimePolicy, Errors) {
	d := &decoder{file: file, lines: map[string]int{}, nodes: map[string]*yaml.Node{}, home: fieldHome}
	p := &RuntimePolicy{File: file, Line: root.Line, lines: d.lines}
	var m modes
	d.object(root, topLevel, []field{
		{"apiVersion", true, d.enum([]string{APIVersion}, func(string) {})},
		{"kind", true, d.enum([]string{Kind, AccessKind, ImageKind, LoadKind}, func(string) {})},
		{"metadata", true, func(n *yaml.Node, at string) { d.metadata(n, at, &p.Name, &p.Annotations) }},
		{"spec", true, func(n *yaml.Node, at string) { d.spec(n, at, &p.Spec, &m) }},
	})
	m.resolve(&p.Spec)
	if len(d.errs) == 0 {
		d.validate(p)
	}
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	p.Revision = revisionOf(p.Canonical())
	return p, nil
}

// modes holds what the document says, until the default of a section is known.
type modes struct{ policy, exec, ssh, files, privileges, network, host, guard *verdict.Mode }

func (m *modes) resolve(s *Spec) {
	if m.policy != nil {
		s.Mode = *m.policy
	}
	pick := func(own *verdict.Mode) verdict.Mode {
		if own != nil {
			return *own
		}
		return s.Mode
	}
	if s.Exec != nil {
		s.Exec.Mode = pick(m.exec)
	}
	if s.SSH != nil {
		s.SSH.Mode = pick(m.ssh)
	}
	if s.Files != nil {
		s.Files.Mode = pick(m.files)
	}
	if s.Privileges != nil {
		s.Privileges.Mode = pick(m.privileges)
	}
	if s.Network != nil {
		s.Network.Mode = pick(m.network)
	}
	if s.Host != nil {
		s.Host.Mode = pick(m.host)
	}
	if s.Guard != nil {
		s.Guard.Mode = pick(m.guard)
	}
}

func (d *decoder) mode(dst **verdict.Mode) func(*yaml.Node, string) {
	return d.enum([]string{"audit", "enforce"}, func(s string) {
		m := verdict.ModeEnforce
		if s == "audit" {
			m = verdict.ModeAudit
		}
		*dst = &m
	})
}

func (d *decoder) metadata(n *yaml.Node, at string, name *string, annotations *map[string]string) {
	d.object(n, at, []field{
		{"name", true, func(n *yaml.Node, at string) {
			d.str(name)(n, at)
			switch {
			case *name == "":
			case *name == BuiltIn:
				d.fail(n, "choose another name", "%s: %q is the name of Belay's own rules", at, BuiltIn)
			case !isDNSLabel(*name):
				d.fail(n, "use at most 63 of a-z, 0-9 and -, with a letter or digit at both ends",
					"%s: %s is not a DNS label", at, quote(*name))
			}
		}},
		{"annotations", false, d.stringMap(annotations)},
	})
}

func (d *decoder) spec(n *yaml.Node, at string, s *Spec, m *modes) {
	d.object(n, at, []field{
		{"selector", false, func(n *yaml.Node, at string) { d.selector(n, at, &s.Selector) }},
		{"priority", false, d.integer(&s.Priority, -maxPriority, maxPriority)},
		{"mode", true, d.mode(&m.policy)},
		{"require", false, d.enum([]string{"prevent", "kill", "detect"}, func(w string) {
			s.Require, _ = verdict.ParseLevel(w)
		})},
		{"loosen", false, d.boolean(&s.Loosen)},
		{"onError", false, d.value(&s.OnError, Deny, Allow)},
		{"phase", false, func(n *yaml.Node, at string) { d.phase(n, at, &s.Phase) }},
		{"exec", false, func(n *yaml.Node, at string) {
			s.Exec = &Exec{}
			d.exec(n, at, s.Exec, &m.exec)
		}},
		{"ssh", false, func(n *yaml.Node, at string) {
			s.SSH = &SSH{}
			d.ssh(n, at, s.SSH, &m.ssh)
		}},
		{"files", false, func(n *yaml.Node, at string) {
			s.Files = &Files{}
			d.files(n, at, s.Files, &m.files)
		}},
		{"privileges", false, func(n *yaml.Node, at string) {
			s.Privileges = &Privileges{}
			d.privileges(n, at, s.Privileges, &m.privileges)
		}},
		{"network", false, func(n *yaml.Node, at string) {
			s.Network = &Network{}
			d.network(n, at, s.Network, &m.network)
		}},
		{"host", false, func(n *yaml.Node, at string) {
			s.Host = &Host{}
			d.host(n, at, s.Host, &m.host)
		}},
		{"guard", false, func(n *yaml.Node, at string) {
			s.Guard = &Guard{}
			d.object(n, at, []field{
				{"mode", false, d.mode(&m.guard)},
				{"bpf", false, d.value(&s.Guard.BPF, Allow, Deny)},
				{"sockets", false, d.value(&s.Guard.Sockets, Allow, Deny)},
			})
		}},
	})
}

func (d *decoder) selector(n *yaml.Node, at string, s *Selector) {
	glob := func(dst *string, check func(string) (msg, fix string)) func(*yaml.Node, string) {
		return func(n *yaml.Node, at string) {
			d.str(dst)(n, at)
			if *dst == "" {
				return
			}
			if msg, fix := check(*dst); msg != "" {
				d.fail(n, fix, "%s: %s", at, msg)
			}
		}
	}
	d.object(n, at, []field{
		{"labels", false, d.stringMap(&s.Labels)},
		{"image", false, glob(&s.Image, checkImageGlob)},
		{"imageDigest", false, glob(&s.ImageDigest, checkDigest)},
		{"name", false, glob(&s.Name, checkGlob)},
		{"namespace", false, glob(&s.Namespace, checkGlob)},
		{"workload", false, glob(&s.Workload, checkGlob)},
		{"podLabels", false, d.stringMap(&s.PodLabels)},
	})
}

func (d *decoder) exec(n *yaml.Node, at string, e *Exec, m **verdict.Mode) {
	paths := func(dst *[]Pattern, whenEmpty string) func(*yaml.Node, string) {
		return d.list(MaxPaths, whenEmpty, func(s string) (msg, fix string) {
			p, msg, fix := parsePattern(s)
			if msg == "" {
				*dst = append(*dst, p)
			}
			return msg, fix
		})
	}
	d.object(n, at, []field{
		{"mode", false, d.mode(m)},
		{"asRoot", false, d.value(&e.AsRoot, Allow, Deny, DenyAfterStart)},
		{"startFor", false, d.duration(&e.StartFor, time.Second, maxStartFor)},
		{"nested", false, d.value(&e.Nested, Allow, Deny)},
		{"fileCaps", false, d.value(&e.FileCaps, Allow, Deny)},
		{"drift", false, d.value(&e.Drift, Allow, Deny)},
		{"metadataOnly", false, d.value(&e.MetadataOnly, Allow, Deny)},
		{"volumes", false, d.value(&e.Volumes, Deny, ReadOnly, Allow)},
		{"memfd", false, d.value(&e.Memfd, Allow, Programs, Deny)},
		{"allow", false, paths(&e.Allow, "no program could run at all")},
		{"deny", false, paths(&e.Deny, "it denies nothing")},
		{"runtimeHelpers", false, d.list(MaxPaths, "it names no helper", func(s string) (msg, fix string) {
			if msg, fix := checkHostPath(s); msg != "" {
				return msg, fix
			}
			e.RuntimeHelpers = append(e.RuntimeHelpers, s)
			return "", ""
		})},
	})
	slices.SortFunc(e.Allow, comparePatterns)
	slices.SortFunc(e.Deny, comparePatterns)
	slices.Sort(e.RuntimeHelpers)
}

func (d *decoder) ssh(n *yaml.Node, at string, s *SSH, m **verdict.Mode) {
	d.object(n, at, []field{
		{"mode", false, d.mode(m)},
		{"server", false, d.value(&s.Server, Allow, Deny)},
		{"client", false, func(n *yaml.Node, at string) {
			if n.Kind == yaml.MappingNode {
				s.Client = To
				d.object(n, at, []field{{"to", true, d.list(MaxDests, "write client: deny to allow no destination",
					func(v string) (msg, fix string) {
						dest, msg, fix := parseDest(v)
						if msg == "" {
							s.To = append(s.To, dest)
						}
						return msg, fix
					})}})
				return
			}
			if n.Kind == yaml.SequenceNode {
				d.fail(n, "write client: {to: [...]}", "%s must be allow, deny or a mapping with to, got a list", at)
				return
			}
			d.value(&s.Client, Allow, Deny)(n, at)
		}},
		{"keys", false, d.value(&s.Keys, Allow, Deny)},
	})
	slices.SortFunc(s.To, compareDests)
	s.To = slices.CompactFunc(s.To, func(a, b SSHDest) bool { return compareDests(a, b) == 0 }) // two spellings of one
}
