package buildkit

import (
	"bytes"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ErrMessage is wrapped by every error about a message that is not taken.
var ErrMessage = errors.New("message not taken")

// maxDepth bounds how deep messages lie in each other. BuildKit's own need less than ten.
const maxDepth = 32

// maxFields bounds the fields of one message at all depths: each takes memory beside its bytes, up to a
// hundred times as much.
const maxFields = 1 << 18

// countFields takes the fields of b, a message of the type d, off left.
func countFields(b []byte, d protoreflect.MessageDescriptor, left *int, depth int) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return protowire.ParseError(n)
		}
		*left--
		if fd := d.Fields().ByNumber(num); fd != nil && typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b)
			switch kind := fd.Kind(); {
			case kind == protoreflect.MessageKind && depth > 0:
				if err := countFields(value, fd.Message(), left, depth-1); err != nil {
					return err
				}
			case kind != protoreflect.BytesKind && kind != protoreflect.StringKind: // numbers, packed
				*left -= len(value)
			}
		}
		if *left < 0 {
			return fmt.Errorf("more than %d fields", maxFields)
		}
		b = b[n:]
	}
	return nil
}

// decode reads b into m. A field that m does not have is an error, at any depth: what cannot
// be judged must not reach the daemon.
func decode(b []byte, m proto.Message) error {
	left := maxFields
	if err := countFields(b, m.ProtoReflect().Descriptor(), &left, maxDepth); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMessage, m.ProtoReflect().Descriptor().FullName(), err)
	}
	if err := (proto.UnmarshalOptions{RecursionLimit: maxDepth}).Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %s: not well-formed", ErrMessage, m.ProtoReflect().Descriptor().FullName())
	}
	return known(m.ProtoReflect())
}

// decodeCanonical is decode for bytes that are sent on as they are, since they are named by
// their digest: they must be what any reader would write itself, so that none reads them in
// another way.
func decodeCanonical(b []byte, m proto.Message) error {
	if err := decode(b, m); err != nil {
		return err
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil || !bytes.Equal(again, b) {
		return fmt.Errorf("%w: %s: not in canonical form", ErrMessage, m.ProtoReflect().Descriptor().FullName())
	}
	return nil
}

// known returns an error if m or what lies in it has fields, or values of enumerations, that
// its type does not have.
func known(m protoreflect.Message) error {
	if len(m.GetUnknown()) > 0 {
		return fmt.Errorf("%w: %s has a field that is not known", ErrMessage, m.Descriptor().FullName())
	}
	var err error
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
				err = knownValue(fd.MapValue(), e)
				return err == nil
			})
		case fd.IsList():
			for i := 0; i < v.List().Len() && err == nil; i++ {
				err = knownValue(fd, v.List().Get(i))
			}
		default:
			err = knownValue(fd, v)
		}
		return err == nil
	})
	return err
}

func knownValue(fd protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return known(v.Message())
	case protoreflect.EnumKind:
		if fd.Enum().Values().ByNumber(v.Enum()) == nil {
			return fmt.Errorf("%w: %s has a value that is not known", ErrMessage, fd.FullName())
		}
	}
	return nil
}
