package image

import (
	"encoding/json"
	"regexp"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Labels and annotations by which an image names its base. Source: OCI image specification,
// annotations.md, "Pre-Defined Annotation Keys".
const (
	baseName   = "org.opencontainers.image.base.name"
	baseDigest = "org.opencontainers.image.base.digest"
)

// maxCreatedBy is how much is told of a command that made a layer.
const maxCreatedBy = 256

// originConfig is what a configuration tells of where layers come from. Source: OCI image
// specification, config.md, "history".
type originConfig struct {
	History []struct {
		CreatedBy string `json:"created_by"`
		Empty     bool   `json:"empty_layer"`
	} `json:"history"`
}

// origin tells of each layer what made it, and of which of them are a base image's, by the
// image's own word. A history of another number of layers tells nothing; what of a
// configuration cannot be read is said elsewhere.
func (m *manifest) origin(config []byte) {
	var labels struct {
		Config struct{ Labels map[string]string } `json:"config"`
	}
	if json.Unmarshal(config, &labels) == nil {
		m.claim(labels.Config.Labels)
	}
	var c originConfig
	if json.Unmarshal(config, &c) != nil {
		return
	}
	at, base, commands := 0, 0, 0 // commands is how many layers there were at the last CMD
	for _, h := range c.History {
		switch {
		case !h.Empty:
			if at++; at > len(m.layers) {
				return
			}
			base = commands
		case isCommand(h.CreatedBy):
			commands = at
		}
	}
	if at != len(m.layers) {
		return
	}
	if base > 0 {
		m.claimed().Layers = base
	}
	at = 0
	for _, h := range c.History {
		if !h.Empty {
			m.layers[at].createdBy = madeBy(h.CreatedBy)
			at++
		}
	}
}

// isCommand reports whether a line of a history sets the command to run: base images end with
// that.
func isCommand(line string) bool {
	words := strings.Fields(strings.TrimPrefix(line, "/bin/sh -c #(nop)"))
	return len(words) > 0 && words[0] == "CMD"
}

// credential matches what else a command shows a secret by: a user before a host, an option or a
// header that takes one, a signed token.
var credential = regexp.MustCompile(`(?i)://[^/\s]*@|\b(authorization|bearer|basic|machine\s+\S+\s+login)\b|(^|\s)(-u|--user|--proxy-user|--(\S*-)?(password|passwd|pass|token|secret|key|auth|header|credentials?))[=\s]|(^|\s)-H[=\s]|(pass|passwd|auth|cred)\w*=|\beyJ[A-Za-z0-9_-]{8,}|\bsk-[A-Za-z0-9]`)

// madeBy is the beginning of a command, for a person; nothing of one with what looks like a
// secret.
func madeBy(command string) string {
	// Values of build arguments come before the command: "|2 TOKEN=x VERSION=1 /bin/sh -c make".
	if strings.HasPrefix(command, "|") {
		_, after, _ := strings.Cut(command, " /bin/sh -c ")
		command = "/bin/sh -c " + after
	}
	if _, secret := secretWord(command); secret || credential.MatchString(command) {
		return "(not shown: it has what looks like a secret)"
	}
	command = strings.Join(strings.Fields(strings.ReplaceAll(command, "/bin/sh -c #(nop)", "")), " ")
	command = strings.TrimSuffix(command, " # buildkit")
	return inventory.Cut(command[:min(len(command), maxCreatedBy)])
}

func (m *manifest) claimed() *inventory.ClaimedBase {
	if m.base == nil {
		m.base = &inventory.ClaimedBase{}
	}
	return m.base
}

// claim takes the base image's name out of labels or annotations.
func (m *manifest) claim(from map[string]string) {
	if name := inventory.Cut(from[baseName]); name != "" {
		m.claimed().Name = name
	}
	if d := from[baseDigest]; sha256Digest.MatchString(d) {
		m.claimed().Digest = d
	}
}
