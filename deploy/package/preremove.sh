#!/bin/sh
# Before the files go. dpkg: "remove" or "upgrade VERSION"; rpm: how many stay installed. An
# upgrade stops nothing: there is no moment without enforcement, nor one without the gate.
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
if [ -e /etc/systemd/system/belay-agent.service.d/gate.conf ] || [ -e /var/lib/belay/gate.json ] || grep -qs '"belay"' /etc/docker/daemon.json; then
	# Without it Docker would be reachable by nobody; nor if its daemon asks the plugin, which is read there.
	belay disable-gate || {
		echo "belay: the gate could not be taken away, so the package stays; see above, or, if containers may stop: belay disable-gate --restart-containers, then remove again" >&2
		exit 1
	}
fi
unit=belay-agent.service
booted() { [ -d /run/systemd/system ]; }
active=
if booted; then
	! systemctl is-active -q $unit || active=1
	systemctl stop $unit || true
fi
# The kernel's side stays when the agent stops; here it goes too, from where the agent's flags have it.
conf=/etc/belay/agent.conf
flags=
[ ! -r $conf ] || flags=$(sed -n 's/^[[:space:]]*BELAY_AGENT_FLAGS=//p' $conf | tail -n 1 | tr -d "\"'")
flag() { # flag NAME DEFAULT
	name=$1 value=$2
	set -f # words as systemd takes them, no patterns
	set -- $flags
	set +f
	while [ $# -gt 0 ]; do
		case "$1" in
		"$name="*) value=${1#*=} ;;
		"$name") value=${2:-$value} ;;
		esac
		shift
	done
	echo "$value"
}
config=$(flag --config '') run=$(flag --run-dir '') state=$(flag --state-dir '')
[ -e "$config" ] || config=
unload() { # unload [FLAG...]: nothing, where there is no kernel side
	command -v belay-agent >/dev/null || [ -d /run/belay/bpf ] || return 0
	belay-agent run --unload ${config:+"--config=$config"} ${state:+"--state-dir=$state"} "$@" || {
		echo "belay: the kernel's side could not be removed, so the package stays; see above" >&2
		[ -z "$active" ] || systemctl start $unit || true
		exit 1
	}
}
unload ${run:+"--run-dir=$run"}
# Of an agent before the flags were changed, what is in the default place would stay until the next reboot.
[ ! -d /run/belay/bpf ] || unload --run-dir=/run/belay
if [ "$1" = remove ]; then
	mkdir -p /var/lib/belay && chmod 750 /var/lib/belay && : >/var/lib/belay/removed
fi
# Last, since nothing fails after it: an agent that stays installed is there after the next reboot.
! command -v systemctl >/dev/null || systemctl disable $unit >/dev/null 2>&1 || true
