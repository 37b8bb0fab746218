#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Calls, mappings and rings as chance has them: the programs of corpus/ one by one, then some seconds of new ones (scripts/fuzz: as
# many minutes as one likes). What was running when the guest died is in build/log/fuzz/program.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

port=9000
seconds=${NETGPU_TEST_FUZZ_SECONDS:-10}
seed=${NETGPU_TEST_FUZZ_SEED:-$(date +%s)}
found=/host/found

is_listening() {
	grep -q "listening on" "$ktap_tmp/peer"
}

# Queue 1 is for contexts, and gets what the other end sends; queue 0 has the rest.
prepare() {
	nic_up
	modprobe netgpu
	ethtool -L "$NETGPU_DEV" combined 2
	ethtool -X "$NETGPU_DEV" equal 1
	ethtool -G "$NETGPU_DEV" tcp-data-split on
	ethtool -K "$NETGPU_DEV" ntuple on
	ethtool -N "$NETGPU_DEV" flow-type tcp4 src-port $port action 1 >/dev/null
	ethtool -N "$NETGPU_DEV" flow-type tcp6 src-port $port action 1 >/dev/null
	: >"$ktap_tmp/peer"
	ip netns exec peer netgpu-fuzz peer "$NETGPU_PEER_ADDR4:$port" "[$NETGPU_PEER_ADDR6]:$port" 2>"$ktap_tmp/peer" &
	until_true 10 is_listening
}

# fuzz COMMAND ARGS...: of data races, check_log can tell whose they are.
fuzz() {
	local command="$1"
	shift
	netgpu-fuzz "$command" --dev "$NETGPU_DEV" --peers "$NETGPU_PEER_ADDR4:$port" "[$NETGPU_PEER_ADDR6]:$port" \
		--last /host/program --bad "BUG: ([^K]|K[^C])|${bad_log#BUG:|}" --slow "${NETGPU_TEST_SLOW:-1}" "$@"
}

# Of all programs those that are needed, for scripts/fuzz.
distill() {
	rm -rf /host/distilled
	mkdir /host/distilled
	fuzz distill corpus $found --out /host/distilled
}

# A search that reaches nothing finds nothing.
search() {
	rm -rf $found
	mkdir -p $found
	fuzz search --corpus corpus --out $found --seconds "$seconds" --seed "$seed" >"$ktap_tmp/search" 2>&1 || {
		sed 's/^/# /' "$ktap_tmp/search"
		fail "the program is in build/log/fuzz/program"
	}
	cat "$ktap_tmp/search"
	[ -z "${NETGPU_TEST_FUZZ_SECONDS-}" ] || distill
	[ ! -e /sys/module/netgpu/sections/__llvm_prf_cnts ] || return 0
	grep -q 'places [1-9]' "$ktap_tmp/search" || fail "kcov told of no place in the module"
}

nothing_is_left() {
	until_true 20 pinned_is "$pinned_at_first"
	until_true 10 module_unload
	check_log
	nic_ping
}

plan 2
prepare
pinned_at_first=$(pinned_pages)
run search
run nothing_is_left
finish
