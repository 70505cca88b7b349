package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"
)

// MaxStateBytes bounds a state in JSON.
const MaxStateBytes = 256 << 20

// defaultHysteresis is that of a LoadPolicy.
const defaultHysteresis = 5

// ReadState reads a state in JSON, strictly: an unknown field is an error. What is left out
// gets the defaults of a LoadPolicy (limits, hysteresis); the state is of now, and readings
// are of the state's time. Errors name the line where that is known. The state is checked
// only by [Make].
func ReadState(data []byte, now time.Time) (*State, error) {
	if len(data) > MaxStateBytes {
		return nil, fmt.Errorf("the state is larger than %d MiB", MaxStateBytes>>20)
	}
	s := &State{Limits: DefaultLimits(), Hysteresis: defaultHysteresis}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(s); err != nil {
		return nil, located(data, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("line %d: something follows the state; fix: leave it out, a file has one", lineAt(data, dec.InputOffset()))
	}
	if s.Now.IsZero() {
		s.Now = now
	}
	capped := s.Caps != (Caps{})
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Seen.IsZero() {
			n.Seen = s.Now
		}
		capped = capped || n.Caps != nil && *n.Caps != (Caps{})
	}
	if !capped {
		return nil, errors.New(`no cap is set, and no node would ever be full: add "caps": {"memory": 85}`)
	}
	return s, nil
}

// located adds the line and the fix, as far as the decoder tells.
func located(data []byte, err error) error {
	const whole = "write one whole state, as belay load plan --state does"
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the state is empty; fix: " + whole)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("line %d: the state ends too early; fix: %s", lineAt(data, int64(len(data))), whole)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("line %d: %w; fix: write JSON", lineAt(data, syntax.Offset), err)
	}
	if typ, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("line %d: %w", lineAt(data, typ.Offset), wrongType(typ))
	}
	if strings.Contains(err.Error(), "unknown field") {
		err = fmt.Errorf("%w; fix: leave it out, or see docs/load-planning.md", err)
	}
	if line := lineOfQuoted(data, err.Error()); line > 0 {
		return fmt.Errorf("line %d: %w", line, err)
	}
	return err
}

// lineOfQuoted returns the line of the first thing that a message quotes; 0 where the file does not have it once.
func lineOfQuoted(data []byte, msg string) int {
	_, rest, _ := strings.Cut(msg, `"`)
	text, _, ok := strings.Cut(rest, `"`)
	quoted := []byte(`"` + text + `"`)
	if !ok || bytes.Count(data, quoted) != 1 {
		return 0
	}
	return lineAt(data, int64(bytes.Index(data, quoted)))
}

// wrongType says in the words of JSON what a value must be.
func wrongType(e *json.UnmarshalTypeError) error {
	want := "another kind of value"
	switch e.Type.Kind() {
	case reflect.Slice, reflect.Array:
		want = "a list"
	case reflect.Struct, reflect.Map:
		want = "an object"
	case reflect.String:
		want = "a string"
	case reflect.Bool:
		want = "true or false"
	case reflect.Float32, reflect.Float64:
		want = "a number"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		want = "a whole number"
	}
	if e.Field == "" {
		return fmt.Errorf("got %s; fix: write %s", e.Value, want)
	}
	return fmt.Errorf("%q is %s; fix: write %s", e.Field, e.Value, want)
}

func lineAt(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(max(offset, 0), int64(len(data)))], []byte("\n"))
}

// strictly decodes a part of a state: what makes the decoder strict does not reach into the
// methods below.
func strictly(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if typ, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return wrongType(typ) // its offset is one in the part
	}
	return err
}

// limitsJSON are limits as people write them.
type limitsJSON struct {
	AtOnce       *int   `json:"atOnce,omitempty"`
	PerHour      *int   `json:"perHour,omitempty"`
	PerContainer string `json:"perContainer,omitempty"`
	NoReturn     string `json:"noReturn,omitempty"`
	CoolDown     string `json:"coolDown,omitempty"`
	MaxAge       string `json:"maxAge,omitempty"`
}

// MarshalJSON writes durations as "1h0m0s".
func (l Limits) MarshalJSON() ([]byte, error) {
	return json.Marshal(limitsJSON{&l.AtOnce, &l.PerHour, l.PerContainer.String(), l.NoReturn.String(), l.CoolDown.String(), l.MaxAge.String()})
}

// UnmarshalJSON reads durations such as "90m". What is left out stays as it was.
func (l *Limits) UnmarshalJSON(data []byte) error {
	var in limitsJSON
	if err := strictly(data, &in); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	if in.AtOnce != nil {
		l.AtOnce = *in.AtOnce
	}
	if in.PerHour != nil {
		l.PerHour = *in.PerHour
	}
	for _, f := range []struct {
		name, text string
		to         *time.Duration
	}{
		{"perContainer", in.PerContainer, &l.PerContainer}, {"noReturn", in.NoReturn, &l.NoReturn},
		{"coolDown", in.CoolDown, &l.CoolDown}, {"maxAge", in.MaxAge, &l.MaxAge},
	} {
		if f.text == "" {
			continue
		}
		d, err := time.ParseDuration(f.text)
		if err != nil {
			return fmt.Errorf("limits.%s: %q is not a duration; write a number with a unit, such as 90m", f.name, f.text)
		}
		*f.to = d
	}
	return nil
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // by time.Weekday

// windowJSON is a window as in a LoadPolicy.
type windowJSON struct {
	Days *[]string `json:"days,omitempty"`
	From string    `json:"from"`
	To   string    `json:"to"`
}

// MarshalJSON writes a window as in a LoadPolicy.
func (w Window) MarshalJSON() ([]byte, error) {
	days := []string{}
	for i, name := range dayNames {
		if w.Days[i] {
			days = append(days, name)
		}
	}
	clock := func(m int) string { return fmt.Sprintf("%02d:%02d", m/60, m%60) }
	return json.Marshal(windowJSON{&days, clock(w.From), clock(w.To)})
}

// UnmarshalJSON reads a window as in a LoadPolicy: no days are all days.
func (w *Window) UnmarshalJSON(data []byte) error {
	var in windowJSON
	if err := strictly(data, &in); err != nil {
		return fmt.Errorf("windows: %w", err)
	}
	if in.Days == nil {
		w.Days = [7]bool{true, true, true, true, true, true, true}
	} else {
		w.Days = [7]bool{}
		for _, d := range *in.Days {
			i := slices.Index(dayNames, d)
			if i < 0 {
				return fmt.Errorf("windows: %q is no day; write one of %s", d, strings.Join(dayNames, ", "))
			}
			w.Days[i] = true
		}
	}
	for _, f := range []struct {
		text string
		to   *int
	}{{in.From, &w.From}, {in.To, &w.To}} {
		at, err := time.Parse("15:04", f.text)
		if err != nil || len(f.text) != len("15:04") {
			return fmt.Errorf("windows: %q is no time of day; write it as \"22:30\", in UTC", f.text)
		}
		*f.to = at.Hour()*60 + at.Minute()
	}
	return nil
}
