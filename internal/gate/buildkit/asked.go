package buildkit

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// asked is all that a request for a build asks for. It is filled by readers, and turned into
// questions by [asked.questions].
type asked struct {
	facts    apicall.Facts
	remotes  []string
	outputs  []string
	pushes   []string // images, and caches in registries
	pulls    []string // caches in registries
	sessions []string
	groups   []string // cgroup parents
	ops      int
	contexts int // named ones
	seen     map[listed]struct{}
	err      error
}

// listed is a name in one of the lists.
type listed struct {
	in   *[]string
	name string
}

// maxNames bounds each list of one request, and its questions; maxImports the attribute that lists
// caches in JSON, in bytes.
const maxNames, maxImports = 1024, 256 << 10

// fail notes what is not taken: the first of it.
func (s *asked) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("%w: "+format, append([]any{ErrMessage}, args...)...)
	}
}

// add adds a name that is not there yet.
func (s *asked) add(to *[]string, name string) {
	at := listed{to, name}
	if _, there := s.seen[at]; there || name == "" {
		return
	}
	if len(*to) >= maxNames {
		s.fail("more than %d names of one kind", maxNames)
		return
	}
	if s.seen == nil {
		s.seen = map[listed]struct{}{}
	}
	s.seen[at] = struct{}{}
	*to = append(*to, name)
}

// addList adds the names that commas divide.
func (s *asked) addList(to *[]string, names string) {
	for name := range strings.FieldsFuncSeq(names, func(r rune) bool { return r == ',' }) {
		if s.add(to, name); s.err != nil {
			return
		}
	}
}

func (s *asked) entitle(what string)  { s.add(&s.facts.Entitled, what) }
func (s *asked) remote(ref string)    { s.add(&s.remotes, ref) }
func (s *asked) session(id string)    { s.add(&s.sessions, id) }
func (s *asked) cgroup(parent string) { s.add(&s.groups, parent) }
func (s *asked) output(what string)   { s.add(&s.outputs, what) }
func (s *asked) hostNetwork() {
	s.entitle("network.host")
	s.add(&s.facts.Namespaces, "net=host")
}

// questions returns one question for each thing of which facts hold one only; the first is
// about all the rest. None is left out: each must be allowed.
//
// Errors: what is not taken.
func (s *asked) questions(method, action string) ([]*Question, error) {
	n := max(1, len(s.remotes), len(s.outputs), len(s.groups))
	if n+len(s.pushes)+len(s.pulls) > maxNames {
		s.fail("more than %d things to ask about", maxNames)
	}
	if s.err != nil {
		return nil, s.err
	}
	at := func(l []string, i int) string {
		if i < len(l) {
			return l[i]
		}
		return ""
	}
	var qs []*Question
	for i := range n {
		q := &Question{Method: method, Action: action, Facts: s.facts}
		q.Facts.Remote, q.Facts.Outputs, q.Facts.CgroupParent = at(s.remotes, i), at(s.outputs, i), at(s.groups, i)
		qs = append(qs, q)
	}
	for _, ref := range s.pushes {
		qs = append(qs, &Question{Method: method, Action: "image.push", Facts: apicall.Facts{Image: ref}})
	}
	for _, ref := range s.pulls {
		qs = append(qs, &Question{Method: method, Action: "image.pull", Facts: apicall.Facts{Image: ref}})
	}
	return qs, nil
}

// readAttrs adds what the attributes of the engine's own Dockerfile frontend ask for. One
// that is not known is an error. Names: github.com/moby/buildkit, frontend/dockerui (v0.8 to
// v0.33), and those that clients add for provenance.
func (s *asked) readAttrs(attrs map[string]string, strict bool) error {
	f := &s.facts
	for k, v := range attrs {
		prefix, rest, cut := strings.Cut(k, ":")
		if cut {
			if err := s.readPrefixed(prefix, rest, v, strict); err != nil {
				return err
			}
			continue
		}
		switch k {
		case "context":
			s.contextAt(v)
		case "contextkey": // names the attribute to read in place of context
			if v != "context" {
				return fmt.Errorf("%w: a context in the attribute %.64q", ErrMessage, v)
			}
		case "force-network-mode":
			switch v {
			case "host":
				s.hostNetwork()
			case "", "none", "sandbox", "default":
			default:
				return fmt.Errorf("%w: force-network-mode %.32q", ErrMessage, v)
			}
		case "add-hosts":
			s.addList(&f.ExtraHosts, strings.ReplaceAll(v, "=", ":"))
		case "cgroup-parent":
			s.cgroup(v)
		case "device":
			s.entitle("device")
		case "shm-size", "ulimit", "memory", "memswap", "cpushares", "cpuperiod", "cpuquota", "cpusetcpus", "cpusetmems":
			f.LimitsSet = f.LimitsSet || v != "" && v != "0"
		case "platform":
			f.Platform = v
		case "filename":
			f.Path = v
		case "cache-from":
			s.addList(&s.pulls, v)
		case "cache-imports":
			if err := s.readCacheImports(v); err != nil {
				return err
			}
		case "target", "dockerfilekey", "contextsubdir", "no-cache", "image-resolve-mode", "multi-platform",
			"hostname", "requestid", "frontend.caps", "cmdline", "source", "":
		default:
			if strict {
				return fmt.Errorf("%w: the frontend's attribute %.64q is not known", ErrMessage, k)
			}
		}
	}
	return nil
}

func (s *asked) readPrefixed(prefix, rest, v string, strict bool) error {
	f := &s.facts
	switch prefix {
	case "build-arg":
		if f.BuildArgs == nil {
			f.BuildArgs = map[string]string{}
		}
		f.BuildArgs[rest] = v
	case "label":
		if f.Labels == nil {
			f.Labels = map[string]string{}
		}
		f.Labels[rest] = v
	case "context":
		s.contexts++
		s.contextAt(v)
	case "input":
		s.contextAt(v)
	case "local-sessionid":
		s.session(v)
	case "attest", "input-metadata", "vcs", "sharedkey":
	default:
		if strict {
			return fmt.Errorf("%w: the frontend's attribute %.64q is not known", ErrMessage, prefix+":"+rest)
		}
	}
	return nil
}

// uploadHost is how BuildKit names what the client sends over its session
// (github.com/moby/buildkit, session/upload).
const uploadHost = "http://buildkit-session/"

// contextAt adds a place that files come from, if it is not the caller's, another part of the
// build, or an image as FROM names one.
func (s *asked) contextAt(v string) {
	switch scheme, _, _ := strings.Cut(v, ":"); scheme {
	case "input", "local", "docker-image", "oci-layout", "target":
		return
	}
	if !strings.HasPrefix(v, uploadHost) {
		s.remote(v)
	}
}

// readCacheImports reads the attribute that is JSON.
func (s *asked) readCacheImports(v string) error {
	var list []struct {
		Type  string
		Attrs map[string]string
	}
	if v == "" {
		return nil
	}
	if len(v) > maxImports {
		return fmt.Errorf("%w: cache-imports of more than %d bytes", ErrMessage, maxImports)
	}
	if err := json.Unmarshal([]byte(v), &list); err != nil {
		return fmt.Errorf("%w: cache-imports is not JSON", ErrMessage)
	}
	for _, e := range list {
		s.cacheImport(e.Type, e.Attrs)
	}
	return nil
}

func (s *asked) cacheImport(kind string, attrs map[string]string) {
	switch kind {
	case "registry", "":
		s.add(&s.pulls, attrs["ref"])
	case "local", "inline": // of the caller's session; of the image itself
	default:
		s.remote("cache:" + kind)
	}
}

func (s *asked) cacheExport(kind string, attrs map[string]string) {
	switch kind {
	case "registry", "":
		s.add(&s.pushes, attrs["ref"])
	case "inline":
	default:
		s.output("cache:" + kind)
	}
}

// resultName is the name that a build's result gives to an image whose exporter leaves it to it
// (github.com/moby/buildkit, exporter/containerimage/exptypes).
const resultName = "image.name"

// exporter adds an output of the build. "moby" and "image" are the engine's own images.
func (s *asked) exporter(kind string, attrs map[string]string) {
	switch kind {
	case "":
		return
	case "moby", "image":
	default:
		s.output("type=" + kind)
	}
	// "*" stands for what the result of the build has as its name, which nobody knows before; an
	// attribute that the exporter does not know is put into the result.
	if _, ok := attrs[resultName]; ok {
		s.fail("an exporter's %s", resultName)
	}
	for _, key := range []string{"name", "dangling-name-prefix"} {
		if strings.Contains(attrs[key], "*") {
			s.fail("an image's name with *")
		}
		s.addList(&s.facts.Tags, attrs[key])
		if isSet(attrs, "push") {
			s.addList(&s.pushes, attrs[key])
		}
	}
}

// isSet reads a boolean attribute, of which "" is true, as BuildKit does.
func isSet(attrs map[string]string, key string) bool {
	v, ok := attrs[key]
	return ok && v != "false" && v != "0" && v != "f" && v != "F" && v != "FALSE" && v != "False"
}
