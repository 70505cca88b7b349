package ci

import (
	"net/netip"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/ratelimit"
)

// shareOf says for whom a caller's requests are counted. Uids of a user namespace have no
// names in the host's database and are as many as its owner likes, and containers are made at
// will: each of these kinds is one, as one user is. Root of the host is not bounded.
func shareOf(sub *apicall.Subject) string {
	switch {
	case sub.Kind == apicall.Container:
		return "containers"
	case sub.Kind == apicall.User && sub.UID == 0:
		return ratelimit.Unbounded
	case sub.Kind == apicall.User && sub.Name == "":
		return "nameless"
	}
	return policy.Owner(sub)
}

// shareOfAddress is for callers who are not known yet. A network of IPv6 is one, as its owner
// has all of its addresses.
func shareOfAddress(a netip.Addr) string {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return "address " + p.String()
		}
	}
	return "address " + a.String()
}
