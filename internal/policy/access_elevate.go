package policy

import (
	"fmt"
	"slices"
	"strings"
)

// ElevationActions returns the actions, sorted, that a person means who asks for an
// elevation: by a name ("container.exec", with what belongs to it), a glob ("container.*",
// "*"), or one word, which is a verb of containers ("exec": container.exec and
// container.exec.*), else a group ("volume"), else a verb of any group ("pull").
//
// Errors: with a fix, if it names none.
func ElevationActions(text string) ([]string, error) {
	var out []string
	for _, pattern := range elevationPatterns(text) {
		for _, id := range expandAction(pattern) {
			out = append(out, actions[id-1])
		}
		for _, id := range expandAction(pattern + ".*") {
			out = append(out, actions[id-1])
		}
		if len(out) > 0 {
			slices.Sort(out)
			return slices.Compact(out), nil
		}
	}
	msg, fix := checkAction(text[:min(len(text), maxGlob)])
	return nil, fmt.Errorf("%s; %s", msg, fix)
}

// elevationPatterns returns what a text may stand for; the first that names an action counts.
func elevationPatterns(text string) []string {
	switch {
	case text == "" || len(text) > maxGlob:
		return nil
	case strings.ContainsAny(text, ".*"):
		return []string{text}
	}
	return []string{"container." + text, text, "*." + text}
}

// ElevationHint returns the word by which a person asks for an elevation for an action.
func ElevationHint(action string) string {
	group, verb, _ := strings.Cut(action, ".")
	verb, _, _ = strings.Cut(verb, ".")
	if group == "container" && verb != "" {
		return verb
	}
	return action
}
