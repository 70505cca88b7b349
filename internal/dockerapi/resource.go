package dockerapi

import (
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// refKind says where in a request a resource's name stands.
type refKind uint8

const (
	fixedRef refKind = iota // stays as it is
	pathRef                 // the first path variable
	queryRef                // the value of a query key
	textRef                 // a JSON string
	keyRef                  // a key of a JSON object
	moreRef                 // beside the name: the id is written to one more place
)

// ref is one place where a resource's name stands, so that the id which was judged
// can be put there.
type ref struct {
	kind      refKind
	node      *node
	pre, post string // around it
	key       string // of the query, or of the object
	write     func(id string)
}

// addResource records that the call is about a thing and where its name stands. The
// same name of the same kind is one resource, however often it is written.
func (r *Request) addResource(kind apicall.ResourceKind, name string, at ref) {
	if name == "" {
		return
	}
	if r.nameErr == nil {
		r.nameErr = checkName(kind, name)
	}
	for i := range r.Call.Resources {
		if res := &r.Call.Resources[i]; res.Kind == kind && res.Asked == name {
			r.refs[i] = append(r.refs[i], at)
			return
		}
	}
	r.Call.Resources = append(r.Call.Resources, apicall.Resource{Kind: kind, Asked: name})
	r.refs = append(r.refs, []ref{at})
}

// checkName refuses a name that is none of its kind. The gate asks the daemon about
// names in paths: one from a body must not become another path there.
func checkName(kind apicall.ResourceKind, name string) error {
	for i := 0; i < len(name); i++ {
		if c := name[i]; c < ' ' || c > '~' || c == '\\' || c == '?' || c == '#' || c == '%' {
			return badRequest(CodeBadValue, "", "a name has a character that no name has")
		}
	}
	noSlash := !slashInNames(kind)
	for seg := range strings.SplitSeq(name, "/") {
		switch {
		case seg == "" || seg == "." || seg == "..":
			return badRequest(CodeBadValue, "", "a name has an empty or dot segment")
		case noSlash && len(seg) < len(name):
			return errSlashInName
		}
	}
	return nil
}

// rewritable says that the daemon takes the id of a kind wherever it takes the name,
// and means the same by it. Images are not: to untag, push or save by id is another
// thing than by name. Volumes and plugins have no other name that is safe to use.
func rewritable(kind apicall.ResourceKind) bool {
	switch kind {
	case apicall.ResourceContainer, apicall.ResourceExec, apicall.ResourceNetwork, apicall.ResourceService,
		apicall.ResourceTask, apicall.ResourceNode, apicall.ResourceSecret, apicall.ResourceConfig:
		return true
	}
	return false
}

// SetResource records what the i-th resource of the call was resolved to and, for the
// kinds that have ids, writes the id in place of the name everywhere in the request,
// so that a rename between the check and the call changes nothing.
func (r *Request) SetResource(i int, id string) {
	res := &r.Call.Resources[i]
	res.ID = id
	if !rewritable(res.Kind) || id == "" {
		return
	}
	inBody := false
	for _, at := range r.refs[i] {
		switch at.kind {
		case pathRef:
			r.names[0] = id
		case queryRef:
			r.Query = r.Query.set(at.key, at.pre+id+at.post)
		case textRef:
			if at.node == nil {
				continue
			}
			at.node.text = at.pre + id + at.post
			inBody = true
		case keyRef:
			for k := range at.node.keys {
				if at.node.keys[k] == at.key && at.node.get(id) == nil {
					at.node.keys[k] = id
				}
			}
			inBody = true
		case moreRef:
			at.write(id)
			inBody = true
		}
	}
	if inBody {
		r.changed()
	}
}
