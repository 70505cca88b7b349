package agent

import (
	"errors"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/ident"
)

const (
	// answerTime bounds one look at files of a container: their path can lead to a file system
	// of the container's own making, which answers when it likes.
	answerTime = 2 * time.Second
	// maxLooks and maxLooksOfOne bound the looks under way, in all and at one container's
	// files: each that is not answered holds a thread of the agent and a few descriptors.
	maxLooks      = 64
	maxLooksOfOne = 2
)

var (
	errNoAnswer  = errors.New("a file system in the container does not answer")
	errLooksFull = errors.New("earlier looks at files of containers are not answered yet")
)

// looks keeps file systems that do not answer from holding up more than what is about
// them. The zero value is ready, and safe for concurrent use.
type looks struct {
	mu    sync.Mutex
	of    map[ident.ContainerID]int
	total int
}

// at runs look, which reads files of a container, and waits for it as long as a look may
// take. What look returns through its captures may be read only if the error is nil: else
// it may still be running.
//
// Errors: errNoAnswer; errLooksFull, and look was not run.
func (l *looks) at(id ident.ContainerID, look func()) error {
	if !l.begin(id) {
		return errLooksFull
	}
	done := make(chan struct{})
	go func() { // ends with the file system's answer
		defer close(done)
		defer l.end(id)
		look()
	}()
	t := time.NewTimer(answerTime)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-t.C:
		return errNoAnswer
	}
}

func (l *looks) begin(id ident.ContainerID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxLooks || l.of[id] >= maxLooksOfOne {
		return false
	}
	if l.of == nil {
		l.of = map[ident.ContainerID]int{}
	}
	l.of[id]++
	l.total++
	return true
}

func (l *looks) end(id ident.ContainerID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.of[id]--; l.of[id] == 0 {
		delete(l.of, id)
	}
}
