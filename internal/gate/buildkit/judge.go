package buildkit

import (
	"context"

	"github.com/belay-project/belay/internal/apicall"
)

// Question is one call, or what one call would do, as policies are asked about it.
type Question struct {
	Method string // of gRPC: "/moby.buildkit.v1.Control/Solve"
	Action string // of policies: "build.grpc.solve"
	Facts  apicall.Facts
	// Ref is the build that the call is about; "" if it names none. Own tells whether the
	// caller began it.
	Ref string
	Own bool
	// Hypothetical: nothing was asked for. It must not be recorded.
	Hypothetical bool
}

// Verdict is the answer to a [Question]. The zero value denies.
type Verdict struct {
	Allowed bool
	Message string // for the caller, if denied
}

// Judge knows the caller and the policies. All methods may be called at the same time.
type Judge interface {
	// Ask decides and records.
	Ask(q *Question) Verdict
	// OwnsSession tells whether the caller opened the session, waiting for a moment until ctx
	// ends if nobody has opened it: clients open one while they ask for the build.
	OwnsSession(ctx context.Context, id string) bool
	// ClaimBuild tells whether the name of a build is the caller's: it is whose who names it
	// first.
	ClaimBuild(ref string) bool
	// OwnsBuild tells whether the caller claimed the name.
	OwnsBuild(ref string) bool
	// Refused notes what the package itself did not let pass, and why: a stable word.
	Refused(method, cause, msg string)
}

// Causes of what is refused without asking a policy.
const (
	CauseUnknownMethod = "grpc_method" // no method of the table
	CauseInternal      = "internal_failure"
	CauseMessage       = "grpc_message"  // not read: unknown field, not canonical, too large
	CauseForeign       = "grpc_foreign"  // another's build or session
	CauseTooMuch       = "grpc_too_much" // messages that wait take too much memory
)

// MaxRef bounds the name of a build, in bytes. BuildKit's own have 25.
const MaxRef = 256

// MaxMessage bounds one message, in bytes. BuildKit's own bound is 16 MiB
// (github.com/moby/buildkit, util/grpcerrors and cmd/buildkitd: defaults.DefaultMaxRecvMsgSize).
const MaxMessage = 16 << 20
