#!/bin/sh
# After the files are gone. dpkg: "remove", "purge"; rpm: how many stay installed.
set -e
reload() { [ ! -d /run/systemd/system ] || systemctl daemon-reload || true; }
case "$1" in
remove | 0)
	rm -rf --one-file-system /run/belay
	reload
	;;
purge)
	rm -rf --one-file-system /run/belay /var/lib/belay /etc/belay /var/cache/belay
	# Drop-ins are in the administrator's tree: only ours, and the folder if it is empty then.
	rm -f /etc/systemd/system/belay-agent.service.d/gate.conf
	rmdir /etc/systemd/system/belay-agent.service.d 2>/dev/null || true
	reload
	;;
esac
