package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// result is what a scene came to; the JSON of --json.
type result struct {
	Phase    string  `json:"phase"`
	Scene    string  `json:"scene"`
	Tried    string  `json:"tried"`
	Mode     string  `json:"mode"`
	Expected string  `json:"expected"`
	Happened string  `json:"happened"`
	Kept     bool    `json:"kept"`
	Promised bool    `json:"promised"` // false: this host does not give the rule, and says so
	Policy   string  `json:"policy,omitempty"`
	Rule     string  `json:"rule,omitempty"`
	Hook     string  `json:"hook,omitempty"`
	Layer    string  `json:"layer,omitempty"` // of the program: image, upper, memfd
	Decision string  `json:"decision,omitempty"`
	Level    string  `json:"level,omitempty"`
	Seconds  float64 `json:"seconds"`
	Output   string  `json:"output,omitempty"`
}

func (s *stage) play(ctx context.Context, p phase, t *table) error {
	if s.short && !p.short {
		return nil
	}
	if p.only != nil {
		if why := p.only(s); why != "" {
			fmt.Fprintf(t.out, "\n%s: not played: %s\n", p.title, why)
			return nil
		}
	}
	if p.prepare != nil {
		if err := p.prepare(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", p.title, err)
		}
	}
	t.phase(p)
	for _, sc := range p.scenes {
		if s.short && !sc.short {
			continue
		}
		start := time.Now()
		r := sc.act(ctx, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := errors.Join(s.engine.Alive(), s.other.Alive()); err != nil {
			return err
		}
		res := s.judge(ctx, sc, r, start)
		res.Phase, res.Mode, res.Seconds = p.title, p.mode, time.Since(start).Seconds()
		t.row(res)
	}
	if p.finish != nil {
		if err := p.finish(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", p.title, err)
		}
	}
	return nil
}

// judge compares what happened with what was promised at the level of this host.
func (s *stage) judge(ctx context.Context, sc scene, r lab.Result, start time.Time) result {
	took := strings.Contains(r.Text(), sc.ran)
	res := result{Scene: sc.name, Tried: sc.tried, Expected: sc.want.String(), Rule: sc.rule, Promised: true, Happened: manner(r, took, sc.ran), Output: r.Text()}
	if sc.gate {
		res.Level = "prevent"
	} else if sc.rule != "" {
		res.Level = s.status.Level(sc.rule)
	}
	if res.Happened == killedFirst && !strings.HasPrefix(sc.rule, "exec.") {
		res.Happened = "killed"
	}
	switch {
	case sc.want == runs:
		res.Kept = took
		return res
	case !took && sc.want == denied && sc.blind:
		res.Kept = true
		return res
	case sc.want == denied && res.Level != "prevent" && res.Level != "kill", res.Level == "unsupported":
		res.Promised = false
		return res
	case sc.want == denied && took, sc.want == reported && !took:
		return res
	}
	e := s.record(ctx, sc, start)
	if e == nil {
		res.Happened += ", but not recorded"
		return res
	}
	res.Kept, res.Policy, res.Hook, res.Decision, res.Layer = true, e.Policy.Name, e.Hook, e.Decision, e.Process.Executable.Layer
	if sc.gate {
		res.Rule, res.Hook = e.API.Action, "gate"
		res.Happened = "refused: " + strings.TrimPrefix(e.Message, "belay: ")
		if len(e.API.Checks) > 0 {
			res.Happened = "refused by " + strings.Join(e.API.Checks, ", ")
		}
	}
	return res
}

// record waits for the journal to tell of the scene.
func (s *stage) record(ctx context.Context, sc scene, start time.Time) *lab.Event {
	where := sc.where
	if where == "" {
		where = s.last()
	}
	var found *lab.Event
	lab.Await(ctx, 5*time.Second, func() bool {
		all, err := s.agent.Denials(ctx, start)
		if err != nil {
			return false
		}
		for _, e := range all {
			if sc.gate && e.Kind == "api" && e.Decision == "denied" && strings.HasPrefix(e.API.Action, sc.rule) {
				found = &e
				return true
			}
			wouldDeny := e.Decision == "would_deny"
			if !sc.gate && e.Policy.Rule == sc.rule && e.Container.Name == where && wouldDeny == (sc.want == reported) {
				found = &e
				return true
			}
		}
		return false
	})
	return found
}

// killedFirst is the end of a program that must not be executed.
const killedFirst = "killed before its first instruction"

// manner says in a few words how an act ended.
func manner(r lab.Result, took bool, ran string) string {
	text := r.Text()
	switch {
	case took && strings.HasPrefix(ran, "got SSH-"):
		return "the server answered"
	case took && ran == "welcome":
		return "logged in"
	case took && strings.HasPrefix(ran, "ran "):
		return "it ran"
	case took && ran == "euid=0":
		return "it ran with euid 0"
	case took:
		return text
	case strings.Contains(text, "peration not permitted"):
		return "refused: operation not permitted"
	case r.Code == 137:
		return killedFirst
	case strings.Contains(text, "no line came"):
		return "silenced: no SSH banner came out"
	case r.Code == 143, strings.Contains(text, "not heard"), strings.Contains(text, "imed out"), strings.Contains(text, "imeout"):
		return "silenced: the server never heard it"
	}
	return fmt.Sprintf("exit status %d: %.60s", r.Code, strings.ReplaceAll(text, "\n", " "))
}
