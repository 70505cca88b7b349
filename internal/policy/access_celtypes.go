package policy

import (
	"fmt"
	"net/netip"
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/belay-project/belay/internal/apicall"
)

// celTypes shows the structs of apicall to expressions, which can read their fields
// and make none of them.
type celTypes struct{ *types.Registry }

// FindStructType implements types.Provider.
func (c *celTypes) FindStructType(name string) (*types.Type, bool) {
	if structs[name] != nil {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return c.Registry.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (c *celTypes) FindStructFieldNames(name string) ([]string, bool) {
	if s := structs[name]; s != nil {
		return s.names(), true
	}
	return c.Registry.FindStructFieldNames(name)
}

// FindStructFieldType implements types.Provider.
func (c *celTypes) FindStructFieldType(name, fieldName string) (*types.FieldType, bool) {
	s := structs[name]
	if s == nil {
		return c.Registry.FindStructFieldType(name, fieldName)
	}
	f, ok := s.field(fieldName)
	if !ok {
		return nil, false
	}
	return &types.FieldType{
		Type:  celType(f.typ),
		IsSet: func(target any) bool { v, err := fieldOf(s, f, target); return err == nil && !v.IsZero() },
		GetFrom: func(target any) (any, error) {
			v, err := fieldOf(s, f, target)
			if err != nil {
				return nil, err
			}
			return plainValue(v), nil
		},
	}, true
}

// NewValue implements types.Provider.
func (c *celTypes) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if structs[name] != nil {
		return types.NewErr("%s cannot be made in an expression", name)
	}
	return c.Registry.NewValue(name, fields)
}

// NativeToValue implements types.Adapter.
func (c *celTypes) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case ref.Val:
		return v
	case string:
		return types.String(v)
	case []string:
		return types.NewStringList(c, v)
	}
	rv := reflect.ValueOf(v)
	if rv.Kind() == reflect.Pointer && !rv.IsNil() && structOf(rv.Type().Elem()) != nil {
		return &object{rv.Elem(), v, structOf(rv.Type().Elem())}
	}
	if rv.Kind() == reflect.Slice && structOf(rv.Type().Elem()) != nil {
		list := make([]ref.Val, rv.Len())
		for i := range list {
			list[i] = c.NativeToValue(rv.Index(i).Addr().Interface())
		}
		return types.NewRefValList(c, list)
	}
	return c.Registry.NativeToValue(v)
}

func fieldOf(s *structInfo, f fieldInfo, target any) (reflect.Value, error) {
	rv := reflect.ValueOf(target)
	if rv.Kind() != reflect.Pointer || rv.IsNil() || rv.Type().Elem() != s.typ {
		return reflect.Value{}, fmt.Errorf("%s has no field %s", rv.Type(), f.name)
	}
	return rv.Elem().Field(f.index), nil
}

// celType is the type of a Go type in expressions. All numbers are int: the types of
// the API's numbers mean nothing to people.
func celType(t reflect.Type) *types.Type {
	switch {
	case t == reflect.TypeFor[netip.Addr](), t == reflect.TypeFor[apicall.SubjectKind](), t == reflect.TypeFor[apicall.ResourceKind]():
		return types.StringType
	case structOf(t) != nil:
		return types.NewObjectType(t.Name())
	}
	switch t.Kind() {
	case reflect.Pointer:
		return celType(t.Elem()) // unset is the zero value; has() tells
	case reflect.Bool:
		return types.BoolType
	case reflect.String:
		return types.StringType
	case reflect.Slice:
		return types.NewListType(celType(t.Elem()))
	case reflect.Map:
		return types.NewMapType(celType(t.Key()), celType(t.Elem()))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return types.IntType
	}
	return types.DynType
}

// plainValue turns a field's value into one whose type in expressions is celType's.
func plainValue(v reflect.Value) any {
	switch k := v.Interface().(type) {
	case netip.Addr:
		if !k.IsValid() {
			return ""
		}
		return k.String()
	case apicall.SubjectKind:
		return subjectKindNames[k]
	case apicall.ResourceKind:
		return resourceKindName(k)
	case []string:
		return k
	case map[string]string:
		return k
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return plainValue(reflect.Zero(v.Type().Elem()))
		}
		return plainValue(v.Elem())
	case reflect.Struct:
		return v.Addr().Interface()
	case reflect.Bool:
		return v.Bool()
	case reflect.String:
		return v.String()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return int64(v.Uint())
	case reflect.Slice:
		if k := v.Type().Elem().Kind(); k == reflect.Uint32 {
			out := make([]int64, v.Len())
			for i := range out {
				out[i] = int64(v.Index(i).Uint())
			}
			return out
		}
	}
	return v.Interface()
}

// object is a struct of apicall as a value of an expression.
type object struct {
	v    reflect.Value
	ptr  any
	info *structInfo
}

// ConvertToNative implements ref.Val.
func (o *object) ConvertToNative(t reflect.Type) (any, error) {
	if reflect.TypeOf(o.ptr).AssignableTo(t) {
		return o.ptr, nil
	}
	return nil, fmt.Errorf("%s is not a %s", o.info.name, t)
}

// ConvertToType implements ref.Val.
func (o *object) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return types.NewObjectType(o.info.name)
	}
	return types.NewErr("%s is not a %s", o.info.name, t.TypeName())
}

// Equal implements ref.Val.
func (o *object) Equal(other ref.Val) ref.Val {
	p, ok := other.(*object)
	return types.Bool(ok && reflect.DeepEqual(o.v.Interface(), p.v.Interface()))
}

// Type implements ref.Val.
func (o *object) Type() ref.Type { return types.NewObjectType(o.info.name) }

// Value implements ref.Val.
func (o *object) Value() any { return o.ptr }
