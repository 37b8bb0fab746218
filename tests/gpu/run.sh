#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Memory that is not this machine's: dma-bufs of a stand-in GPU behind a PCI BAR (standin_gpu.c), and of udmabuf.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

QUEUE=1
PORT=8000

listening() {
	[ -n "$(ss -Htln "sport = :$PORT")" ]
}

# The device, the BAR and the driver are there.
stand_in() {
	modprobe standin_gpu
	[ -c /dev/standin_gpu ]
}

# The kernel's own devmem TCP, which knows nothing of us, puts a stream into the BAR by the NIC's DMA.
nic_to_bar() {
	local receiver bytes=16777216 copied
	ethtool -L "$NETGPU_DEV" combined 2
	ethtool -X "$NETGPU_DEV" equal 1
	defer ethtool -X "$NETGPU_DEV" default
	ethtool -K "$NETGPU_DEV" ntuple on
	ethtool -G "$NETGPU_DEV" tcp-data-split on
	ethtool -N "$NETGPU_DEV" flow-type tcp4 dst-port $PORT action $QUEUE loc 1 >/dev/null
	defer ethtool -N "$NETGPU_DEV" delete 1
	./devmem "$NETGPU_DEV" $QUEUE $PORT $bytes 4096 gpu >"$ktap_tmp/received" &
	receiver=$!
	defer eval "kill $receiver 2>/dev/null || :"
	until_true 20 listening
	in_peer timeout 120 ./send "$NETGPU_ADDR4" $PORT $bytes
	wait $receiver || fail "the receiver failed"
	note "$(cat "$ktap_tmp/received")"
	copied=$(awk '{ print $4 }' "$ktap_tmp/received")
	[ "$copied" -le $((bytes / 20)) ] || fail "$copied of $bytes bytes were copied"
}

nothing_is_left() {
	rmmod standin_gpu
	nic_ping
	check_log
}

plan 3
nic_up
run stand_in
run nic_to_bar
run nothing_is_left
finish
