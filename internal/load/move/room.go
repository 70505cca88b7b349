package move

import (
	"context"
	"fmt"
	"strconv"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/plan"
	"github.com/belay-project/belay/internal/load/recreate"
)

// room says of the target's host why the volumes or the ports have no room there, by what its gate says of it and by how
// large the source's engine says that the volumes are. Both are found otherwise with the container stopped. Notes are of
// what is not known.
func (r *run) room(ctx context.Context, recipe *recreate.Recipe) (why []recreate.Refusal, notes []string) {
	if len(recipe.Volumes) == 0 && len(recipe.Ports) == 0 {
		return nil, nil
	}
	d, err := engine.Node(ctx, r.to.Address, nil)
	if err != nil {
		return nil, []string{"whether the target has room for its volumes and ports beside what its containers have is not known: " + err.Error()}
	}
	for _, want := range recipe.Ports {
		for _, p := range d.Node.Site.Ports {
			if listens(p, want.Port, want.Protocol, want.IP) {
				why = append(why, recreate.Refusal{Reason: "the target: its port " + want.String() + " is taken: something of that host listens on it"})
				break
			}
		}
	}
	if len(recipe.Volumes) == 0 {
		return why, nil
	}
	need, err := r.volumesNeed(ctx, recipe)
	free := d.Node.Site.FreeBytes
	switch {
	case err != nil:
		notes = append(notes, "how large its volumes are is not known: "+err.Error())
	case free == 0:
		notes = append(notes, fmt.Sprintf("its volumes take %d MiB, and how much is free on the target is not known", need>>20))
	case need+need/spare > free:
		why = append(why, recreate.Refusal{
			Reason: fmt.Sprintf("the target: its volumes take %d MiB, and %d MiB are free there", need>>20, free>>20), Fix: "make room there",
		})
	}
	return why, notes
}

// spare is the part that volumes may take more there than their files have bytes: blocks and directories.
const spare = 20

// volumesNeed returns how many bytes the files of all volumes have.
func (r *run) volumesNeed(ctx context.Context, recipe *recreate.Recipe) (need int64, err error) {
	sizes, err := r.from.VolumeSizes(ctx)
	if err != nil {
		return 0, fmt.Errorf("source: %w", err)
	}
	seen := map[string]bool{}
	for _, v := range recipe.Volumes {
		size, ok := sizes[v.Name]
		if !ok {
			return 0, fmt.Errorf("source: its engine does not say it of %q", v.Name)
		}
		if !seen[v.Name] {
			seen[v.Name] = true
			need += size
		}
	}
	return need, nil
}

// listens reports whether what listens is in the way of a port that is to be published.
func listens(p plan.Port, port, protocol, ip string) bool {
	return strconv.Itoa(p.Port) == port && p.Protocol == protocol && meets(p.IP, p.IP != "", ip)
}
