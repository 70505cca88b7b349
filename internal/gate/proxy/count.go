package proxy

import "github.com/belay-project/belay/internal/health"

// counters are what the gate counts; each has a name in `belay status`.
type counters struct {
	allowed, denied, wouldDeny, unmanaged                        *health.Counter
	noIdentity, refused, malformed, http2, limited, rate         *health.Counter
	daemonErrors, unfiltered, unresolved, acceptErrors, canceled *health.Counter
	bound, bindErrors, unremoved, unbound                        *health.Counter
	imageDenied, imageWould, cordoned, described, digests        *health.Counter
	replaced                                                     *health.Counter
	streams, hidden, elevated, noSession, grpcRefused            *health.Counter
	tokens, tokenWrong, tokenLimited                             *health.Counter
	noRoom, failures                                             *health.Counter
}

func (c *counters) init(r *health.Registry) {
	for _, n := range []struct {
		to   **health.Counter
		name string
	}{
		{&c.allowed, "gate_allowed"},             // forwarded
		{&c.denied, "gate_denied"},               // refused by a policy, or for want of one
		{&c.wouldDeny, "gate_would_deny"},        // forwarded, since the policy that denies audits
		{&c.unmanaged, "gate_unmanaged"},         // forwarded with no access policy on this host
		{&c.noIdentity, "gate_no_identity"},      // refused: who calls could not be read
		{&c.refused, "gate_refused"},             // refused by the parser: no route, or not strict
		{&c.malformed, "gate_malformed"},         // refused: no HTTP/1.1, or with two meanings
		{&c.http2, "gate_http2"},                 // refused: HTTP/2 with prior knowledge, of who may not open build.grpc
		{&c.grpcRefused, "gate_grpc_refused"},    // calls of BuildKit's refused without a policy: not known, not read, another's
		{&c.limited, "gate_over_connections"},    // refused: too many connections
		{&c.rate, "gate_over_rate"},              // refused: too many requests in a time
		{&c.noRoom, "gate_over_memory"},          // refused, or an answer withheld: too much is held in memory
		{&c.failures, "gate_failures"},           // connections that ended by a fault of the gate's own
		{&c.daemonErrors, "gate_daemon_errors"},  // the daemon could not be reached, or broke off
		{&c.unfiltered, "gate_unfiltered"},       // an answer withheld, or an event left out: it could not be filtered
		{&c.unresolved, "gate_unresolved"},       // refused: a name or path could not be resolved
		{&c.acceptErrors, "gate_accept_errors"},  // connections that could not be taken
		{&c.canceled, "gate_client_gone"},        // the client left before its answer was whole
		{&c.bound, "gate_bound"},                 // new containers whose checks are bound in the kernel
		{&c.bindErrors, "gate_bind_failed"},      // new containers that could not be bound: removed
		{&c.unremoved, "gate_bind_left"},         // of these: not removed, which do not start through the gate
		{&c.unbound, "gate_unbound"},             // refused: the start of a container that owes a binding
		{&c.imageDenied, "gate_image_denied"},    // refused: the image, by an image policy
		{&c.imageWould, "gate_image_would_deny"}, // forwarded, since the image policy that denies audits
		{&c.cordoned, "gate_cordoned"},           // refused: new containers on a node that is full, or cordoned by hand
		{&c.described, "gate_node_described"},    // descriptions of the node that were given
		{&c.digests, "gate_volume_digests"},      // digests of volumes that were made
		{&c.replaced, "gate_socket_replaced"},    // mounts of the daemon's socket that became ones of the gate's
		{&c.streams, "gate_streams"},             // connections that became raw streams
		{&c.hidden, "gate_hidden"},               // things left out of lists and events
		{&c.elevated, "gate_elevated"},           // calls made under an elevation
		{&c.tokens, "gate_token_calls"},          // calls made with a valid bearer token
		{&c.tokenWrong, "gate_token_refused"},    // refused: the bearer token is not valid
		{&c.tokenLimited, "gate_token_limited"},  // refused unlooked at: too many wrong tokens before
		{&c.noSession, "gate_no_session"},        // a caller's login session is not known: no elevation counts
	} {
		*n.to = r.Counter(n.name)
	}
}
