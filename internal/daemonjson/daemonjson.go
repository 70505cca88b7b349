// Package daemonjson reads what Belay must know of Docker's daemon.json before it goes away.
//
// It owns no state, opens no file and writes none. Row: vocabulary; standard library only.
package daemonjson

import (
	"encoding/json"
	"slices"
)

// Path is where the daemon has its file unless it was told otherwise.
const Path = "/etc/docker/daemon.json"

// AsksPlugin tells whether the daemon asks Belay's plugin about each request: without the agent it then refuses
// every one. A text that is no JSON names none: the daemon would not have started with it.
func AsksPlugin(text []byte) bool {
	var cfg struct {
		Plugins []string `json:"authorization-plugins"`
	}
	return json.Unmarshal(text, &cfg) == nil && slices.Contains(cfg.Plugins, "belay")
}
