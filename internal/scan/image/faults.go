package image

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/secretname"
)

// faultConfig is what of an image's configuration is looked at for what should not be there.
// Source: OCI image specification, config.md.
type faultConfig struct {
	Config struct {
		User         string
		Env          []string
		ExposedPorts map[string]json.RawMessage
	} `json:"config"`
	History []struct {
		CreatedBy string `json:"created_by"`
	} `json:"history"`
}

// maxConfigFaults bounds what is told of one configuration.
const maxConfigFaults = 256

// faults looks at an image's configuration. unread says why something of it was not looked
// at, and is empty where all was.
func faults(b []byte) (list []inventory.Misconfiguration, unread string) {
	var c faultConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, "the image's configuration has a user, variables, ports or a history that cannot be read"
	}
	add := func(id string, s inventory.Severity, where, format string, args ...any) {
		if len(list) >= maxConfigFaults {
			unread = fmt.Sprintf("the image's configuration has more than %d faults", maxConfigFaults)
			return
		}
		list = append(list, inventory.Misconfiguration{ID: id, Severity: s, Where: inventory.Cut(where), Text: inventory.Cut(fmt.Sprintf(format, args...))})
	}
	if user, _, _ := strings.Cut(c.Config.User, ":"); user == "" || user == "root" || strings.Trim(user, "0") == "" {
		add(inventory.ConfigRootUser, inventory.SeverityMedium, "", "it runs as root unless it is told otherwise: name another USER")
	}
	for _, e := range c.Config.Env {
		if name, value, _ := strings.Cut(e, "="); secretname.Variable(name, value) {
			add(inventory.ConfigSecretEnv, inventory.SeverityHigh, name, "a variable that looks like a secret, which everybody who has the image can read: give it at run time")
		}
	}
	ports := make([]string, 0, len(c.Config.ExposedPorts))
	for p := range c.Config.ExposedPorts {
		ports = append(ports, p)
	}
	slices.Sort(ports)
	for _, p := range ports {
		if p == "22" || p == "22/tcp" {
			add(inventory.ConfigSSHPort, inventory.SeverityMedium, p, "it exposes the port of SSH: use the engine's exec")
		}
	}
	for i, h := range c.History {
		where := fmt.Sprintf("history %d", i+1)
		if addsURL(h.CreatedBy) {
			add(inventory.ConfigAddURL, inventory.SeverityLow, where, "ADD of a URL without a checksum: what came may be another thing the next time")
		}
		if name, ok := secretWord(h.CreatedBy); ok {
			add(inventory.ConfigSecretHistory, inventory.SeverityHigh, where, "a command with what looks like a secret%s: use a secret of the build", name)
		}
	}
	return list, unread
}

// addsURL reports whether a command of a Dockerfile adds what a URL leads to, without
// --checksum.
func addsURL(command string) bool {
	words := strings.Fields(command)
	if len(words) > 3 && strings.HasSuffix(words[0], "/sh") && words[1] == "-c" && words[2] == "#(nop)" {
		words = words[3:]
	}
	if len(words) == 0 || words[0] != "ADD" || strings.Contains(command, "--checksum=") {
		return false
	}
	return slices.ContainsFunc(words[1:], func(w string) bool {
		return strings.HasPrefix(w, "http://") || strings.HasPrefix(w, "https://")
	})
}

// plainName is the name of a variable or of an option.
var plainName = regexp.MustCompile(`^[A-Za-z_-][A-Za-z0-9_-]{0,63}$`)

// secretWord looks for NAME=value in a command that looks like a secret, and for a token. It
// returns the name, if there is one, for a sentence.
func secretWord(command string) (name string, ok bool) {
	for word := range strings.FieldsSeq(command) {
		name, value, has := strings.Cut(strings.Trim(word, `"';`), "=")
		value = strings.Trim(value, `"'`)
		switch {
		case !has && secretname.Token(name):
			return "", true
		// A reference to a variable is no value.
		case has && !strings.HasPrefix(value, "$") && secretname.Variable(name, value):
			if !plainName.MatchString(name) {
				return "", true // it may be a part of the secret
			}
			return ", " + name, true
		}
	}
	return "", false
}
