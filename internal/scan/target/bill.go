package target

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// OpenBill returns the target that is a bill of materials in memory. It is a file without a
// name, which the scanner gets for reading.
func OpenBill(b []byte) (*Target, error) {
	fd, err := unix.MemfdCreate("bill", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("keep the bill of materials in memory: %w", err)
	}
	w := os.NewFile(uintptr(fd), "bill")
	defer w.Close()
	if _, err := w.Write(b); err != nil {
		return nil, fmt.Errorf("keep the bill of materials in memory: %w", err)
	}
	r, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, err
	}
	t := &Target{job: inventory.Job{Source: inventory.SourceArchive}}
	t.add(r, inventory.Input{})
	return t, nil
}
