// Package factor is the second factor of people who call the gate: time-based one-time
// passwords with single-use recovery codes, and the elevations that one gives.
//
// A [Store] owns the enrolments: a folder with one sealed file a user, and what it keeps of
// refused codes. [Elevations] owns the elevations, in memory only: they end with the process.
// The package decides who may do what as little as a lock does: callers know who asks, keep
// the journal and word the answers. Whatever fails refuses.
//
// It imports atomicfile (row: core).
package factor
