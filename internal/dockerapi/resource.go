package dockerapi

import (
	"github.com/belay-project/belay/internal/apicall"
)

// refKind says where in a request a resource's name stands.
type refKind uint8

const (
	fixedRef refKind = iota // stays as it is
	pathRef                 // the first path variable
	queryRef                // the value of a query key
	textRef                 // a JSON string, between pre and post
	keyRef                  // a key of a JSON object
)

// ref is one place where a resource's name stands, so that the id which was judged
// can be put there.
type ref struct {
	kind      refKind
	node      *node
	pre, post string
	key       string // of the query, or of the object
}

// addResource records that the call is about a thing and where its name stands. The
// same name of the same kind is one resource, however often it is written.
func (r *Request) addResource(kind apicall.ResourceKind, name string, at ref) {
	if name == "" {
		return
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
			r.Query = r.Query.set(at.key, id)
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
		}
	}
	if inBody {
		r.refresh()
	}
}

// refresh decodes the body again after a change of ours. It cannot fail for what is
// written here, strings and numbers where such stood; if it did, the body that is
// shown would be old, and the one that is sent still ours.
func (r *Request) refresh() {
	if err := r.decodeBody(); err != nil {
		return
	}
}
