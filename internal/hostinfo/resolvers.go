package hostinfo

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// maxResolvConf bounds what is read of a file of resolv.conf(5).
const maxResolvConf = 64 << 10

// resolvConfs are where the servers stand that the Docker Engine gives to containers: with
// systemd-resolved the second has those behind its own.
var resolvConfs = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// Resolvers returns the DNS servers that files of resolv.conf(5) name, sorted; without paths, those
// of the host. A file that is not there names none, nor does a line that cannot be read.
//
// Errors: *[fs.PathError].
func Resolvers(paths ...string) ([]netip.Addr, error) {
	if len(paths) == 0 {
		paths = resolvConfs
	}
	var out []netip.Addr
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read DNS servers: %w", err)
		}
		b, err := io.ReadAll(io.LimitReader(f, maxResolvConf)) //nolint:forbidigo // bounded
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read DNS servers: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "nameserver" {
				continue
			}
			if a, err := netip.ParseAddr(words[1]); err == nil {
				out = append(out, a.WithZone("").Unmap())
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}
