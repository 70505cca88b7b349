package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/policy"
)

// cordon says whether this node takes new containers. By hand it stays until it is lifted, also
// over restarts; by a policy it lasts as long as a cap is over.
type cordon struct {
	file string
	now  atomic.Pointer[cordonState]

	// mu is held while the state is changed.
	mu sync.Mutex
}

// cordonState is never changed.
type cordonState struct {
	Hand *handCordon
	Caps string // why, of a policy with the action cordon; empty: no such cap is over
}

type handCordon struct {
	By     string    `json:"by"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`
}

// why says in words why no new container starts here, or nothing. It allocates only to say why.
func (c *cordon) why() string {
	s := c.now.Load()
	switch {
	case s == nil:
		return ""
	case s.Hand != nil:
		text := "it was cordoned by " + s.Hand.By + " at " + s.Hand.Since.UTC().Format(time.DateTime)
		if s.Hand.Reason != "" {
			text += ": " + s.Hand.Reason
		}
		return text + "; fix: belay load uncordon"
	case s.Caps != "":
		return s.Caps
	}
	return ""
}

const maxCordonFile = 64 << 10

// open reads what was set by hand. A file that cannot be read cordons: nobody knows.
func (c *cordon) open(stateDir string) error {
	c.file = filepath.Join(stateDir, "cordon.json")
	info, err := os.Stat(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	h := new(handCordon)
	if err == nil && info.Size() > maxCordonFile {
		err = fmt.Errorf("%s: more than %d bytes", c.file, maxCordonFile)
	}
	if err == nil {
		var b []byte
		if b, err = os.ReadFile(c.file); err == nil {
			err = json.Unmarshal(b, h)
		}
	}
	if err != nil {
		h = &handCordon{By: "nobody knows whom", Reason: "the file of the cordon cannot be read: " + err.Error()}
	}
	c.now.Store(&cordonState{Hand: h})
	return err
}

// set cordons by hand, or lifts that.
func (c *cordon) set(h *handCordon) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h == nil {
		if err := os.Remove(c.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("lift the cordon: %w", err)
		}
	} else {
		b, err := json.Marshal(h)
		if err == nil {
			err = atomicfile.WriteFile(c.file, b, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep the cordon: %w", err)
		}
	}
	next := cordonState{}
	if s := c.now.Load(); s != nil {
		next = *s
	}
	next.Hand = h
	c.now.Store(&next)
	return nil
}

// follow takes what the watcher knows, and reports whether a cordon by policies has begun or ended.
func (c *cordon) follow(caps []load.CapStatus, ps []*policy.LoadPolicy) (begun, ended bool) {
	does := map[string]bool{}
	for _, p := range ps {
		does[p.Name] = p.Spec.Does(policy.LoadCordon)
	}
	var over []string
	for i := range caps {
		if cp := &caps[i]; does[cp.Policy] && cp.State == "over" {
			over = append(over, fmt.Sprintf("%s is over the cap of %d%% of policy %s since %s", cp.Cap, cp.Limit, cp.Policy, cp.Since.UTC().Format("15:04:05Z")))
		}
	}
	why := strings.Join(over, "; ")
	c.mu.Lock()
	defer c.mu.Unlock()
	next := cordonState{}
	if was := c.now.Load(); was != nil {
		next = *was
	}
	if next.Caps == why {
		return false, false
	}
	begun, ended = next.Caps == "", why == ""
	next.Caps = why
	c.now.Store(&next)
	return begun, ended
}
