package dockerapi

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	filterSetSchema  = &schema{shape: mapShape, name: "map", elem: &schema{shape: mapShape, name: "map", elem: boolSchema}}
	filterListSchema = &schema{shape: mapShape, name: "map", elem: textsSchema}
)

// readFilters reads the query value filters, in the two forms that daemons take:
// {"label":{"a=b":true}} and {"label":["a=b"]}. It is written in the first, which
// every daemon reads alike. A false in the first form is refused: daemons ask whether
// a value is there in some places and what it is in others.
func (r *Request) readFilters() error {
	k := r.Route.keys.find("filters")
	raw := r.Query.Get("filters")
	if k == nil || raw == "" {
		return nil
	}
	n, _, err := readJSON([]byte(raw), filterSetSchema, r.opt, "filters")
	if err != nil {
		list, _, listErr := readJSON([]byte(raw), filterListSchema, r.opt, "filters")
		switch {
		case listErr != nil && codeOf(err) == CodeWrongType:
			return listErr
		case listErr != nil:
			return err
		}
		n = setForm(list)
	}
	var sets map[string]map[string]bool
	own := appendJSON(nil, n)
	if err := json.Unmarshal(own, &sets); err != nil {
		return badRequest(CodeBadValue, "filters", "the value is no filter")
	}
	out := make(map[string][]string, len(sets))
	for key, values := range sets {
		for _, on := range values {
			if !on {
				return badRequest(CodeBadValue, "filters", "a false value in a filter")
			}
		}
		out[key] = slices.Sorted(maps.Keys(values))
	}
	r.Call.Facts.Filters = out
	r.Query = r.Query.set("filters", string(own))
	return nil
}

// setForm turns the list form into the set form. A value that is twice in a list is
// once in the set.
func setForm(list *node) *node {
	out := &node{kind: objectNode}
	for i, key := range list.keys {
		set := &node{kind: objectNode}
		for _, v := range list.kids[i].kids {
			if v.kind == stringNode {
				set.set(v.text, boolNodeOf(true))
			}
		}
		out.set(key, set)
	}
	return out
}

// SetFilter adds a value to a filter of the request, for a list that must show only a
// caller's own things. Values of one key are alternatives to the daemon but for
// labels, all of which must match; so it is for labels. It fails for a route that has
// no filters: its answer must be filtered instead.
func (r *Request) SetFilter(key, value string) error {
	if r.Route.keys.find("filters") == nil {
		return badRequest(CodeCannotRewrite, "filters", "%s has no filters", r.Call.Action)
	}
	sets := map[string]map[string]bool{}
	for k, values := range r.Call.Facts.Filters {
		sets[k] = make(map[string]bool, len(values)+1)
		for _, v := range values {
			sets[k][v] = true
		}
	}
	if sets[key] == nil {
		sets[key] = map[string]bool{}
	}
	sets[key][value] = true
	own, err := json.Marshal(sets)
	if err != nil {
		return badRequest(CodeCannotRewrite, "filters", "the filter cannot be written")
	}
	r.Query = r.Query.set("filters", string(own))
	if r.Call.Facts.Filters == nil {
		r.Call.Facts.Filters = map[string][]string{}
	}
	r.Call.Facts.Filters[key] = slices.Sorted(maps.Keys(sets[key]))
	return nil
}

// platformSchema is what a query value platform or platforms holds where it is JSON.
var platformSchema = schemaOf(reflect.TypeFor[ocispec.Platform]())

// readPlatforms reads those values as strictly as a body.
func (r *Request) readPlatforms() error {
	for i := range r.Query {
		p := &r.Query[i]
		if p.Value == "" || p.Key != "platform" && p.Key != "platforms" || r.Route.keys.find(p.Key).kind != jsonValue {
			continue
		}
		n, _, err := readJSON([]byte(p.Value), platformSchema, r.opt, p.Key)
		if err != nil {
			return err
		}
		p.Value = string(appendJSON(nil, n))
	}
	return nil
}
