package vulndb

import "github.com/belay-project/belay/internal/scan/inventory"

// owners tells for which packages of a distribution the database speaks.
type owners struct {
	db        *DB
	os        inventory.OS
	installed map[string]*inventory.Package
	known     map[string]bool
}

func newOwners(db *DB, res *inventory.Result) *owners {
	o := &owners{db: db, os: res.OS, installed: map[string]*inventory.Package{}, known: map[string]bool{}}
	for i := range res.Packages {
		if p := &res.Packages[i]; inventory.OfDistribution(p.Kind) {
			o.installed[p.Name] = p
		}
	}
	return o
}

// covers reports whether a package of this name is installed and its source has records
// of the distribution. Errors: [ErrBroken].
func (o *owners) covers(name string) (bool, error) {
	p := o.installed[name]
	if p == nil {
		return false, nil
	}
	if known, ok := o.known[name]; ok {
		return known, nil
	}
	known := false
	ecosystems, names := query(o.os, p)
	for _, eco := range ecosystems {
		for _, w := range names {
			list, err := o.db.lookup(eco, w.name)
			if err != nil {
				return false, err
			}
			known = known || list.n > 0
		}
	}
	o.known[name] = known
	return known, nil
}
