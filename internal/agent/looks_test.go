package agent

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/belay-project/belay/internal/ident"
)

// A container whose file system never answers costs two threads at most, many such ones
// maxLooks, and a look at another's files is not kept waiting by them.
func TestLooksThatAreNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l looks
		never := make(chan struct{})
		hang := func() { <-never }
		for i := range maxLooksOfOne + 3 {
			want := errNoAnswer
			if i >= maxLooksOfOne {
				want = errLooksFull
			}
			if err := l.at("hostile", hang); !errors.Is(err, want) {
				t.Errorf("look %d: %v, want %v", i, err, want)
			}
		}
		ran := false
		if err := l.at("other", func() { ran = true }); err != nil || !ran {
			t.Errorf("a look at another container: %v, ran %v", err, ran)
		}
		for i := l.total; i < maxLooks; i++ {
			if err := l.at(ident.ContainerID(fmt.Sprint(i)), hang); !errors.Is(err, errNoAnswer) {
				t.Fatal(err)
			}
		}
		if err := l.at("one more", hang); !errors.Is(err, errLooksFull) {
			t.Errorf("beyond the most: %v", err)
		}
		close(never)
		synctest.Wait()
		if l.total != 0 || len(l.of) != 0 {
			t.Errorf("%d looks are counted after all ended: %v", l.total, l.of)
		}
		if err := l.at("hostile", func() {}); err != nil {
			t.Errorf("after its file system answered: %v", err)
		}
	})
}
