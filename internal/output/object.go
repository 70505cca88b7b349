package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"strings"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

// object is a JSON object of another schema.
type object map[string]any

// put sets fields, by name and value in turn, but for those without a value: an empty text or list, nil,
// or an object without fields. Numbers and booleans are always set.
func (o object) put(pairs ...any) object {
	for i := 0; i+1 < len(pairs); i += 2 {
		name, value := pairs[i].(string), pairs[i+1]
		switch v := reflect.ValueOf(value); v.Kind() {
		case reflect.Invalid:
			continue
		case reflect.String, reflect.Slice, reflect.Map:
			if v.Len() == 0 {
				continue
			}
		case reflect.Pointer:
			if v.IsNil() {
				continue
			}
		}
		o[name] = value
	}
	return o
}

// line returns an object as one line of JSON.
func line(o object) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(o); err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

// number is a number that is left out where it is zero.
func number[T uint16 | uint32 | int | int32](n T) any {
	if n == 0 {
		return nil
	}
	return n
}

// decimal is a number as text, which no reader rounds; it is left out where it is zero.
func decimal(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// base is the last part of a path.
func base(p string) string {
	if p == "" {
		return ""
	}
	return path.Base(p)
}

// refused tells whether the act did not take place.
func refused(r *journal.Record) bool {
	return r.Decision == verdict.Denied || r.Decision == verdict.Killed
}

// verb returns the first of the words that is in a hook's name.
func verb(hook string, words ...string) string {
	for _, w := range words {
		if strings.Contains(hook, w) {
			return w
		}
	}
	return ""
}
