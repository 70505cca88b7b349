package dockerapi

import (
	"reflect"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
)

// legacyField is a JSON field that a daemon of some API version from 1.24 on reads,
// or that a client sends and none reads, and that the current types do not have. It
// is known wherever its struct is, in requests of every version: a daemon that does
// not know it takes no notice.
type legacyField struct {
	in   reflect.Type // the struct that has it, in every route that takes the struct
	name string
	typ  reflect.Type // of the value
	// lone says that a string was taken for an array of one. The field itself is
	// in the current types; it is written as an array.
	lone bool
	// ignored fields are read by no daemon of these versions: they are dropped.
	ignored  bool
	from, to int // minor API versions
}

var (
	configType    = reflect.TypeFor[container.Config]()
	hostType      = reflect.TypeFor[container.HostConfig]()
	resourcesType = reflect.TypeFor[container.Resources]()
	updateType    = reflect.TypeFor[container.UpdateConfig]()
	execType      = reflect.TypeFor[container.ExecCreateRequest]()
	execStartType = reflect.TypeFor[container.ExecStartRequest]()
	boolType      = reflect.TypeFor[bool]()
	int64Type     = reflect.TypeFor[int64]()
	textKind      = reflect.TypeFor[string]()
	textsType     = reflect.TypeFor[[]string]()
)

// legacyFields is made from the API documents 1.24 to 1.56 and the types of the
// daemons 20.10 to 28.5, less what is in the current types. Misprints of the documents
// (NanoCPUs for NanoCpus) are left out: no daemon has such a field.
var legacyFields = []legacyField{
	{in: configType, name: "MacAddress", typ: textKind, from: 24, to: 51},
	{in: configType, name: "Cmd", lone: true, from: 24, to: 51},
	{in: configType, name: "Entrypoint", lone: true, from: 24, to: 51},
	{in: configType, name: "Shell", lone: true, from: 24, to: 51},
	{in: reflect.TypeFor[container.CreateRequest](), name: "Cpuset", typ: textKind, from: 24, to: 43},
	{in: hostType, name: "CapAdd", lone: true, from: 24, to: 51},
	{in: hostType, name: "CapDrop", lone: true, from: 24, to: 51},
	{in: hostType, name: "Capabilities", typ: textsType, from: 40, to: 40},
	{in: resourcesType, name: "DiskQuota", typ: int64Type, from: 24, to: 39},
	{in: resourcesType, name: "KernelMemory", typ: int64Type, from: 24, to: 51},
	{in: resourcesType, name: "KernelMemoryTCP", typ: int64Type, from: 40, to: 51},
	{in: updateType, name: "Init", typ: boolType, ignored: true, from: 37, to: 56}, // in the documents only
	{in: execType, name: "Detach", typ: boolType, from: 24, to: 51},
	{in: execType, name: "Container", typ: textKind, ignored: true, from: 24, to: 56},   // docker-py sends the path's container again
	{in: execStartType, name: "hijack", typ: boolType, ignored: true, from: 24, to: 56}, // dockerode sends its own options along
	{in: execStartType, name: "stdin", typ: boolType, ignored: true, from: 24, to: 56},
	{in: reflect.TypeFor[network.CreateRequest](), name: "CheckDuplicate", typ: boolType, from: 24, to: 51},
	{in: reflect.TypeFor[registry.AuthConfig](), name: "email", typ: textKind, from: 24, to: 51},
	{in: reflect.TypeFor[swarm.Limit](), name: "GenericResources", typ: reflect.TypeFor[[]swarm.GenericResource](), from: 32, to: 40},
}
