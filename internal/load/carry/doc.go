// Package carry has plans carried out: when a node is over a cap it has one made, asks for approval
// or goes ahead as the LoadPolicy says, starts movers within the limits, and watches them.
//
// It owns a ledger, one file that is replaced whole before anything is started: plans, who
// approved them, and moves. A mover is a process of its own with a journal of its own
// (internal/load/move); whatever ends, this process, the mover or both, the next [Carrier.Run] goes
// on from the two: a move that never began has failed, one that stopped halfway is carried on or
// taken back until it has ended. Meanwhile it counts as under way, and limits hold others back. A
// ledger that cannot be written starts nothing.
//
// It decides nothing about which container goes where: that is internal/load/plan's. Row: feature.
package carry
