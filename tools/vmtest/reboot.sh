#!/bin/bash
# reboot.sh REPO: the reboot scene, on a real Docker Engine inside a virtual machine. A
# container with restart=always and a forbidden entrypoint is left behind; everything
# that a reboot takes away is taken away (pins, daemons, cgroups); the agent starts, then
# the engine, as deploy/systemd/belay-agent.service orders them. The container that the
# engine then starts by itself must not run, and an allowed one must.
set -euo pipefail
repo=$1
work=$(mktemp -d /tmp/vm/reboot.XXXX)
scope=/belay-reboot
bin=$repo/bin
sock=unix://$work/docker.sock
docker() { /usr/bin/docker -H "$sock" "$@"; }
engine=0 agent=0
# Who asks whether something is up takes seconds of an emulated processor from what is starting.

# A daemon gives its containerd 15 s, which an emulated processor that others use too may not keep.
start_engine() {
	for _ in 1 2 3; do
		rm -f "$work/pid"
		/usr/sbin/dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$sock" \
			--bridge=none --iptables=false --ip6tables=false --cgroup-parent $scope >>"$work/dockerd.log" 2>&1 &
		engine=$!
		for _ in $(seq 300); do sleep 1; docker version >/dev/null 2>&1 && return; kill -0 $engine 2>/dev/null || break; done
	done
	echo "reboot: the engine did not start" >&2; tail -5 "$work/dockerd.log" >&2; return 1
}
start_agent() { # half of an emulated processor is not what the cap is made for
	"$bin/belay-agent" run --run-dir "$work/run" --state-dir "$work/state" --policy-dir "$work/policies" \
		--docker-host "$sock" --cgroup-scope $scope --cpu-max none >>"$work/agent.log" 2>&1 &
	agent=$!
	for _ in $(seq 300); do sleep 3; "$bin/belay" --run-dir "$work/run" status >/dev/null 2>&1 && return; kill -0 $agent || break; done
	echo "reboot: the agent did not start" >&2; tail -5 "$work/agent.log" >&2; return 1
}
stop() { [ "$1" = 0 ] || { kill "$2" "$1" 2>/dev/null || true; wait "$1" 2>/dev/null || true; }; }
cleanup() {
	docker ps -aq 2>/dev/null | xargs -r /usr/bin/docker -H "$sock" rm -f >/dev/null 2>&1 || true
	stop $engine -TERM; stop $agent -TERM
	"$bin/belay-agent" run --unload --run-dir "$work/run" || true
}
trap cleanup EXIT

mkdir -p "$work/policies" "$work/marks"
chmod 777 "$work/marks"
cp "$repo/policies/hardened.yaml" "$work/policies/"
mkdir -p "$work/root/bin"
cp /bin/busybox "$work/root/bin/" && ln -s busybox "$work/root/bin/sh" && ln -s busybox "$work/root/bin/touch" && ln -s busybox "$work/root/bin/sleep"
start_engine
tar -C "$work/root" -c . | docker import - reboot:1 >/dev/null
# Before Belay: both run.
docker run -d --restart=always --net none -v "$work/marks:/m" --name forbidden reboot:1 /bin/sh -c 'touch /m/root.$RANDOM; sleep 1000' >/dev/null
docker run -d --restart=always --net none -u 1000 -v "$work/marks:/m" --name allowed reboot:1 /bin/sh -c 'touch /m/user.$RANDOM; sleep 1000' >/dev/null
sleep 1
ls "$work/marks" | grep -q ^root || { echo "reboot: the forbidden container does not run even unguarded" >&2; exit 1; }
# "Reboot": the engine dies with its containers; there is no kernel state of Belay.
stop $engine -KILL; engine=0
for c in /sys/fs/cgroup/$scope/*/cgroup.procs; do [ ! -e "$c" ] || xargs -r kill -9 <"$c" 2>/dev/null || true; done
pkill -9 -f "containerd.*$work" 2>/dev/null || true
sleep 2; rm -f "$work/pid" "$work/marks"/*; rmdir /sys/fs/cgroup/$scope/* 2>/dev/null || true
start_agent
start_engine
# Both are started by the engine in its own time: wait for the one, and for the other's denial.
for _ in $(seq 300); do ls "$work/marks" | grep -q ^user && break; sleep 0.2; done
ls "$work/marks" | grep -q ^user || { echo "reboot: the allowed container did not come back" >&2; exit 1; }
denied() { "$bin/belay" --run-dir "$work/run" events --denials | grep -q 'exec.asRoot'; }
for _ in $(seq 300); do denied && break; sleep 1; done
denied || { echo "reboot: no record of the denial" >&2; tail -3 "$work/dockerd.log" >&2; exit 1; }
if ls "$work/marks" | grep -q ^root; then
	echo "reboot: the forbidden container ran before or under the agent" >&2
	exit 1
fi
# The clock jumps a year on and back, under the agent and, but for the guests of make test, at its next start: nothing that is enforced goes by it.
marks() { ls "$work/marks" | grep -c ^root || true; }
for jump in "+1 year" "-2 years" "+1 year"; do
	date -s "$(date -R -d "$jump")" >/dev/null
	docker exec -u 0 allowed /bin/touch /m/root.clock 2>/dev/null && { echo "reboot: root ran after the clock went $jump" >&2; exit 1; }
	docker exec allowed /bin/touch /m/user.clock || { echo "reboot: a user's program did not run after the clock went $jump" >&2; exit 1; }
	[ "$jump" != "-2 years" ] || [ "${BELAY_MATRIX:-}" = reduced ] || { stop $agent -KILL; start_agent; } # one more load
done
[ "$(marks)" = 0 ] || { echo "reboot: root left its mark after the clock had jumped" >&2; exit 1; }
"$bin/belay" --run-dir "$work/run" status >/dev/null || { echo "reboot: the agent does not enforce after the clock had jumped" >&2; exit 1; }
"$bin/belay" journal verify "$work/state/journal" >/dev/null || { echo "reboot: the journal does not verify after the clock had jumped" >&2; exit 1; }
echo "reboot: restart=always container denied from its first instruction, allowed one is back ($("$bin/belay" --run-dir "$work/run" -o json status | sed -n 's/.*"backend": *"\([a-z]*\)".*/\1/p' | head -1))"
