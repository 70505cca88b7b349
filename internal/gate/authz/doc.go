// Package authz is the gate's second front end: an authorisation plugin that the Docker
// daemon asks about every request, on whatever socket it came. It lets pass what the proxy
// has put a ticket on, so that the daemon's own sockets are no way around the gate. Who
// comes with a client certificate that a CA of ours signed may be let pass by an
// AccessPolicy; nobody else is.
//
// It speaks the daemon's plugin protocol with a server of its own, which bounds what it
// reads and how long it takes, and answers every doubt with a denial. It owns the plugin's
// socket and looks at the break-glass file. It changes no request (the protocol has no way
// to): what a policy wants changed or filtered it denies. It never starts a program. Row:
// feature; it imports gate/ticket, dockerapi, policy, apicall, health and attr.
//
// Source of the protocol: docs.docker.com/engine/extend/plugins_authorization, and moby's
// pkg/authorization for what daemons really send.
package authz
