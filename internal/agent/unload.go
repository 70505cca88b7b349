package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/journal"
)

// Unload removes the kernel side of a run directory, and tells whether there was one. It
// refuses while an agent runs.
//
// The journal of the state directory, if there is one, says so and who did it. One that takes no record is
// logged and no error: this is the way out where nothing else works, on a full disk too.
func Unload(cfg Config) (removed bool, err error) {
	if err := cfg.fill(); err != nil {
		return false, err
	}
	if !enforce.Loaded(cfg.PinDir()) {
		return false, nil
	}
	lock, err := lockDir(cfg.RunDir)
	if err != nil {
		return false, err
	}
	err = enforce.Unload(cfg.PinDir())
	if jerr := recordUnload(&cfg, err); jerr != nil {
		cfg.Log.Warn("the journal does not say that the kernel side was removed", attr.Dir, cfg.journalDir(), attr.Error, jerr.Error())
	}
	return true, errors.Join(err, lock.Close())
}

// keepAll is a bound that no journal comes to: how much it may take is for the agent to say.
const keepAll = 1 << 50

// recordUnload notes in the journal what came of an unload. It makes no journal.
func recordUnload(cfg *Config, came error) error {
	dir := cfg.journalDir()
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	j, err := journal.Open(journal.Options{Dir: dir, MaxBytes: keepAll})
	if err != nil {
		return err
	}
	message := "the kernel side of " + cfg.RunDir + " was removed by belay-agent run --unload: nothing is enforced by it any more"
	if came != nil {
		message = "belay-agent run --unload could not remove the kernel side of " + cfg.RunDir + ": " + came.Error()
	}
	message += fmt.Sprintf("; uid %d, started by %s", os.Getuid(), word(fmt.Sprintf("/proc/%d/comm", os.Getppid())))
	if login := word("/proc/self/loginuid"); login != "" && login != noLogin {
		message += ", login uid " + login
	}
	j.Append(&journal.Record{Kind: journal.KindAgent, Message: message})
	return j.Close()
}

// noLogin is what loginuid has where no login started the process; proc_pid_loginuid(5).
const noLogin = "4294967295"

// word returns a file of procfs that has one line; empty if it cannot be read.
func word(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
