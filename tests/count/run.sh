#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# That the plugin of QEMU counts the guest's instructions, and its accesses to the memory that a program names: pages of its own, or a
# device's. scripts/demo --gpu relies on the latter.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh

# counted COUNTS ARGS...: what the CPUs do to the GPU's memory while `touch ARGS...` runs is COUNTS.
counted() {
	local wanted="$1" got
	shift
	tcg-accesses start standin_gpu
	./touch "$@" >"$ktap_tmp/touched"
	got=$(tcg-accesses stop)
	[ "$got" = "$wanted" ] || fail "touch $*: $got, not $wanted"
}

# Each byte that a CPU touches counts once.
gpu_is_counted() {
	counted "0 bytes loaded, 24 stored" gpu store 3 7
	counted "24 bytes loaded, 0 stored" gpu load 3
	[ "$(cat "$ktap_tmp/touched")" = 21 ]
}

# The same bytes by way of the other window do not.
copies_are_not_counted() {
	./touch gpu store 3 7
	counted "0 bytes loaded, 0 stored" copies load 3
	[ "$(cat "$ktap_tmp/touched")" = 21 ] || fail "it is not the same memory"
	counted "0 bytes loaded, 0 stored" copies store 3 8
	[ "$(./touch gpu load 3)" = 24 ] || fail "it is not the same memory"
}

# What has no such name is not taken for memory that nobody touches.
unknown_memory() {
	! tcg-accesses start standin 2>"$ktap_tmp/error" || fail "it counts"
	grep -q "no memory of the name standin," "$ktap_tmp/error" || fail "$(cat "$ktap_tmp/error")"
}

modprobe standin_gpu
plan 4
program count tcg-count
run gpu_is_counted
run copies_are_not_counted
run unknown_memory
finish
