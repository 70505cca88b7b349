// Package buildkit mediates between a client and the daemon's BuildKit, message by message.
//
// It stands in a connection that was upgraded to gRPC: [ServeControl] where the client calls
// the daemon (/grpc, or HTTP/2 from the first byte), [ServeSession] where the daemon calls the
// client (/session). Methods are one table; what is not in it is denied. A message that
// decides something is read strictly, judged, and sent on in the encoding of this package.
//
// Who calls and what policies say is the matter of the [Judge] that the owner of the
// connection gives. The package owns no state beyond a connection, opens no connection of its
// own, and never sends on what it could not read.
//
// Dependency row: core.
package buildkit
