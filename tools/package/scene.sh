#!/bin/bash
# scene.sh: what booted.sh plays in its guest, once before a reboot and once after it.
set -uo pipefail
# systemctl gives up after 25 s, which an emulated systemd that reads its units takes; dpkg's scripts inherit it.
export SYSTEMD_BUS_TIMEOUT=10min
state=/var/tmp/belay-scene
fail() {
	echo "package scene: FAIL: $*" >&2
	journalctl -b -u belay-agent -u docker --no-pager -n 25 2>&1 | cut -c1-240 >&2
	exit 1
}
step() { echo "package scene: $* ($(cut -d. -f1 /proc/uptime) s after the boot)"; }
await() { # await SECONDS COMMAND…
	local n=$1
	shift
	for _ in $(seq "$n"); do "$@" >/dev/null 2>&1 && return 0; sleep 1; done
	return 1
}
active() { systemctl is-active -q "$1"; }
# Denied, and not merely failed: an engine that is away fails too.
root_denied() {
	local out rc=0
	out=$(docker exec -u 0 allowed /bin/busybox id -u 2>&1) || rc=$?
	[ "$rc" = 137 ] || { [ "$rc" != 0 ] && grep -i 'not permitted' <<<"$out" >/dev/null; }
}
# Between two tries of restart=always State.Running is true, and the status is "restarting".
held() { [ "$(docker inspect -f '{{.State.Status}}' forbidden)" != running ]; }
user_runs() { [ "$(docker exec -u 1000 allowed /bin/busybox id -u)" = 1000 ]; }
# What a package may leave nothing of. Docker's own, logs and caches change by themselves.
list() {
	(cd / && find etc usr var/lib var/cache root opt srv -xdev \( -path var/lib/docker -o -path var/lib/containerd -o -path 'var/lib/dpkg/*-old' -o -path var/lib/dpkg/triggers \
		-o -path var/lib/systemd -o -path 'etc/docker' -o -path root/.docker -o \( -path 'var/cache/*' ! -path var/cache/belay ! -path 'var/cache/belay/*' \) -o -name '*.cache' -o -path var/lib/dpkg/info -o -path var/lib/dpkg/status \) -prune -o -printf '%p %y %m %U:%G %l\n' | sort)
}
mounts() { awk '{ print $2, $3 }' /proc/mounts | grep -vE 'docker|containerd|/run/user|credentials' | sort; }
units() { systemctl list-unit-files --no-legend --no-pager | awk '{ print $1, $2 }' | grep -v '\.mount' | sort; }

first_boot() {
	mkdir -p "$state"
	await 300 docker version || fail "docker does not answer before Belay is there"
	mkdir -p /tmp/image/bin && cp /bin/busybox /tmp/image/bin/ && ln -s busybox /tmp/image/bin/sh
	tar -C /tmp/image -c . | docker import - scene:1 >/dev/null || fail "docker import"
	rm -rf /tmp/image
	list >"$state/files" && mounts >"$state/mounts" && units >"$state/units" || fail "list what is there before Belay is"
	step "dpkg -i"
	DEBIAN_FRONTEND=noninteractive dpkg -i /belay.deb || fail "dpkg -i"
	await 120 belay status || fail "the agent does not enforce: $(belay status 2>&1 | tail -n 3)"
	step "the agent enforces; backend $(belay status -o json | sed -n 's/.*"backend": *"\([a-z]*\)".*/\1/p' | head -n 1)"
	belay doctor || [ $? = 4 ] || fail "belay doctor ended with $?"
	[ -n "$(ls -A /run/belay/bpf)" ] || fail "there are no pins where they are looked for after the purge"
	docker run -d --restart=always --network none --name forbidden scene:1 /bin/sh -c 'busybox sleep 1; echo ran as root; exec busybox sleep 100000' >/dev/null || fail "docker run"
	docker run -d --restart=always --network none -u 1000 --name allowed scene:1 /bin/busybox sleep 100000 >/dev/null || fail "docker run -u 1000"
	root_denied && fail "root is denied by a policy that only watches"
	cp /usr/share/belay/policies/baseline.yaml /etc/belay/policies/ && belay policy reload || fail "belay policy reload with baseline.yaml"
	root_denied && fail "root is denied by baseline.yaml, which asks nothing of users"
	cp /usr/share/belay/policies/hardened.yaml /etc/belay/policies/ && belay policy reload || fail "belay policy reload"
	root_denied || fail "docker exec -u 0 runs under hardened.yaml"
	user_runs || fail "docker exec -u 1000 does not run under hardened.yaml"
	belay events --denials | grep -c exec.asRoot >/dev/null || fail "no record of the denial"
	step "a root exec is denied, and recorded"
	mkdir -p /etc/docker && echo '{"live-restore": true}' >/etc/docker/daemon.json && systemctl restart docker || fail "restart of docker with live-restore"
	local pid=$(docker inspect -f '{{.State.Pid}}' allowed)
	belay enable-gate --timeout 5m || fail "belay enable-gate: $?"
	docker version >/dev/null || fail "docker does not answer through the gate"
	[ "$(docker inspect -f '{{.State.Pid}}' allowed)" = "$pid" ] || fail "enable-gate restarted a container"
	belay doctor --only gate.socket || fail "belay doctor does not find the gate: $?"
	belay events --since 10m | grep -c docker >/dev/null || echo "package scene: note: no event of the gate yet"
	root_denied || fail "docker exec -u 0 runs through the gate"
	user_runs || fail "docker exec -u 1000 does not run"
	step "the gate is in front of the engine; containers kept running"
	echo booted-once >"$state/phase"
	exit 194
}

second_boot() {
	await 180 docker version || fail "docker does not answer after the reboot"
	active belay-agent || fail "the agent is not active after the reboot"
	local a=$(systemctl show -p ActiveEnterTimestampMonotonic --value belay-agent) d=$(systemctl show -p ActiveEnterTimestampMonotonic --value docker) c=$(systemctl show -p ExecMainStartTimestampMonotonic --value containerd)
	[ "$a" -lt "$d" ] && [ "$a" -lt "$c" ] || fail "the agent was ready at $a, containerd started at $c, docker was ready at $d"
	await 120 user_runs || fail "the allowed container is not back"
	docker logs forbidden 2>&1 | grep -c 'ran as root' >"$state/ran"
	root_denied || fail "docker exec -u 0 runs after the reboot"
	user_runs || fail "docker exec -u 1000 does not run"
	sleep 5
	[ "$(docker logs forbidden 2>&1 | grep -c 'ran as root')" = "$(cat "$state/ran")" ] || fail "the forbidden container runs"
	await 60 held || fail "the forbidden container is up after the reboot"
	step "rebooted: the agent was ready $(((c - a) / 1000)) ms before containerd started; the forbidden container did not run"
	local pid=$(docker inspect -f '{{.State.Pid}}' allowed) agent=$(systemctl show -p MainPID --value belay-agent)
	DEBIAN_FRONTEND=noninteractive dpkg -i --force-confold /next.deb || fail "upgrade"
	await 120 belay status || fail "the agent does not enforce after the upgrade"
	local next=$(dpkg-deb -f /next.deb Version)
	[ "$next" != "$(dpkg-deb -f /belay.deb Version)" ] || fail "$next is no upgrade"
	belay status -o json | grep -cF "\"$next\"" >/dev/null || fail "the agent that runs is not $next"
	[ "$(systemctl show -p MainPID --value belay-agent)" != "$agent" ] || fail "the upgrade did not restart the agent"
	[ "$(docker inspect -f '{{.State.Pid}}' allowed)" = "$pid" ] || fail "the upgrade restarted a container"
	root_denied || fail "docker exec -u 0 runs after the upgrade"
	user_runs || fail "docker exec -u 1000 does not run"
	step "upgraded"
	belay disable-gate || fail "belay disable-gate: $?"
	docker version >/dev/null || fail "docker does not answer without the gate"
	[ "$(docker inspect -f '{{.State.Pid}}' allowed)" = "$pid" ] || fail "disable-gate restarted a container"
	root_denied || fail "docker exec -u 0 runs without the gate"
	user_runs || fail "docker exec -u 1000 does not run"
	step "the gate is taken away; containers kept running"
	mkdir -p /var/cache/belay/layers && : >/var/cache/belay/layers/kept || fail "a cache as a scan of root's leaves it"
	DEBIAN_FRONTEND=noninteractive dpkg -P belay || fail "purge"
	await 60 docker version || fail "docker does not answer after the purge"
	[ "$(docker inspect -f '{{.State.Pid}}' allowed)" = "$pid" ] || fail "the purge restarted a container"
	root_denied && fail "root is still denied after the purge"
	docker rm -f allowed forbidden >/dev/null
	list | diff "$state/files" - || fail "files are left, see above"
	mounts | diff "$state/mounts" - || fail "mounts are left, see above"
	units | diff "$state/units" - || fail "units are left, see above"
	[ ! -e /run/belay ] || fail "pins are left: $(ls -AR /run/belay)"
	step "purged: no file, mount, unit or pin is left"
	exit 0
}

if [ "$(cat "$state/phase" 2>/dev/null)" = booted-once ]; then second_boot; else first_boot; fi
