package recreate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/image"
)

// unknownFields returns the fields of a part of an inspection that say something and that
// typ, a struct, does not have: an engine newer than this program, or older, gave them.
func unknownFields(part string, raw map[string]json.RawMessage, typ any) []string {
	known := map[string]bool{}
	fieldsOf(reflect.TypeOf(typ), known)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(raw)) {
		if !known[strings.ToLower(k)] && !empty(raw[k]) {
			out = append(out, part+"."+k)
		}
	}
	return out
}

func fieldsOf(t reflect.Type, known map[string]bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			fieldsOf(f.Type, known)
		case name != "":
			known[strings.ToLower(name)] = true
		default:
			known[strings.ToLower(f.Name)] = true
		}
	}
}

// empty reports whether a JSON value is what an engine writes for nothing.
func empty(v json.RawMessage) bool {
	switch string(bytes.TrimSpace(v)) {
	case "", "null", `""`, "0", "false", "[]", "{}":
		return true
	}
	return false
}

// uncompared are paths that are never the same, or say nothing.
var uncompared = []string{
	".Image",                  // the same image has another name, or is checked by SameImage
	".Hostname",               // see recipe
	".HostConfig.ConsoleSize", // of whoever ran docker run
	".AttachStdout", ".AttachStderr",
}

// sets are objects whose keys say something even with nothing behind them.
var sets = []string{
	".ExposedPorts", ".Labels", ".HostConfig.Tmpfs", ".HostConfig.PortBindings", ".HostConfig.Sysctls", ".HostConfig.Annotations",
	".HostConfig.StorageOpt", ".NetworkingConfig.EndpointsConfig",
}

// ownDefault are lists that an engine fills in where it was told nothing. An empty one says
// something: nothing is masked.
var ownDefault = []string{".HostConfig.MaskedPaths", ".HostConfig.ReadonlyPaths"}

// Differences returns the paths at which what an engine made of a request is not what was
// asked for: an older engine leaves out what it does not know, without a word. Values are
// never part of it.
func Differences(want, got *Recipe) []string {
	var out []string
	a, b := plain(want.Request), plain(got.Request)
	diff("", a, b, &out)
	slices.Sort(out)
	if !slices.EqualFunc(want.Volumes, got.Volumes, func(a, b Volume) bool {
		return a.Name == b.Name && clean(a.Destination) == clean(b.Destination) && a.ReadOnly == b.ReadOnly
	}) {
		out = append(out, "Mounts")
	}
	return out
}

func plain(v any) any {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint("cannot be encoded: ", err)
	}
	var out any
	if err := json.Unmarshal(raw, &out); err != nil {
		return fmt.Sprint("cannot be decoded: ", err)
	}
	return out
}

func diff(path string, a, b any, out *[]string) {
	if slices.Contains(uncompared, path) || a == nil && slices.Contains(ownDefault, path) {
		return
	}
	ma, okA := a.(map[string]any)
	mb, okB := b.(map[string]any)
	if !okA && a != nil || !okB && b != nil || !okA && !okB {
		if !reflect.DeepEqual(a, b) && !(nothing(a) && nothing(b)) {
			*out = append(*out, strings.TrimPrefix(path, "."))
		}
		return
	}
	keys := map[string]bool{}
	for k := range ma {
		keys[k] = true
	}
	for k := range mb {
		keys[k] = true
	}
	for k := range keys {
		_, inA := ma[k]
		_, inB := mb[k]
		if inA != inB && slices.Contains(sets, path) {
			*out = append(*out, strings.TrimPrefix(path+"."+k, "."))
			continue
		}
		diff(path+"."+k, ma[k], mb[k], out)
	}
}

// nothing reports whether a value says nothing.
func nothing(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// SameImage reports whether two engines speak of one image: the same content of each layer
// and the same configuration. Their IDs differ between engines that keep images themselves
// and those that let containerd do it.
func SameImage(a, b *image.InspectResponse) bool {
	if a == nil || b == nil {
		return false
	}
	if a.ID != "" && a.ID == b.ID {
		return true
	}
	if len(a.RootFS.Layers) == 0 || !slices.Equal(a.RootFS.Layers, b.RootFS.Layers) {
		return false
	}
	if a.Architecture != b.Architecture || a.Os != b.Os || a.Variant != b.Variant {
		return false
	}
	var out []string
	diff("", plain(a.Config), plain(b.Config), &out)
	out = slices.DeleteFunc(out, func(p string) bool {
		switch p {
		// What the engine adds to an image's configuration and a container never gets.
		case "Hostname", "Domainname", "Image", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce":
			return true
		}
		return false
	})
	return len(out) == 0
}
