// Package proxy is the gate: it stands in front of the Docker daemon's socket, knows
// who calls, lets policies decide about each call, and forwards what they allow in its
// own words.
//
// A request is read strictly (gate/wire), matched and parsed (dockerapi), its names are
// resolved to ids by asking the daemon, its caller is found (gate/peer), and the policy
// decides. What is denied never reaches the daemon. What is allowed is encoded anew and
// sent on a connection of the gate's own; the answer is passed on as it comes, or
// filtered down to what the caller may see. Where something cannot be told, be it the
// caller, a name or an answer that should have been filtered, the call is denied and
// counted.
//
// It owns the listening sockets, the clients' connections, the pool of connections to the
// daemon, and the counts per caller. It never caches a decision, never starts a program,
// and does not know the kernel half. Row: feature; it imports gate/wire, gate/peer,
// gate/ticket, dockerapi, policy, health, apicall, attr.
package proxy
