package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	// askTime bounds one question: a daemon whose plugin is down takes 30 s to say so.
	askTime   = 10 * time.Second
	maxAnswer = 32 << 20
)

// get asks a socket for one thing.
func get(ctx context.Context, socket, target string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+target, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = errors.New("the answer is too long")
	}
	return resp.StatusCode, b, err
}

// info is what of GET /info is read.
type info struct {
	Plugins         struct{ Authorization []string }
	SecurityOptions []string

	ContainersRunning int
}

// query asks the daemon itself, and where it refuses, through the gate.
func (l *look) query(ctx context.Context, target string, into any) error {
	var errs []error
	for _, socket := range []string{l.Socket, l.Gate} {
		if socket == "none" {
			continue
		}
		status, body, err := l.api(ctx, l.path(socket), target)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", socket, err))
		case status != http.StatusOK:
			if socket == l.Socket && status == http.StatusForbidden && strings.Contains(string(body), "denied by plugin "+l.Name+":") {
				l.pluginAnswers = true
			}
			errs = append(errs, fmt.Errorf("%s: status %d: %.200s", socket, status, strings.TrimSpace(string(body))))
		default:
			if err := json.Unmarshal(body, into); err != nil {
				return fmt.Errorf("%s: %w", socket, err)
			}
			return nil
		}
	}
	return errors.Join(errs...)
}

// ask reads /info, which names the plugins in force.
func (l *look) ask(ctx context.Context) {
	const id, why = "daemon.security", "without seccomp a container reaches parts of the kernel that the policies take for closed"
	var i info
	if err := l.query(ctx, "/info", &i); err != nil {
		l.add(id, Unknown, "the daemon does not say how it is set up: "+oneLine(err), why,
			"run it as a user whom an AccessPolicy allows system.info through the gate")
		return
	}
	l.info = &i
	for _, s := range i.SecurityOptions {
		if strings.HasPrefix(s, "name=seccomp") && !strings.Contains(s, "profile=unconfined") {
			l.add(id, OK, "security options: "+strings.Join(i.SecurityOptions, " "), why, "")
			return
		}
	}
	l.add(id, Warn, "containers have no seccomp profile by default", why, "take seccomp-profile out of "+l.conf.File+", or install a daemon that has seccomp")
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
