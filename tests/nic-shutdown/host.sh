#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The machine goes down with packets on their way: the driver lets go of the card fast, or by force where the card's firmware cannot do
# that. What is left of it is the card's log.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh

scripts=$(realpath ../../scripts)
overlay=$ktap_tmp/overlay
mkdir -p "$overlay"
cp -r "$(realpath ..)" "$overlay/tests"

# goes_down [FIRST]: boots a guest, has it do FIRST, start packets over the cable, and go down.
goes_down() {
	share=$ktap_tmp/share
	rm -rf "$share"
	mkdir "$share"
	"$scripts/vm" --nic --overlay "$overlay" --share "$share" sh /tests/nic-shutdown/guest.sh "$@" >"$ktap_tmp/out" 2>&1 || {
		sed 's/^/# /' "$ktap_tmp/out"
		fail "the guest's run failed"
	}
	[ "$(grep -c 'mlx5_core.*Shutdown was called' "$share/console")" = 2 ] || fail "the drivers were not told of the end: $(tail -n 5 "$share/console")"
}

# told COUNT TEXT: so often does the card tell so.
told() {
	[ "$(grep -c "$2" "$share/connectx.log")" = "$1" ] || fail "not $1 times \"$2\": $(cat "$share/connectx.log")"
}

# Both ports, whose driver disables the interface when it has announced that.
fast() {
	goes_down
	told 2 'about to disable the interface'
	told 2 'has disabled the interface'
	told 0 'goes by force'
}

# Port 0 fails the announcement.
forced() {
	goes_down connectx '{"do":"fail-commands","port":0,"opcode":259}'
	told 1 'refused (InternalError)'
	told 1 'goes by force'
	told 1 'about to disable the interface'
}

plan 2
run fast
run forced
finish
