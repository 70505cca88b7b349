package dockerapi

import (
	"slices"

	"github.com/moby/moby/api/types/container"
)

// smallEnv is the encoding of an environment that is not worth being set apart, in bytes.
const smallEnv = 256

// encodeApart returns the encoding of n that is to be read back with the daemon's types. The
// environment, which is most of a usual create, is left out of it: it is encoded once, stays
// as it is from then on, and its strings are returned. They need no reading back, for a
// string that the strict reader took has one encoding, which stands for it to any reader.
// Without an environment of strings env is nil and the encoding is the whole.
func (r *Request) encodeApart(n *node, target any, size int) (text []byte, env []string) {
	i := -1
	if hasEnv(target) && n.kind == objectNode {
		i = slices.Index(n.keys, "Env")
	}
	if i < 0 || n.kids[i].kind != arrayNode || envBytes(n.kids[i]) < smallEnv {
		r.encoded = appendJSON(make([]byte, 0, size), n)
		return r.encoded, nil
	}
	list := n.kids[i]
	env = make([]string, len(list.kids))
	for j, kid := range list.kids {
		if kid.kind != stringNode {
			r.encoded = appendJSON(make([]byte, 0, size), n)
			return r.encoded, nil
		}
		env[j] = kid.text
	}
	n.kids[i] = &node{kind: writtenNode, text: string(appendJSON(make([]byte, 0, size), list))}
	rest := &node{kind: objectNode, keys: slices.Delete(slices.Clone(n.keys), i, i+1), kids: slices.Delete(slices.Clone(n.kids), i, i+1)}
	return appendJSON(make([]byte, 0, max(512, size-len(n.kids[i].text))), rest), env
}

// envBytes is about how long the encoding of a list is.
func envBytes(list *node) (n int) {
	for _, kid := range list.kids {
		n += len(kid.text) + 3
	}
	return n
}

// hasEnv tells whether Env of a body is a list of strings that setEnv can set.
func hasEnv(target any) bool {
	switch target.(type) {
	case *container.CreateRequest, *container.ExecCreateRequest:
		return true
	}
	return false
}

func setEnv(target any, env []string) {
	switch t := target.(type) {
	case *container.CreateRequest:
		if t.Config == nil {
			t.Config = &container.Config{}
		}
		t.Env = env
	case *container.ExecCreateRequest:
		t.Env = env
	}
}
