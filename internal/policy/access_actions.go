package policy

import (
	"slices"
	"strings"
)

// actions is every action that a rule can name, sorted: those of the daemon's API, and
// what concerns the policies themselves, the agent's scans and its description of the node. The request parser has the
// same list in its table of routes, and a test of its own compares the two.
var actions = []string{
	"build.cancel",
	"build.grpc",
	"build.grpc.diskUsage",
	"build.grpc.info",
	"build.grpc.listWorkers",
	"build.grpc.listenBuildHistory",
	"build.grpc.prune",
	"build.grpc.resolve",
	"build.grpc.session",
	"build.grpc.solve",
	"build.grpc.status",
	"build.grpc.updateBuildHistory",
	"build.prune",
	"build.session",
	"build.tunnel",
	"config.create",
	"config.delete",
	"config.inspect",
	"config.list",
	"config.update",
	"container.attach",
	"container.checkpoint.create",
	"container.checkpoint.delete",
	"container.checkpoint.list",
	"container.copy.in",
	"container.copy.out",
	"container.copy.stat",
	"container.create",
	"container.delete",
	"container.diff",
	"container.exec",
	"container.exec.inspect",
	"container.exec.resize",
	"container.exec.start",
	"container.export",
	"container.inspect",
	"container.kill",
	"container.list",
	"container.logs",
	"container.pause",
	"container.prune",
	"container.rename",
	"container.resize",
	"container.restart",
	"container.start",
	"container.stats",
	"container.stop",
	"container.top",
	"container.unpause",
	"container.update",
	"container.wait",
	"image.attestations",
	"image.build",
	"image.commit",
	"image.delete",
	"image.distribution",
	"image.history",
	"image.import",
	"image.inspect",
	"image.list",
	"image.load",
	"image.prune",
	"image.pull",
	"image.push",
	"image.save",
	"image.search",
	"image.tag",
	"network.connect",
	"network.create",
	"network.delete",
	"network.disconnect",
	"network.inspect",
	"network.list",
	"network.prune",
	"node.delete",
	"node.inspect",
	"node.list",
	"node.read",
	"node.update",
	"plugin.create",
	"plugin.delete",
	"plugin.disable",
	"plugin.enable",
	"plugin.inspect",
	"plugin.install",
	"plugin.list",
	"plugin.privileges",
	"plugin.push",
	"plugin.set",
	"plugin.upgrade",
	"policy.create",
	"policy.delete",
	"policy.history",
	"policy.list",
	"policy.read",
	"policy.rollback",
	"policy.update",
	"registry.login",
	"scan.accept",
	"scan.create",
	"scan.list",
	"scan.notify",
	"scan.read",
	"secret.create",
	"secret.delete",
	"secret.inspect",
	"secret.list",
	"secret.update",
	"service.create",
	"service.delete",
	"service.inspect",
	"service.list",
	"service.logs",
	"service.update",
	"swarm.init",
	"swarm.inspect",
	"swarm.join",
	"swarm.leave",
	"swarm.unlock",
	"swarm.unlockkey.read",
	"swarm.update",
	"system.debug",
	"system.df",
	"system.events",
	"system.info",
	"system.options",
	"system.ping",
	"system.version",
	"task.inspect",
	"task.list",
	"task.logs",
	"volume.create",
	"volume.delete",
	"volume.inspect",
	"volume.list",
	"volume.prune",
	"volume.update",
}

// Actions returns every action that a rule can name, sorted.
func Actions() []string { return slices.Clone(actions) }

// actionID numbers the actions; anyAction stands for "**" and for what is not listed.
type actionID uint16

const anyAction actionID = 0

var actionIDs = func() map[string]actionID {
	m := make(map[string]actionID, len(actions))
	for i, a := range actions {
		m[a] = actionID(i + 1)
	}
	return m
}()

// traits is what the engine must know of an action.
type traits uint8

const (
	traitList    traits = 1 << iota // its answer names many things: it can be filtered
	traitBulk                       // it changes things that it does not name
	traitCreates                    // it makes a container, directly or as a service's task
	traitMakes                      // it makes a thing that can carry labels, or gives it new ones
	traitNew                        // what it makes does not exist yet
)

// actionTraits is by actionID.
var actionTraits = func() []traits {
	ts := make([]traits, len(actions)+1)
	for i, a := range actions {
		group, verb, _ := strings.Cut(a, ".")
		var t traits
		switch {
		case a == "system.events" || a == "system.df" || verb == "list":
			t |= traitList
		case verb == "prune" || a == "build.grpc.prune":
			t |= traitBulk
		case a == "container.create" || a == "service.create":
			t |= traitCreates | traitMakes | traitNew
		case a == "service.update":
			t |= traitCreates | traitMakes
		case group == "scan" && (verb == "create" || verb == "notify"):
			t |= traitNew
		case verb == "create" && group != "plugin" && group != "policy" || a == "image.build" || a == "build.grpc.solve":
			t |= traitMakes | traitNew
		}
		ts[i+1] = t
	}
	return ts
}()

func traitsOf(id actionID) traits { return actionTraits[id] }

// expandAction returns the actions that a name or glob of a policy stands for; * is
// any text, dots included.
func expandAction(pattern string) []actionID {
	if id, ok := actionIDs[pattern]; ok {
		return []actionID{id}
	}
	var out []actionID
	if strings.Contains(pattern, "*") {
		for i, a := range actions {
			if matchText(pattern, a) {
				out = append(out, actionID(i+1))
			}
		}
	}
	return out
}

// checkAction says what keeps a pattern from naming an action.
func checkAction(pattern string) (msg, fix string) {
	if len(pattern) <= maxGlob && len(expandAction(pattern)) > 0 {
		return "", ""
	}
	fix = "docs/access-policy.md lists all actions"
	if near, ok := closest(pattern, actions); ok {
		fix = "did you mean " + near + "?"
	}
	if strings.Contains(pattern, "*") {
		return quote(pattern) + " matches no action", fix
	}
	return quote(pattern) + " is not an action", fix
}
