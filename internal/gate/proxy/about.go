package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/dockerapi"
)

// aboutDaemon is what the reading of a request depends on of the daemon that will read it.
type aboutDaemon struct {
	minor   int  // of the API version that it uses for a request that names none
	unified bool // its host has cgroup v2 only
}

// withDefaults is the first API version whose defaults do not depend on the daemon's host.
const withDefaults = 41

// aboutBytes bounds the daemon's answers about itself.
const aboutBytes = 4 << 20

// readAs completes the options by which a request is parsed. What the daemon is has been
// asked when the gate connected to it, or is asked now; if it does not say, the oldest API
// on a host of cgroup v1 is assumed, whose defaults give a container the most.
func (x *exchange) readAs(o *dockerapi.Options) {
	if !x.match.Route.HasJSON() && x.match.Route.Stream != dockerapi.WebSocket || x.match.Minor() >= withDefaults {
		return
	}
	s := x.c.s
	a := s.about.Load()
	if a == nil {
		ctx, cancel := x.lookup()
		defer cancel()
		a = s.learn(ctx)
	}
	o.DaemonMinor, o.CgroupUnified = dockerapi.MinMinor, false
	if a != nil {
		o.DaemonMinor, o.CgroupUnified = a.minor, a.unified
	}
}

// learn asks the daemon what it is, and returns nil if it does not say.
func (s *Server) learn(ctx context.Context) *aboutDaemon {
	a, err := s.askAbout(ctx)
	if err != nil {
		s.o.Log.Warn("the daemon does not say what it is; requests are read as by the oldest", attr.Error, err.Error())
		return nil
	}
	s.about.Store(a)
	return a
}

func (s *Server) askAbout(ctx context.Context) (*aboutDaemon, error) {
	var version struct {
		APIVersion string `json:"ApiVersion"`
	}
	var info struct{ CgroupVersion string }
	for _, q := range []struct {
		path string
		into any
	}{{"/version", &version}, {"/info", &info}} {
		status, body, err := s.up.ask(ctx, q.path, aboutBytes)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		if err == nil {
			err = json.Unmarshal(body, q.into)
		}
		if err != nil {
			return nil, fmt.Errorf("ask for %s: %w", q.path, err)
		}
	}
	minor, ok := strings.CutPrefix(version.APIVersion, "1.")
	n, err := strconv.Atoi(minor)
	if !ok || err != nil || n < dockerapi.MinMinor {
		return nil, fmt.Errorf("its API version is %q", version.APIVersion)
	}
	return &aboutDaemon{minor: min(n, dockerapi.MaxMinor), unified: info.CgroupVersion == "2"}, nil
}
