package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/control"
)

// fakeFactor serves a second factor on $RUN/elevate.sock until the script ends. The code
// 123456 is right; every request is a line of the file factor.log.
func fakeFactor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: fakefactor")
	}
	log, err := os.Create(ts.MkAbs("factor.log"))
	ts.Check(err)
	s, err := control.ListenFactor(&fakeStore{log: log}, control.FactorOptions{
		Path: filepath.Join(ts.Getenv("RUN"), control.FactorSocketName), Workload: onHost{},
	})
	ts.Check(err)
	ts.Defer(func() { log.Close() }) // after the server: the last is the first
	serve(ts, "fake factor", s.Run)
}

// onHost says that nobody is in a container, wherever the tests run.
type onHost struct{}

func (onHost) ContainerOf(string) (string, bool) { return "", false }
func (onHost) Describe(*apicall.Subject)         {}

type fakeStore struct{ log io.Writer }

func (f *fakeStore) say(words ...string) {
	_, _ = io.WriteString(f.log, strings.Join(words, " ")+"\n")
}

func check(code string) error {
	if code == "123456" || code == "aaaa-bbbb-cccc-dddd" {
		return nil
	}
	return &control.Error{Status: 403, Message: "the code is wrong"}
}

func (f *fakeStore) Enrol(_ context.Context, _ *control.FactorCaller, q *control.EnrolRequest) (*control.Enrolment, error) {
	f.say("enrol", q.User)
	return &control.Enrolment{
		ID: "0123456789abcdef", UID: 1000, User: "alice", Secret: "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
		URI: "otpauth://totp/Belay%20host:alice@host?secret=ABCDEFGHIJKLMNOPQRSTUVWXYZ234567&issuer=Belay%20host",
		Key: "file /var/lib/belay/factor/key", Until: testNow.Add(10 * time.Minute),
	}, nil
}

func (f *fakeStore) Confirm(_ context.Context, _ *control.FactorCaller, q *control.ConfirmRequest) (*control.Enrolled, error) {
	f.say("confirm", q.User, q.ID)
	return &control.Enrolled{UID: 1000, Recovery: []string{"aaaa-bbbb-cccc-dddd", "eeee-ffff-gggg-hhhh"}, Key: "file"}, check(q.Code)
}

func (f *fakeStore) Remove(_ context.Context, _ *control.FactorCaller, q *control.RemoveRequest) (*control.Removed, error) {
	f.say("remove", q.User)
	if q.User == "" {
		if err := check(q.Code); err != nil {
			return nil, err
		}
	}
	return &control.Removed{UID: 1000, Dropped: 1}, nil
}

func (f *fakeStore) Elevate(_ context.Context, _ *control.FactorCaller, q *control.ElevateRequest) (*control.Elevation, error) {
	f.say("elevate", q.For.String(), strings.Join(q.Actions, ","), q.Target)
	e := elevation()
	if q.Code == "aaaa-bbbb-cccc-dddd" {
		e.Recovery, e.RecoveryLeft, e.Refused = true, 9, 3
	}
	return &e, check(q.Code)
}

func (f *fakeStore) Drop(_ context.Context, _ *control.FactorCaller, q *control.DropRequest) (*control.Dropped, error) {
	f.say("drop", q.User, strings.Join(q.IDs, ","))
	return &control.Dropped{Elevations: []control.Elevation{elevation()}}, nil
}

func (f *fakeStore) Factors(context.Context, *control.FactorCaller) (*control.Factors, error) {
	return &control.Factors{
		Session: "audit:3", Key: "file",
		Users: []control.FactorUser{
			{UID: 1000, User: "alice", Enrolled: testNow.Add(-time.Hour), EnrolledBy: 1000, Recovery: 9, Refused: 4, LockedUntil: testNow.Add(time.Minute)},
			{UID: 1001, Enrolled: testNow.Add(-time.Hour), EnrolledBy: 0, Recovery: 10},
			{UID: 1002, User: "carol", Unreadable: "it was sealed with another key"},
		},
		Elevations: []control.Elevation{elevation()},
	}, nil
}

func elevation() control.Elevation {
	return control.Elevation{
		ID: "0badcafe", UID: 1000, User: "alice", Session: "audit:3", Actions: []string{"exec"}, Target: strings.Repeat("1", 64), Name: "web-1",
		Granted: testNow, Expires: testNow.Add(15 * time.Minute), Uses: 2, Here: true,
	}
}

// A QR code has its margin, finder patterns at three corners, and one line for two modules.
func TestQRCode(t *testing.T) {
	got, err := qrCode("otpauth://totp/Belay:alice?secret=ABCDEFGHIJKLMNOPQRSTUVWXYZ234567&issuer=Belay")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	width := 0
	for i, l := range lines {
		l = strings.TrimSuffix(strings.TrimPrefix(l, "\x1b[30;107m"), "\x1b[0m")
		if n := len([]rune(l)); width == 0 {
			width = n
		} else if n != width {
			t.Errorf("line %d has %d columns, want %d", i, n, width)
		}
		lines[i] = l
	}
	if len(lines) != (width+1)/2 {
		t.Errorf("%d lines for %d columns", len(lines), width)
	}
	if strings.Trim(lines[0], " ") != "" {
		t.Errorf("no margin: %q", lines[0])
	}
	if want := "  █▀▀▀▀▀█"; !strings.HasPrefix(lines[1], want) || !strings.HasSuffix(lines[1], "█▀▀▀▀▀█  ") {
		t.Errorf("no finder patterns: %q", lines[1])
	}
	if _, err := qrCode(strings.Repeat("x", 5000)); err == nil {
		t.Error("a text that is too long is drawn")
	}
}
