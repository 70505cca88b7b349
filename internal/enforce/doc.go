// Package enforce puts policies into the kernel and reads what they did.
//
// It owns the BPF objects: programs, maps, links and their pins below one private
// bpffs directory. Pins outlive the process, and so does enforcement; a new agent
// adopts the maps and replaces the programs. The package decides nothing by itself:
// decisions are made by bpf/pure, in the kernel, from what [Enforcer.SetFloor] and
// [Enforcer.Bind] put into maps.
//
// It never runs other programs, never talks to a runtime and never parses policy
// documents. Row: adapters.
package enforce
