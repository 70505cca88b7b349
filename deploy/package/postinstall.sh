#!/bin/sh
# After the files are in place. dpkg: "configure [OLD VERSION]"; rpm: how many are installed.
set -e
unit=belay-agent.service
removed=/var/lib/belay/removed # left by the removal of a package that was not purged

case "$1" in
configure) [ -z "$2" ] || [ -e $removed ] && first=1 || first= ;;
1) first=1 ;;
[2-9]*) first= ;;
abort-remove) # the removal did not go through: what it has stopped goes on
	[ ! -d /run/systemd/system ] || ! systemctl is-enabled -q $unit || systemctl start $unit || true
	exit 0
	;;
*) exit 0 ;; # an upgrade that was taken back
esac
[ -z "$2" ] || [ ! -e $removed ] || rm -f $removed
command -v systemctl >/dev/null || exit 0
running() { [ -d /run/systemd/system ]; }

running && systemctl daemon-reload || true
if [ -n "$first" ]; then
	systemctl enable $unit >/dev/null 2>&1 || echo "belay: $unit is not enabled: systemctl enable $unit" >&2
	action=start
else
	# What the former agent pinned enforces until the new one has taken it over.
	action=try-restart
fi
running || exit 0
# A machine that builds images does not want services: policy-rc.d says so with 101.
rc=0
[ ! -x /usr/sbin/policy-rc.d ] || /usr/sbin/policy-rc.d belay-agent $action || rc=$?
[ $rc != 101 ] || exit 0
systemctl $action $unit || echo "belay: the agent did not start; \`belay doctor\` says why and what to do" >&2
