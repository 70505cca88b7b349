#!/bin/bash
# The demo on this machine; with --vm also in virtual machines, under lsm and modret.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ]; then
	echo "demo: root is needed: it starts a Docker Engine and loads programs into the kernel" >&2
	exit 1
fi
if [ "${1:-}" != --vm ]; then
	exec bin/demo
fi
job=$(mktemp)
trap 'rm -f "$job"' EXIT
printf 'cd %q && exec bin/demo --short\n' "$PWD" >"$job"
# Half of an emulated processor is not what the cap is made for.
export BELAY_TEST_AGENT_FLAGS="--cpu-max none"
export BELAY_VM_TIMEOUT=${BELAY_VM_TIMEOUT:-1800} BELAY_VM_CPUS=${BELAY_VM_CPUS:-1}
tools/vmtest/vm.sh 6.1 landlock,lockdown,yama,integrity,bpf "$job"
tools/vmtest/vm.sh 6.12 landlock,lockdown,yama,integrity "$job"
