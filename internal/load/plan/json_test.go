package plan

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestReadState(t *testing.T) {
	s, err := ReadState([]byte(`{"caps": {"memory": 85}, "limits": {"perHour": 2, "noReturn": "90m"},
		"windows": [{"from": "22:00", "to": "05:30"}, {"days": ["sun"], "from": "00:00", "to": "23:59"}], "nodes": [{"name": "a"}]}`), testNow)
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultLimits()
	want.PerHour, want.NoReturn = 2, 90*time.Minute
	if s.Limits != want || s.Hysteresis != 5 || !s.Now.Equal(testNow) || !s.Nodes[0].Seen.Equal(testNow) {
		t.Errorf("got %+v", s)
	}
	windows := []Window{{Days: [7]bool{true, true, true, true, true, true, true}, From: 1320, To: 330}, {Days: [7]bool{true}, To: 1439}}
	if !reflect.DeepEqual(s.Windows, windows) {
		t.Errorf("got windows %+v, want %+v", s.Windows, windows)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ReadState(b, time.Time{}); err != nil || !reflect.DeepEqual(again, s) {
		t.Errorf("written and read again: %+v, %v", again, err)
	}
	if s, err := ReadState([]byte(`{"caps": {"cpu": 80}}`), testNow); err != nil || s.Limits != DefaultLimits() {
		t.Errorf("without limits: got %+v, %v", s, err)
	}
}

func TestReadStateErrors(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "", "the state is empty; fix: write one whole state"},
		{"cut off", "{\n\"nodes\": [", "line 2: the state ends too early; fix: "},
		{"syntax", "{\n\"nodes\": [}", "line 2: "},
		{"type", "{\n\n\"hysteresis\": \"five\"}", `line 3: "hysteresis" is string; fix: write a whole number`},
		{"type inside", "{\"nodes\": [\n{\"containers\": 7}]}", `line 2: "nodes.containers" is number; fix: write a list`},
		{"no object", `[]`, "line 1: got array; fix: write an object"},
		{"unknown field", "{\n\"node\": []}", `line 2: json: unknown field "node"; fix: leave it out`},
		{"unknown limit", "{\"limits\":\n{\"perDay\": 1}}", `line 2: limits: json: unknown field "perDay"; fix: leave it out`},
		{"type of a limit", "{\"limits\":\n\n{\"perHour\": \"x\"}}", `line 3: limits: "perHour" is string; fix: write a whole number`},
		{"unknown in a window", `{"windows": [{"day": 1}]}`, `unknown field "day"`},
		{"no duration", `{"limits": {"coolDown": "15"}}`, "limits.coolDown"},
		{"no day", `{"windows": [{"days": ["monday"], "from": "01:00", "to": "02:00"}]}`, `"monday" is no day`},
		{"no time", `{"windows": [{"from": "1:00", "to": "02:00"}]}`, `"1:00" is no time of day`},
		{"two", `{"caps": {"cpu": 80}} {}`, "a file has one"},
		{"no caps", `{"nodes": []}`, "no cap is set"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ReadState([]byte(tt.in), testNow); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
