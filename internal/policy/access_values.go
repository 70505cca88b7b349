package policy

import (
	"net/netip"
	"reflect"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/apicall"
)

// apiStruct reads a mapping into a struct of apicall, by the names of its fields in
// expressions. ptr points to one.
func (d *decoder) apiStruct(n *yaml.Node, at string, s *structInfo, ptr any) {
	d.fieldsOf(n, at, s, reflect.ValueOf(ptr).Elem())
}

func (d *decoder) fieldsOf(n *yaml.Node, at string, s *structInfo, v reflect.Value) {
	fields := make([]field, len(s.fields))
	for i, f := range s.fields {
		fields[i] = field{f.name, false, func(n *yaml.Node, at string) { d.reflected(n, at, v.Field(f.index)) }}
	}
	d.object(n, at, fields)
}

// reflected reads a node into a field, which its type tells how to.
func (d *decoder) reflected(n *yaml.Node, at string, v reflect.Value) {
	switch p := v.Addr().Interface().(type) {
	case *apicall.SubjectKind:
		words := []string{"user", "certificate", "token", "container"}
		d.enum(words, func(s string) {
			for k, name := range subjectKindNames {
				if name == s {
					*p = k
				}
			}
		})(n, at)
		return
	case *apicall.ResourceKind:
		d.enum(resourceKindNames, func(s string) { *p = resourceKinds[s] })(n, at)
		return
	case *netip.Addr:
		a, err := netip.ParseAddr(n.Value)
		if err != nil {
			d.fail(n, "", "%s must be an IP address, got %s", at, describe(n))
		}
		*p = a
		return
	case *map[string]string:
		d.stringMap(p)(n, at)
		return
	case *map[string][]string:
		*p = map[string][]string{}
		d.pairs(n, at, func(k, val *yaml.Node) {
			var list []string
			d.reflected(val, joinField(at, short(k.Value)), reflect.ValueOf(&list).Elem())
			(*p)[k.Value] = list
		})
		return
	}
	d.reflectedKind(n, at, v)
}

func (d *decoder) reflectedKind(n *yaml.Node, at string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		var b bool
		d.boolean(&b)(n, at)
		v.SetBool(b)
	case reflect.String:
		// Text that looks like a number is a number to YAML: a user, a port.
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" && n.Tag != "!!int" {
			d.fail(n, "put it in quotes", "%s must be text, got %s", at, describe(n))
			return
		}
		v.SetString(n.Value)
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32:
		i, err := strconv.ParseInt(n.Value, 10, 64)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil || v.CanUint() && (i < 0 || v.OverflowUint(uint64(i))) ||
			v.CanInt() && v.OverflowInt(i) {
			d.fail(n, "", "%s must be a whole number, got %s", at, describe(n))
			return
		}
		if v.CanUint() {
			v.SetUint(uint64(i))
		} else {
			v.SetInt(i)
		}
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.reflected(n, at, p.Elem())
		v.Set(p)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode || len(n.Content) > maxRequests {
			d.fail(n, "write it as a list", "%s must be a list, got %s", at, describe(n))
			return
		}
		list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, c := range n.Content {
			d.reflected(c, at+"["+strconv.Itoa(i)+"]", list.Index(i))
		}
		v.Set(list)
	case reflect.Struct:
		if s := structOf(v.Type()); s != nil {
			d.fieldsOf(n, at, s, v)
			return
		}
		d.fail(n, "", "%s cannot be written in a test", at)
	default:
		d.fail(n, "", "%s cannot be written in a test", at)
	}
}
