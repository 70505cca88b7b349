package enforce

import (
	"errors"

	"github.com/cilium/ebpf"
)

// listTries is how often a map is listed that changes while it is.
const listTries = 3

// wholly lists a map with list, which returns its iterator's error, and again if so much went meanwhile that
// the iterator gave up: what it lists then begins anew.
//
// Errors: list's; [ebpf.ErrIterationAborted] after the last try. A part is never taken for the whole: a
// container that is not listed would count as one that has ended, or has not started.
func wholly(list func() error) error {
	var err error
	for range listTries {
		if err = list(); !errors.Is(err, ebpf.ErrIterationAborted) {
			return err
		}
	}
	return err
}
