package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/belay-project/belay/internal/apicall"
)

// filter narrows an answer to what the caller may see. It appends what is left to dst.
type filter func(x *exchange, dst, body []byte) ([]byte, error)

// lists are the answers that name many things.
var lists = map[string]filter{
	"container.list": arrayOf(readContainer),
	"image.list":     arrayOf(readImage),
	"network.list":   arrayOf(readNetwork),
	"volume.list":    membersOf(map[string]reader{"Volumes": readVolume}),
	"service.list":   arrayOf(readSpec(apicall.ResourceService)),
	"node.list":      arrayOf(readSpec(apicall.ResourceNode)),
	"secret.list":    arrayOf(readSpec(apicall.ResourceSecret)),
	"config.list":    arrayOf(readSpec(apicall.ResourceConfig)),
	"task.list":      arrayOf(readTask),
	"plugin.list":    arrayOf(readPlugin),
	"system.df":      membersOf(map[string]reader{"Containers": readContainer, "Images": readImage, "Volumes": readVolume, "BuildCache": readNothing, "LayersSize": nil}),
}

// canFilter tells whether the answer to an action can be narrowed.
func canFilter(action string) bool { return lists[action] != nil || action == eventsAction }

const eventsAction = "system.events"

// filter returns what has to be done to the answer; nil: it is passed on as it is.
func (x *exchange) filter() filter {
	if x.rules == nil || x.resp.Status != http.StatusOK || x.match.Route.Method == http.MethodHead {
		return nil
	}
	action := x.req.Call.Action
	var first, then filter
	if x.dec.Scope.Filter {
		if action == eventsAction {
			return passEvents
		}
		if first = lists[action]; first == nil {
			return withhold
		}
	}
	switch {
	case len(x.dec.Obligations.RedactEnv) > 0 && redacted[action] != nil:
		then = redacted[action]
	case action == "network.inspect" && x.rules.Enforced():
		then = networkMembers
	case action == "network.list" && x.rules.Enforced() && x.match.Minor() != 0 && x.match.Minor() < withoutMembers:
		then = networksMembers
	}
	if first == nil || then == nil {
		if first == nil {
			return then
		}
		return first
	}
	return func(x *exchange, dst, body []byte) ([]byte, error) {
		body, err := first(x, nil, body)
		if err != nil {
			return nil, err
		}
		return then(x, dst, body)
	}
}

// withoutMembers is the first API version whose list of networks does not say who is in
// them.
const withoutMembers = 28

// withhold is for an answer that should be filtered and cannot be.
func withhold(*exchange, []byte, []byte) ([]byte, error) { return nil, errJSON }

// passEvents marks the one answer that has no end; see events.go.
func passEvents(*exchange, []byte, []byte) ([]byte, error) { return nil, errJSON }

// reader reads of the thing at the beginning of b what policies ask about, fills res with
// it, and returns the thing's length.
type reader func(b []byte, res *apicall.Resource) (int, error)

// sees reports whether the caller may see res.
func (x *exchange) sees(res *apicall.Resource) bool {
	setOwner(res)
	if x.rules.VisibleTo(&x.req.Call, res, x.start) {
		return true
	}
	x.c.s.counts.hidden.Add(1)
	return false
}

func (x *exchange) appendVisible(dst, array []byte, read reader) ([]byte, error) {
	if bytes.Equal(bytes.TrimSpace(array), []byte("null")) {
		return append(dst, "null"...), nil
	}
	dst = append(dst, '[')
	first := true
	err := eachObject(array, func(b []byte) (int, error) {
		*x.see = apicall.Resource{Names: x.see.Names[:0]}
		n, err := read(b, x.see)
		if err != nil || !x.sees(x.see) {
			return n, err
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, b[:n]...)
		return n, nil
	})
	return append(dst, ']'), err
}

func arrayOf(read reader) filter {
	return func(x *exchange, dst, body []byte) ([]byte, error) {
		dst, err := x.appendVisible(dst, body, read)
		return append(dst, '\n'), err
	}
}

// membersOf filters the arrays of an object. Members that are not listed go, but for
// plain numbers and lists of warnings.
func membersOf(readers map[string]reader) filter {
	return func(x *exchange, dst, body []byte) ([]byte, error) {
		dst = append(dst, '{')
		first := true
		err := eachMember(body, func(name, value []byte) error {
			read, ok := readers[string(name[1:len(name)-1])]
			if !ok {
				return nil
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = append(append(dst, name...), ':')
			if read == nil {
				dst = append(dst, value...)
				return nil
			}
			var err error
			dst, err = x.appendVisible(dst, value, read)
			return err
		})
		return append(dst, '}', '\n'), err
	}
}

// readNothing hides everything: nothing is known of whose it is.
func readNothing(b []byte, res *apicall.Resource) (int, error) {
	res.Kind = apicall.ResourceBuild
	return skipValue(b, 0)
}

func readContainer(e []byte, res *apicall.Resource) (int, error) {
	res.Kind = apicall.ResourceContainer
	return members(e, func(name, v []byte) (err error) {
		switch string(name) {
		case `"Id"`:
			res.ID, err = text(v)
		case `"Names"`:
			err = eachElement(v, func(n []byte) error {
				s, err := text(n)
				res.Names = append(res.Names, strings.TrimPrefix(s, "/"))
				return err
			})
		case `"Image"`:
			res.Image, err = text(v)
		case `"ImageID"`:
			res.ImageDigest, err = text(v)
		case `"Labels"`:
			res.Labels, err = labels(v)
		}
		return err
	})
}

func readImage(e []byte, res *apicall.Resource) (int, error) {
	res.Kind = apicall.ResourceImage
	return members(e, func(name, v []byte) (err error) {
		switch string(name) {
		case `"Id"`:
			res.ID, err = text(v)
			res.ImageDigest = res.ID
		case `"RepoTags"`, `"RepoDigests"`:
			if string(v) == "null" {
				return nil
			}
			err = eachElement(v, func(n []byte) error {
				s, err := text(n)
				if !strings.Contains(s, "<none>") {
					res.Names = append(res.Names, s)
				}
				return err
			})
		case `"Labels"`:
			res.Labels, err = labels(v)
		}
		return err
	})
}

func readNetwork(e []byte, res *apicall.Resource) (int, error) {
	return readNamed(apicall.ResourceNetwork, `"Id"`, e, res)
}

func readPlugin(e []byte, res *apicall.Resource) (int, error) {
	return readNamed(apicall.ResourcePlugin, `"Id"`, e, res)
}

// readVolume: a volume's name is its id.
func readVolume(e []byte, res *apicall.Resource) (int, error) {
	n, err := readNamed(apicall.ResourceVolume, `"Name"`, e, res)
	res.Names = append(res.Names[:0], res.ID)
	return n, err
}

func readNamed(kind apicall.ResourceKind, id string, e []byte, res *apicall.Resource) (int, error) {
	res.Kind = kind
	return members(e, func(name, v []byte) (err error) {
		switch string(name) {
		case id:
			res.ID, err = text(v)
		case `"Name"`:
			var s string
			s, err = text(v)
			res.Names = append(res.Names, s)
		case `"Labels"`:
			res.Labels, err = labels(v)
		}
		return err
	})
}

// readSpec reads what a swarm calls its things by.
func readSpec(kind apicall.ResourceKind) reader {
	return func(e []byte, res *apicall.Resource) (int, error) {
		res.Kind = kind
		return members(e, func(name, v []byte) (err error) {
			switch string(name) {
			case `"ID"`:
				res.ID, err = text(v)
			case `"Spec"`:
				var s struct {
					Name         string
					Labels       map[string]string
					TaskTemplate struct{ ContainerSpec struct{ Image string } }
				}
				err = json.Unmarshal(v, &s)
				res.Names, res.Labels, res.Image = append(res.Names, s.Name), s.Labels, s.TaskTemplate.ContainerSpec.Image
			}
			return err
		})
	}
}

// readTask: the labels of a task's containers are its service's choice.
func readTask(b []byte, res *apicall.Resource) (int, error) {
	res.Kind = apicall.ResourceTask
	n, err := skipValue(b, 0)
	if err != nil {
		return 0, err
	}
	var t struct {
		ID     string
		Labels map[string]string
		Spec   struct {
			ContainerSpec struct {
				Image  string
				Labels map[string]string
			}
		}
	}
	if err := json.Unmarshal(b[:n], &t); err != nil {
		return 0, err
	}
	res.ID, res.Labels, res.Image = t.ID, t.Labels, t.Spec.ContainerSpec.Image
	if len(res.Labels) == 0 {
		res.Labels = t.Spec.ContainerSpec.Labels
	}
	return n, nil
}

// text reads a JSON string, null as empty.
func text(v []byte) (string, error) {
	if len(v) >= 2 && v[0] == '"' && bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1]), nil
	}
	var s string
	err := json.Unmarshal(v, &s)
	return s, err
}

func labels(v []byte) (map[string]string, error) {
	if string(v) == "null" || string(v) == "{}" {
		return nil, nil
	}
	if m, ok := parsed.get(v); ok {
		return m, nil
	}
	m := map[string]string{}
	err := eachMember(v, func(name, value []byte) error {
		k, err := text(name)
		if err != nil {
			return err
		}
		m[k], err = text(value)
		return err
	})
	if err != nil {
		return nil, err
	}
	parsed.put(v, m)
	return m, nil
}

// labelCache remembers what label texts say: those who poll lists show the same ones again
// and again. Its maps are never changed.
type labelCache struct {
	// mu guards the fields below.
	mu    sync.RWMutex
	texts map[string]map[string]string
	bytes int
}

// maxLabelCache bounds the texts that are kept.
const maxLabelCache = 256 << 10

var parsed labelCache

func (c *labelCache) get(text []byte) (map[string]string, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	m, ok := c.texts[string(text)]
	return m, ok
}

func (c *labelCache) put(text []byte, m map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.texts == nil || c.bytes+len(text) > maxLabelCache {
		c.texts, c.bytes = map[string]map[string]string{}, 0
	}
	if len(text) <= maxLabelCache/16 {
		c.texts[string(text)] = m
		c.bytes += len(text)
	}
}

// networkMembers takes out of a network the containers that the caller may not see.
func networkMembers(x *exchange, dst, body []byte) ([]byte, error) {
	visible, err := x.visibleContainers()
	if err != nil {
		return nil, err
	}
	dst, err = appendMembers(dst, body, visible)
	return append(dst, '\n'), err
}

// networksMembers is that for the list which old clients get.
func networksMembers(x *exchange, dst, body []byte) ([]byte, error) {
	visible, err := x.visibleContainers()
	if err != nil {
		return nil, err
	}
	dst = append(dst, '[')
	first := true
	err = eachObject(body, func(b []byte) (int, error) {
		n, err := skipValue(b, 0)
		if err != nil {
			return 0, err
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst, err = appendMembers(dst, b[:n], visible)
		return n, err
	})
	return append(dst, ']', '\n'), err
}

// appendMembers appends one network with those of its containers that are visible.
func appendMembers(dst, body []byte, visible map[string]bool) ([]byte, error) {
	dst = append(dst, '{')
	first := true
	err := eachMember(body, func(name, value []byte) error {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(dst, name...), ':')
		if string(name) != `"Containers"` || string(value) == "null" {
			dst = append(dst, value...)
			return nil
		}
		dst = append(dst, '{')
		n := 0
		err := eachMember(value, func(id, v []byte) error {
			if !visible[string(id[1:len(id)-1])] {
				return nil
			}
			if n++; n > 1 {
				dst = append(dst, ',')
			}
			dst = append(append(append(dst, id...), ':'), v...)
			return nil
		})
		dst = append(dst, '}')
		return err
	})
	return append(dst, '}'), err
}

// visibleContainers asks the daemon for all containers, and returns the ids of those
// that the caller may see.
func (x *exchange) visibleContainers() (map[string]bool, error) {
	ctx, cancel := x.lookup()
	defer cancel()
	status, body, err := x.c.s.up.ask(ctx, "/containers/json?all=1", x.c.s.o.Limits.FilterBytes)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("list containers: status %d", status)
	}
	out := map[string]bool{}
	err = eachObject(body, func(b []byte) (int, error) {
		var res apicall.Resource
		n, err := readContainer(b, &res)
		if err != nil {
			return 0, err
		}
		setOwner(&res)
		if x.rules.Visible(&x.c.sub, "container.list", &res) {
			out[res.ID] = true
		}
		return n, nil
	})
	return out, err
}
