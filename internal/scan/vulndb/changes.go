package vulndb

import (
	"bytes"
	"hash/maphash"
	"slices"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Key is what packages are looked up by. With an empty Name it stands for all of its
// ecosystem: whether the database has advisories for it.
type Key struct{ Ecosystem, Name string }

// Keys returns the keys on which the matches of an inventory depend, sorted, each once: for
// equal [DB.Fingerprint] of all of them two databases give equal [Matches].
func Keys(res *inventory.Result) []Key {
	seen := map[Key]bool{}
	for i := range res.Packages {
		ecosystems, names := query(res.OS, &res.Packages[i])
		for _, eco := range ecosystems {
			seen[Key{eco, ""}] = true
			for _, w := range names {
				seen[Key{eco, w.name}] = true
			}
		}
	}
	out := make([]Key, 0, len(seen))
	for k := range seen {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b Key) int {
		if a.Ecosystem != b.Ecosystem {
			if a.Ecosystem < b.Ecosystem {
				return -1
			}
			return 1
		}
		return bytes.Compare([]byte(a.Name), []byte(b.Name))
	})
	return out
}

// fingerprintSeed is of this process: fingerprints are compared in it alone.
var fingerprintSeed = maphash.MakeSeed()

// Fingerprint returns a number that differs, but for a chance of 2^-64, between databases
// that say different things of a key. It is comparable within one process.
//
// Errors: [ErrBroken].
func (db *DB) Fingerprint(k Key) (uint64, error) {
	if k.Name == "" {
		if db.has(k.Ecosystem) {
			return 1, nil
		}
		return 0, nil
	}
	e, err := db.lookup(k.Ecosystem, k.Name)
	if err != nil || e.n == 0 {
		return 0, err
	}
	var h maphash.Hash
	h.SetSeed(fingerprintSeed)
	var b bytes.Buffer
	var a affected
	for e.n > 0 {
		if err := e.next(&a); err != nil {
			return 0, err
		}
		v, err := db.record(a.record)
		if err != nil {
			return 0, err
		}
		// Numbers of records move with every build; what they say does not.
		a.record = 0
		b.Reset()
		v.put(&b)
		a.put(&b)
		h.Write(b.Bytes())
	}
	return h.Sum64(), nil
}
