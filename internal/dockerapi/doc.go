// Package dockerapi reads requests to the Docker Engine API more strictly than the
// daemon does, tells in the terms of apicall what they ask for, and writes them
// again in its own encoding.
//
// The rule that everything here serves: a request that we accept has one reading,
// ours is the daemon's, and what is forwarded is what was judged. So every route is
// in one table in the daemon's own matching order and no match is an error; a path,
// query key, header or JSON token that two parsers could read in two ways is refused
// instead of repaired; and for a route that takes a body the bytes that go to the
// daemon are never the caller's.
//
// It owns no state, does no I/O and never decides whether a call is allowed. Names
// are kept as the caller wrote them: resolving them to ids and paths, and putting
// the result back with [Request.SetResource] and [Request.SetMountSource], is the
// gate's work. Row: core; it imports apicall, the standard library and the daemon's
// own request types (github.com/moby/moby/api), against which its tests compare.
package dockerapi
