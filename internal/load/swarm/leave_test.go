package swarm

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	api "github.com/moby/moby/api/types/swarm"

	"github.com/belay-project/belay/internal/load/place"
)

// web has a field that no version of the types knows, and a number that a float would not hold.
const web = `{"Name": "web", "Labels": {"a": "b"}, "Later": {"Big": 9007199254740993}, "Mode": {"Replicated": {"Replicas": 2}},
	"TaskTemplate": {"ContainerSpec": {"Image": "web:1"}, "Placement": {"Constraints": ["node.role==worker"], "Newer": 1}, "ForceUpdate": 3}}`

var webUnit = place.Unit{ID: "web", Name: "web"}

// aSwarm is one of two nodes, with a service that has one task on each.
func aSwarm(t *testing.T) (*manager, map[string]any) {
	m := newManager(t)
	m.node("here", worker, machine)
	m.node("there", worker, machine)
	m.service("web", web)
	first := m.task("t1", "web", "here", "running", "running", 1)
	m.task("t2", "web", "there", "running", "running", 2)
	return m, first
}

// same compares what was written as JSON, with numbers as they were.
func same(t *testing.T, what, want, got string) {
	t.Helper()
	read := func(s string) (v any) {
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	if diff := cmp.Diff(read(want), read(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// asItWas checks that nothing of a request is left, in what a rollback goes back to either.
func asItWas(t *testing.T, m *manager) {
	t.Helper()
	same(t, "the service", web, string(m.services["web"].spec))
	if prev := m.services["web"].prev; prev != nil {
		same(t, "what a rollback goes back to", web, string(prev))
	}
}

func TestLeave(t *testing.T) {
	m, first := aSwarm(t)
	looks := 0
	m.look = func(m *manager) {
		if !m.leaving("web") {
			return
		}
		switch looks++; looks {
		case 1:
			m.services["web"].status = map[string]any{"State": "updating"}
		case 2: // ready elsewhere, and not gone here
			m.task("t3", "web", "there", "running", "running", 1)
		case 3:
			first["DesiredState"], first["Status"] = "shutdown", map[string]any{"State": "shutdown"}
		case 4:
			m.services["web"].status = map[string]any{"State": "completed"}
		}
	}
	m.late = 1 // somebody else is first
	if err := m.open(t).Leave(t.Context(), webUnit, true); err != nil {
		t.Fatal(err)
	}
	if looks < 4 {
		t.Errorf("it was done after %d looks", looks)
	}
	if len(m.updates) != 3 {
		t.Fatalf("got %d updates, want one that asks, one that takes it out, and one for what a rollback goes back to:\n%s", len(m.updates), strings.Join(m.updates, "\n"))
	}
	same(t, "what asks", `{"Name": "web", "Labels": {"a": "b", "dev.belay.load.leave": "here"}, "Later": {"Big": 9007199254740993}, "Mode": {"Replicated": {"Replicas": 2}},
		"TaskTemplate": {"ContainerSpec": {"Image": "web:1"}, "Placement": {"Constraints": ["node.role==worker", "node.id!=here"], "Newer": 1}, "ForceUpdate": 3}}`, m.updates[0])
	asItWas(t, m)
	if err := m.open(t).Leave(t.Context(), webUnit, true); err != nil || len(m.updates) != 3 {
		t.Errorf("asked again: %v, %d updates", err, len(m.updates))
	}
}

// TestLeaveGoesOn: whoever comes after an end halfway sees it through, wherever that was.
func TestLeaveGoesOn(t *testing.T) {
	leaving, err := edit(json.RawMessage(web), "here", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		left    bool
		at      func(s *service)
		updates int
	}{
		{"after it was asked", false, func(s *service) { s.spec, s.prev = leaving, s.spec }, 2},
		{"after the tasks have left", true, func(s *service) { s.spec, s.prev = leaving, s.spec }, 2},
		{"after it was taken out", true, func(s *service) { s.prev = leaving }, 1},
		{"after all", true, func(*service) {}, 1}, // that no request of before comes to anything
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, first := aSwarm(t)
			tt.at(m.services["web"])
			if tt.left {
				m.moved(first, "there")
			}
			m.look = func(m *manager) {
				if m.leaving("web") && !tt.left {
					m.moved(first, "there")
					tt.left = true
				}
			}
			if err := m.open(t).Leave(t.Context(), webUnit, false); err != nil {
				t.Fatal(err)
			}
			asItWas(t, m)
			if len(m.updates) != tt.updates {
				t.Errorf("got %d updates, want %d", len(m.updates), tt.updates)
			}
		})
	}
}

func TestLeaveFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		look func(m *manager, first map[string]any)
		want string
	}{
		{"paused", func(m *manager, _ map[string]any) {
			m.services["web"].status = map[string]any{"State": "paused", "Message": "task x failed"}
		}, "an update of it is paused: task x failed"},
		{"rolled back", func(m *manager, _ map[string]any) { // by Swarm itself
			s := m.services["web"]
			s.spec, s.prev, s.status = s.prev, s.spec, map[string]any{"State": "rollback_completed", "Message": "rollback completed"}
		}, "Swarm has rolled the service back: rollback completed"},
		{"changed", func(m *manager, _ map[string]any) {
			s := m.services["web"]
			s.spec, s.prev = json.RawMessage(web), s.spec
		}, "somebody has changed the service meanwhile"},
		{"too late", func(*manager, map[string]any) {}, "not ready on other nodes yet: context deadline exceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, first := aSwarm(t)
			seen := false
			m.look = func(m *manager) {
				if m.leaving("web") && !seen {
					seen = true
					tt.look(m, first)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			err := m.open(t).Leave(ctx, webUnit, true)
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, place.ErrHalfway) {
				t.Fatalf("got %v, want %s", err, tt.want)
			}
			if !seen {
				t.Error("it was not asked")
			}
			asItWas(t, m)
		})
	}
}

func TestLeaveLater(t *testing.T) {
	for _, tt := range []struct {
		name  string
		at    func(m *manager)
		later bool
		want  string
	}{
		{"a rollout", func(m *manager) { m.services["web"].status = map[string]any{"State": "updating"} }, true, "an update of it is in progress"},
		{"a rollback", func(m *manager) { m.services["web"].status = map[string]any{"State": "rollback_started"} }, true, "it is being rolled back"},
		{"another node's", func(m *manager) {
			m.services["web"].spec = json.RawMessage(strings.Replace(web, `"a": "b"`, `"`+LabelLeave+`": "there"`, 1))
		}, true, "asked to leave another node"},
		{"paused", func(m *manager) { m.services["web"].status = map[string]any{"State": "paused"} }, false, "an update of it is paused"},
		{"nowhere", func(m *manager) {
			m.nodes["there"].spec = json.RawMessage(`{"Role": "worker", "Availability": "pause"}`)
		}, false, "no other node takes 1 of its tasks: 1 is not available"},
		{"gone", func(m *manager) { delete(m.services, "web") }, false, "service web is gone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := aSwarm(t)
			tt.at(m)
			err := m.open(t).Leave(t.Context(), webUnit, true)
			if _, later := errors.AsType[*place.Later](err); err == nil || later != tt.later || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if len(m.updates) > 0 {
				t.Errorf("it was asked: %s", m.updates)
			}
		})
	}
}

// TestLeaveHalfway: what can be neither seen through nor taken back says so, and is taken back by the next.
func TestLeaveHalfway(t *testing.T) {
	m, _ := aSwarm(t)
	m.look = func(m *manager) {
		if m.leaving("web") {
			m.fail = 503
		}
	}
	s := m.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := s.Leave(ctx, webUnit, true)
	if !errors.Is(err, place.ErrHalfway) || !strings.Contains(err.Error(), "web still has the constraint node.id!=here") {
		t.Fatalf("got %v", err)
	}
	m.mu.Lock()
	m.fail, m.look = 0, nil
	m.mu.Unlock()
	if err := s.Leave(ctx, webUnit, false); err == nil || errors.Is(err, place.ErrHalfway) { // its time is over
		t.Errorf("got %v", err)
	}
	asItWas(t, m)
}

// TestLeaveUnanswered: a manager that loses its office may have done what it was asked, or do it later. What it
// refuses it has not done.
func TestLeaveUnanswered(t *testing.T) {
	for _, lose := range []string{"done", "late"} {
		m, _ := aSwarm(t)
		m.lose = lose
		if err := m.open(t).Leave(t.Context(), webUnit, true); err == nil || !strings.Contains(err.Error(), "lost leader status") || errors.Is(err, place.ErrHalfway) {
			t.Errorf("%s: got %v", lose, err)
		}
		if lose == "late" && (m.lost == nil || m.lost()) {
			t.Error("it was done in the end, with nobody to take it back")
		}
		asItWas(t, m)
	}
	m, _ := aSwarm(t)
	m.updateFails = 403
	if err := m.open(t).Leave(t.Context(), webUnit, true); err == nil || errors.Is(err, place.ErrHalfway) || m.services["web"].version != 7 {
		t.Errorf("refused: %v, version %d", err, m.services["web"].version)
	}
}

// TestLeaveReplaced: while a rollout of somebody else is not over, a rollback would bring the constraint back.
func TestLeaveReplaced(t *testing.T) {
	for _, state := range []string{"updating", "paused"} {
		t.Run(state, func(t *testing.T) {
			m, _ := aSwarm(t)
			replaced := false
			m.look = func(m *manager) {
				if !m.leaving("web") || replaced {
					return
				}
				replaced = true
				s := m.services["web"]
				s.prev, s.spec, s.status = s.spec, json.RawMessage(web), map[string]any{"State": state}
				s.version++
			}
			s := m.open(t)
			err := s.Leave(t.Context(), webUnit, true)
			if !errors.Is(err, place.ErrHalfway) || !strings.Contains(err.Error(), "docker service update --constraint-rm node.id!=here --label-rm dev.belay.load.leave web") {
				t.Fatalf("got %v", err)
			}
			if len(m.updates) != 1 {
				t.Errorf("somebody's rollout was written over: %q", m.updates)
			}
			m.services["web"].status = map[string]any{"State": "completed"}
			if err := s.Leave(t.Context(), webUnit, false); err == nil || errors.Is(err, place.ErrHalfway) {
				t.Errorf("got %v", err)
			}
			asItWas(t, m)
		})
	}
}

// TestLeaveGone: what a node asked for can be taken back when it has left its swarm, or is another node of it.
func TestLeaveGone(t *testing.T) {
	leaving, err := edit(json.RawMessage(web), "old", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range []string{
		`{"Swarm": {"NodeID": "", "LocalNodeState": "inactive"}}`,
		`{"Swarm": {"NodeID": "here", "LocalNodeState": "active"}}`,
	} {
		m, _ := aSwarm(t)
		m.services["web"].spec = leaving
		machine := newManager(t)
		machine.info = info
		s, err := Open(t.Context(), machine.serve(t), m.serve(t))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.poll = time.Millisecond
		if _, err := s.Units(t.Context()); (err == nil) != strings.Contains(info, "here") {
			t.Errorf("units: %v", err)
		}
		u := webUnit
		u.Node = "old"
		if err := s.Leave(t.Context(), u, false); err == nil || errors.Is(err, place.ErrHalfway) || !strings.Contains(err.Error(), "not the node old any more") {
			t.Errorf("got %v", err)
		}
		asItWas(t, m)
	}
}

// TestLeaveNotAsked: nothing is asked afresh, and nothing goes straight back.
func TestLeaveNotAsked(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	m, _ := aSwarm(t)
	if err := m.open(t).Leave(ctx, webUnit, false); err == nil || !strings.Contains(err.Error(), "not asked again") {
		t.Errorf("gone on with: %v", err)
	}
	asItWas(t, m)

	m, first := aSwarm(t)
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	first["CreatedAt"], first["Spec"] = at, json.RawMessage(`{"Placement": {"Constraints": ["node.id!=there"]}}`)
	if err := m.open(t).Leave(ctx, webUnit, true); !errors.Is(err, place.ErrNotAsked) || len(m.updates) > 0 {
		t.Errorf("its tasks have come meanwhile: %v, %d updates", err, len(m.updates))
	}
	u := webUnit
	u.Arrived = at // as it was known when it was decided on
	m.look = func(m *manager) {
		if m.leaving("web") {
			m.moved(first, "there")
			m.look = nil
		}
	}
	if err := m.open(t).Leave(ctx, u, true); err != nil {
		t.Errorf("its tasks have come before: %v", err)
	}
}

func TestJudge(t *testing.T) {
	svc := &api.Service{Spec: api.ServiceSpec{Mode: api.ServiceMode{Replicated: &api.ReplicatedService{Replicas: new(uint64(2))}}}}
	task := func(node string, slot int, state, want api.TaskState, err string) api.Task {
		return api.Task{NodeID: node, Slot: slot, DesiredState: want, Status: api.TaskStatus{State: state, Err: err}}
	}
	const run, off = api.TaskStateRunning, api.TaskStateShutdown
	now := time.Now()
	for _, tt := range []struct {
		name  string
		tasks []api.Task
		since time.Duration // that a task finds no node
		done  bool
		why   string
	}{
		{"here", []api.Task{task("here", 1, run, run, ""), task("x", 2, run, run, "")}, 0, false, ""},
		{"here, and replaced", []api.Task{task("here", 1, run, off, ""), task("x", 1, run, run, ""), task("x", 2, run, run, "")}, 0, false, ""},
		{"not ready", []api.Task{task("here", 1, off, off, ""), task("x", 1, api.TaskStateStarting, run, "")}, 0, false, ""},
		{"ready", []api.Task{task("here", 1, off, off, ""), task("x", 1, run, run, "")}, 0, true, ""},
		{"another fails", []api.Task{task("here", 1, off, off, ""), task("x", 1, run, run, ""), task("x", 2, api.TaskStateFailed, run, "")}, 0, true, ""},
		{"scaled down", []api.Task{task("here", 3, off, off, ""), task("x", 1, run, run, ""), task("x", 2, run, run, "")}, 0, true, ""},
		{"no node", []api.Task{task("here", 1, off, off, ""), task("", 1, api.TaskStatePending, run, "no suitable node")}, 0, false, ""},
		{"no node for long", []api.Task{task("here", 1, off, off, ""), task("", 1, api.TaskStatePending, run, "no suitable node")}, placeFor, false, "no node takes it: no suitable node"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stuck := now.Add(-tt.since)
			done, why := judge(svc, tt.tasks, "here", &stuck, now)
			if done != tt.done || why != tt.why {
				t.Errorf("got %v %q, want %v %q", done, why, tt.done, tt.why)
			}
		})
	}
}

func TestEdit(t *testing.T) {
	for _, spec := range []string{web, `{}`, `{"Labels": null, "TaskTemplate": {"Placement": null}}`, `{"Labels": {}, "TaskTemplate": {"Placement": {}}}`} {
		on, err := edit(json.RawMessage(spec), "n", true)
		if err != nil {
			t.Fatal(err)
		}
		var s api.ServiceSpec
		if err := json.Unmarshal(on, &s); err != nil {
			t.Fatal(err)
		}
		if cs := constraints(&s.TaskTemplate); len(cs) == 0 || cs[len(cs)-1] != "node.id!=n" || s.Labels[LabelLeave] != "n" {
			t.Errorf("%s became %s", spec, on)
		}
		off, err := edit(on, "n", false)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(off), "belay") || strings.Contains(string(off), "!=") {
			t.Errorf("%s keeps something: %s", spec, off)
		}
	}
	if _, err := edit(json.RawMessage(`{"TaskTemplate": {"Placement": {"Constraints": "x"}}}`), "n", true); err == nil {
		t.Error("what is no list was taken for one")
	}
}
