package peer

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"sync"
	"time"
)

// namesKept is how long a name is believed: as long as a person waits after
// usermod before trying again.
const namesKept = 15 * time.Second

// maxNames bounds the cache; a host has few callers.
const maxNames = 4096

// nameCache remembers names of users and groups. The zero value is empty.
type nameCache struct {
	// mu guards byID.
	mu   sync.Mutex
	byID map[nameKey]nameEntry
}

type nameKey struct {
	group bool
	id    uint32
}

type nameEntry struct {
	name  string
	until time.Time
}

// user returns a user's name, "" if the host's database has none.
func (c *nameCache) user(uid uint32) (string, error) {
	return c.get(nameKey{id: uid}, func(id string) (string, error) {
		u, err := user.LookupId(id)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

// groups returns the names of groups that have one.
func (c *nameCache) groups(gid uint32, gids []uint32) ([]string, error) {
	out := make([]string, 0, len(gids)+1)
	add := func(id uint32) error {
		name, err := c.get(nameKey{group: true, id: id}, func(id string) (string, error) {
			g, err := user.LookupGroupId(id)
			if err != nil {
				return "", err
			}
			return g.Name, nil
		})
		if err != nil {
			return fmt.Errorf("name of gid %d: %w", id, err)
		}
		if name != "" {
			out = append(out, name)
		}
		return nil
	}
	if err := add(gid); err != nil {
		return nil, err
	}
	for _, g := range gids {
		if g == gid {
			continue
		}
		if err := add(g); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *nameCache) get(k nameKey, lookup func(string) (string, error)) (string, error) {
	now := time.Now()
	c.mu.Lock()
	e, ok := c.byID[k]
	c.mu.Unlock()
	if ok && now.Before(e.until) {
		return e.name, nil
	}
	name, err := lookup(strconv.FormatUint(uint64(k.id), 10))
	var noUser user.UnknownUserIdError
	var noGroup user.UnknownGroupIdError
	if err != nil && !errors.As(err, &noUser) && !errors.As(err, &noGroup) {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID == nil || len(c.byID) >= maxNames {
		c.byID = map[nameKey]nameEntry{}
	}
	c.byID[k] = nameEntry{name: name, until: now.Add(namesKept)}
	return name, nil
}
