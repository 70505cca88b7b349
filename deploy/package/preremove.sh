#!/bin/sh
# Before the files go. dpkg: "remove" or "upgrade VERSION"; rpm: how many stay installed. An
# upgrade stops nothing: there is no moment without enforcement, nor one without the gate.
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
if [ -e /etc/systemd/system/belay-agent.service.d/gate.conf ] || [ -e /var/lib/belay/gate.json ]; then
	# Without it Docker would be reachable by nobody.
	belay disable-gate || {
		echo "belay: the gate could not be taken away, so the package stays; see above, and /usr/share/doc/belay" >&2
		exit 1
	}
fi
if command -v systemctl >/dev/null; then
	[ ! -d /run/systemd/system ] || systemctl stop belay-agent.service || true
	systemctl disable belay-agent.service >/dev/null 2>&1 || true
fi
# The kernel's side stays when the agent stops; here it goes too.
if [ -d /run/belay/bpf ]; then
	belay-agent run --unload
fi
if [ "$1" = remove ]; then
	mkdir -p /var/lib/belay && chmod 750 /var/lib/belay && : >/var/lib/belay/removed
fi
