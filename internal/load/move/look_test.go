package move

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// TestTarget: each thing of the target that is in the way is found while the source serves, is the target's, and is all that is said.
func TestTarget(t *testing.T) {
	info := func(k string, v any) func(w *world) {
		return func(w *world) { w.to.info = map[string]any{k: v} }
	}
	// onShop has the source on a network of a user, that the target has too but for some of it.
	onShop := func(here, there map[string]any) func(w *world) {
		return func(w *world) {
			w.source.host["NetworkMode"], w.source.networks = "shop", map[string]any{"shop": map[string]any{}}
			for f, changes := range map[*fake]map[string]any{w.from: here, w.to: there} {
				if changes == nil {
					continue
				}
				n := map[string]any{"Name": "shop", "Id": "n" + f.id, "Driver": "bridge", "Scope": "local"}
				for k, v := range changes {
					n[k] = v
				}
				f.networks["shop"] = n
			}
		}
	}
	same := map[string]any{}
	publish := func(w *world) {
		w.source.config["ExposedPorts"] = map[string]any{"80/tcp": map[string]any{}}
		w.source.host["PortBindings"] = map[string]any{"80/tcp": []any{map[string]any{"HostIp": "127.0.0.1", "HostPort": "80"}}}
	}
	other := func(name string) *fakeContainer {
		return &fakeContainer{id: strings.Repeat("e", 64), name: name, host: map[string]any{}, config: map[string]any{}}
	}
	listens := func(w *world, ip string) {
		publish(w)
		c := other("shop")
		c.ports = []any{map[string]any{"IP": ip, "PrivatePort": 8080, "PublicPort": 80, "Type": "tcp"}}
		w.to.containers[c.id] = c
	}
	now := time.Now()
	for _, c := range []struct {
		name string
		set  func(w *world)
		says string // "": it moves
		note string
	}{
		{name: "nothing", set: func(*world) {}},
		{name: "the same engine", set: func(w *world) { w.to.containers[w.source.id] = w.source }, says: "it is the engine that the container is on"},
		{name: "another architecture", set: info("Architecture", "aarch64"), says: "it is linux on aarch64, and the source linux on x86_64"},
		{name: "another system", set: info("OSType", "windows"), says: "it is windows on x86_64"},
		{name: "another cgroup version", set: info("CgroupVersion", "1"), note: "its cgroups are of version 1, and those here of version 2"},
		{name: "another cgroup version, with a limit", set: func(w *world) {
			w.source.host["PidsLimit"] = 100
			w.to.info = map[string]any{"CgroupVersion": "1"}
		}, says: "it has cgroups of version 1, and the source of version 2"},
		{name: "users are mapped", set: info("SecurityOptions", []string{"name=userns"}), says: "one engine maps users"},
		{name: "rootless", set: info("SecurityOptions", []string{"name=seccomp,profile=default", "name=rootless"}), says: "one engine maps users"},
		{name: "no AppArmor", set: func(w *world) { w.from.info = map[string]any{"SecurityOptions": []string{"name=apparmor"}} }, says: "does not confine containers by apparmor"},
		{name: "no runtime", set: func(w *world) { w.source.host["Runtime"] = "runsc" }, says: `it has no runtime "runsc"`},
		{name: "the runtime", set: func(w *world) {
			w.source.host["Runtime"] = "runsc"
			w.to.info = map[string]any{"Runtimes": map[string]any{"runsc": map[string]any{"path": "runsc"}}}
		}},
		{name: "no log driver", set: func(w *world) {
			w.source.host["LogConfig"] = map[string]any{"Type": "journald"}
			w.to.info = map[string]any{"Plugins": map[string]any{"Log": []string{"json-file"}}}
		}, says: `it has no log driver "journald"`},
		{name: "no logs", set: func(w *world) {
			w.source.host["LogConfig"] = map[string]any{"Type": "none"}
			w.to.info = map[string]any{"Plugins": map[string]any{"Log": []string{"json-file"}}}
		}},
		{name: "its name is taken", set: func(w *world) { c := other("web"); w.to.containers[c.id] = c }, says: `it has a container called "web"`},
		{name: "a port of a container", set: func(w *world) { listens(w, "0.0.0.0") }, says: "its port 127.0.0.1:80/tcp is taken by a container"},
		{name: "that port of another address", set: func(w *world) { listens(w, "10.0.0.2") }},
		{name: "no network yet", set: onShop(same, nil)},
		{name: "the same network", set: onShop(same, same)},
		{name: "a network that no move makes", set: onShop(map[string]any{"Driver": "macvlan"}, nil), says: `it has no network "shop", and one of driver "macvlan" is not made by a move`},
		{name: "a network of a plugin's addresses", set: onShop(map[string]any{"IPAM": map[string]any{"Driver": "dhcp"}}, nil), says: "one of this kind is not made by a move"},
		{name: "another driver", set: onShop(same, map[string]any{"Driver": "macvlan"}), says: `its network "shop" is another: driver "macvlan", not "bridge"`},
		{name: "another scope", set: onShop(same, map[string]any{"Scope": "swarm"}), says: `its network "shop" is another: scope "swarm"`},
		{name: "another swarm", set: onShop(map[string]any{"Driver": "overlay", "Scope": "swarm"}, map[string]any{"Driver": "overlay", "Scope": "swarm"}), says: "it is of another swarm"},
		{name: "an internal network", set: onShop(same, map[string]any{"Internal": true}), says: "another: internal is true"},
		{name: "a network with IPv6", set: onShop(same, map[string]any{"EnableIPv6": true}), says: "another: IPv6 is true"},
		{name: "a network with options", set: onShop(same, map[string]any{"Options": map[string]any{"com.docker.network.bridge.enable_icc": "false"}}), says: "another: its options"},
		{name: "a volume of a plugin", set: func(w *world) { w.from.volumes["records"].driver = "nfs" }, says: `the volume "records" is of driver "nfs"`},
		{name: "a volume with options", set: func(w *world) { w.from.volumes["records"].options = map[string]string{"type": "nfs"} }, says: `the volume "records" has options`},
		{name: "a volume of that name", set: func(w *world) { w.to.volumes["records"] = &fakeVolume{} }, says: `it has a volume called "records"`},
		{name: "an older engine", set: func(w *world) { w.to.api = "1.41" }, note: "its engine speaks API 1.41, and the one here 1.44"},
		{name: "a newer engine", set: func(w *world) { w.from.api = "1.41" }},
		{name: "another time", set: info("SystemTime", now.Add(-3*time.Minute).Format(time.RFC3339Nano)), note: "the clocks of the two hosts are 3m0s apart"},
		{name: "the time", set: info("SystemTime", now.Add(-30*time.Second).Format(time.RFC3339Nano))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			w.from.info = map[string]any{"SystemTime": now.Format(time.RFC3339Nano)}
			c.set(w)
			p, err := w.look()
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				notes := strings.Join(p.Notes, "\n")
				if !strings.Contains(notes, c.note) || c.note == "" && (strings.Contains(notes, "clocks") || strings.Contains(notes, "speaks API") || strings.Contains(notes, "cgroups")) {
					t.Errorf("notes %q", p.Notes)
				}
				return
			}
			refused := new(RefusedError)
			if !errors.As(err, &refused) || !refused.Target || len(refused.Refusals) != 1 || !strings.Contains(refused.Refusals[0].Reason, c.says) {
				t.Errorf("got %v", err)
			}
			if !w.source.running {
				t.Error("the source was stopped")
			}
		})
	}
}
