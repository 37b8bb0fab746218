#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# That no CPU touches what goes between the NIC and a GPU's memory: the guest's part of scripts/demo --gpu, and what that does not
# show, a sender that leaves some bytes next to the headers.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

MIB=16

# lines PATTERN: both directions' lines of the summary have it.
lines() {
	[ "$(grep -c "$1" /host/summary)" = 2 ] || fail "not twice: $1"
}

demo() {
	# Where it looks for CUDA.
	mkdir -p /usr/local/lib
	cp libcuda.so.1 /usr/local/lib/
	./demo-guest $MIB lines gpu | sed 's/^/# /'
	sed 's/^/# /' /host/summary
	lines "$((MIB << 20)) bytes .* copied 0 .* sha256 ok$"
	lines "CPUs: 0 bytes loaded, 0 stored$"
}

# What stays with the headers is stored by a CPU, once, and nothing else is touched.
slack_alone_is_stored() {
	local line bytes=$((MIB << 20)) touched
	modprobe netgpu
	tcg-accesses start standin_gpu
	receiver "$(address ours 4 5003)" --memory cuda:16M
	peer_sender plain "$(address ours 4 5003)" --bytes $bytes
	finished "$receiver" 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	touched=$(tcg-accesses stop)
	line=$(cat "$work/recv.out")
	note "$line"
	equal "bytes" "$(field "$line" rx)" $bytes
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
	[ "$(field "$line" copied)" != 0 ] || fail "the sender left nothing with the headers"
	equal "touched" "$touched" "0 bytes loaded, $(field "$line" copied) stored"
}

nothing_is_left() {
	until_true 10 module_unload
	nic_ping
	check_log
}

plan 3
run demo
NETGPU_DEV=$(nic_devices)
export NETGPU_DEV LD_LIBRARY_PATH=/usr/local/lib
run slack_alone_is_stored
run nothing_is_left
finish
