package policy

import (
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/belay-project/belay/internal/apicall"
)

// fieldInfo is one field of a struct of apicall, as policies name it.
type fieldInfo struct {
	name  string
	index int
	typ   reflect.Type
}

// structInfo is a struct of apicall that expressions and test requests can name. They
// see its exported fields in lower camel case, so that a fact which the request
// parser learns is at once there for policies.
type structInfo struct {
	name   string
	typ    reflect.Type
	fields []fieldInfo
}

func (s *structInfo) field(name string) (fieldInfo, bool) {
	for _, f := range s.fields {
		if f.name == name {
			return f, true
		}
	}
	return fieldInfo{}, false
}

func (s *structInfo) names() []string {
	out := make([]string, len(s.fields))
	for i, f := range s.fields {
		out[i] = f.name
	}
	return out
}

// hidden are fields that policies do not see. A pid is for the record: it can be another
// process's a moment later. An exec's container is for elevations.
var hidden = []string{"Subject.PID", "Subject.PIDStart", "Resource.ContainerID"}

// structs is every such struct, by its name in expressions.
var structs = func() map[string]*structInfo {
	m := map[string]*structInfo{}
	for _, v := range []any{
		apicall.Subject{}, apicall.Resource{}, apicall.Facts{}, apicall.HostMount{}, apicall.PortBinding{}, apicall.Limits{},
	} {
		t := reflect.TypeOf(v)
		s := &structInfo{name: t.Name(), typ: t}
		for i := range t.NumField() {
			f := t.Field(i)
			if f.IsExported() && !slices.Contains(hidden, s.name+"."+f.Name) {
				s.fields = append(s.fields, fieldInfo{lowerCamel(f.Name), i, f.Type})
			}
		}
		m[s.name] = s
	}
	return m
}()

func structOf(t reflect.Type) *structInfo {
	if s := structs[t.Name()]; s != nil && s.typ == t {
		return s
	}
	return nil
}

// lowerCamel writes a Go name as policies have it: CapAdd as capAdd, OOMScoreAdj as
// oomScoreAdj, SANs as sans.
func lowerCamel(name string) string {
	if rest, ok := strings.CutPrefix(name, "SELinux"); ok {
		return "selinux" + rest
	}
	run := strings.IndexFunc(name, func(r rune) bool { return !unicode.IsUpper(r) })
	switch {
	case run < 0 || run == len(name)-1 && name[run] == 's' && run > 1:
		return strings.ToLower(name)
	case run > 1:
		run--
	}
	return strings.ToLower(name[:run]) + name[run:]
}

// enumNames are the words for numbers that have names.
var subjectKindNames = map[apicall.SubjectKind]string{
	apicall.Nobody: "nobody", apicall.User: "user", apicall.Certificate: "certificate", apicall.Token: "token",
	apicall.Container: "container",
}

func resourceKindName(k apicall.ResourceKind) string {
	for name, v := range resourceKinds {
		if v == k {
			return name
		}
	}
	return ""
}
