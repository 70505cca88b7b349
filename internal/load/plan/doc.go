// Package plan says which containers should leave a full node, and where they should go:
// the smallest set of movable containers that brings the node below its caps, each with a
// target that has room for it and everything that it needs.
//
// It is a pure function of its input: it reads no clock, no file and no network, keeps no
// state, and gives the same plan for the same input. Its work is bounded (see [Make]). It
// moves nothing; whoever carries a plan out asks again after each step, with new readings.
// The zero value of every decision is that a container stays where it is, and whatever is not
// known of a container or a target counts against the move.
//
// Row: core. It imports the standard library only.
package plan
