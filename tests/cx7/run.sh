#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Striding receive queues, hardware GRO and the exact header split of profile cx7, with Linux's own driver and the kernel's own users.
# All that the area nic says of a NIC holds here, too.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

QUEUE=1
PORT=8000
MIB=1048576

is_on() {
	ethtool -k "$NETGPU_DEV" | grep -q "^$1: on"
}

queues_stride() {
	ethtool --show-priv-flags "$NETGPU_DEV" | grep -q 'rx_striding_rq *: on'
	# What does not fit in the rest of an entry leaves a completion without a packet.
	plain_stream "$NETGPU_ADDR4" 9000
	[ "$(nic_counter rx_mpwqe_filler_cqes)" -gt 0 ] || fail "no entry was ever left unfinished"
}

# plain_stream ADDRESS MTU: 16 MiB over an ordinary socket, exact.
plain_stream() {
	nic_mtu "$2"
	case $1 in *:*) set -- "[$1]" ;; esac
	nothing_yet "$work/recv.err"
	plain-peer recv "$1:5001" >"$work/recv.out" 2>"$work/recv.err" &
	receiver=$!
	defer reap "$receiver"
	until_true 20 is_listening "$work/recv.err" "$receiver"
	peer_sender plain "$1:5001" --bytes $((16 * MIB))
	finished "$receiver" 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	equal "sha256" "$(field "$(cat "$work/recv.out")" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
}

lro() {
	ethtool -K "$NETGPU_DEV" lro "$1"
	ethtool -k "$NETGPU_DEV" | grep -q "^large-receive-offload: $1"
}

# merges PACKETS BUFFERS ADDRESS MTU: a stream comes in much fewer buffers than packets, by these counters. How many packets come in one
# poll is up to the pace of the sender, which other guests and kernels with debugging slow down, too.
merges() {
	local packets buffers halves=4
	[ "${NETGPU_TEST_SLOW:-1}" = 1 ] || halves=3
	packets=$(nic_counter "$1")
	buffers=$(nic_counter "$2")
	plain_stream "$3" "$4"
	packets=$(($(nic_counter "$1") - packets))
	buffers=$(($(nic_counter "$2") - buffers))
	note "$1 $packets, $2 $buffers"
	[ $((2 * packets)) -ge $((halves * buffers)) ] && [ "$buffers" -gt 0 ] || fail "hardly anything was merged"
}

lro_with() {
	lro on
	defer lro off
	"$@"
}

# The driver counts segments as packets.
lro_merges() {
	lro_with merges rx_packets rx_lro_packets "$1" "$2"
}

gro_on() {
	! is_on rx-gro-hw || fail "it is on from the start"
	ethtool -K "$NETGPU_DEV" rx-gro-hw on
	is_on rx-gro-hw || fail "it stays off"
	nic_ping
}

gro_merges() {
	merges rx_gro_packets rx_gro_skbs "$1" "$2"
}

many_streams() {
	iperf3 --server >"$ktap_tmp/server" 2>&1 &
	defer kill $!
	until_true 10 iperf_listens
	in_peer iperf3 --client "$NETGPU_ADDR4" --bytes 32M --parallel 8 >"$ktap_tmp/iperf" 2>&1 || fail "$(cat "$ktap_tmp/iperf")"
	both_ways "$NETGPU_ADDR6" --bytes 32M
	in_peer iperf3 --client "$NETGPU_ADDR4" --time 1 --udp --bitrate 50M >"$ktap_tmp/iperf" 2>&1 || fail "$(cat "$ktap_tmp/iperf")"
}

iperf_listens() {
	[ -n "$(ss -Htln 'sport = :5201')" ]
}

segmentation() {
	in_peer ethtool -K "$NETGPU_PEER_DEV" tso "$1" gso "$1" >/dev/null
}

# What comes again and out of order must not be merged, and comes out right.
bad_cable() {
	in_peer tc qdisc add dev "$NETGPU_PEER_DEV" root netem loss 1% reorder 5% duplicate 1% delay 1ms
	defer ip netns exec peer tc qdisc del dev "$NETGPU_PEER_DEV" root
	# Of segments as they come from TCP, not of the large sends that the device cuts.
	segmentation off
	defer segmentation on
	plain_stream "$1" 1500
}

tags() {
	ip link add link "$NETGPU_DEV" name vlan5 type vlan id 5
	defer ip link del vlan5
	ip address add 10.9.5.1/24 dev vlan5
	ip link set vlan5 up
	in_peer ip link add link "$NETGPU_PEER_DEV" name vlan5 type vlan id 5
	defer ip netns exec peer ip link del vlan5
	in_peer ip address add 10.9.5.2/24 dev vlan5
	in_peer ip link set vlan5 up
	until_true 10 in_peer ping -q -c 1 -W 1 10.9.5.1 >/dev/null
	plain_stream 10.9.5.1 1500
	ethtool -K "$NETGPU_DEV" rx-vlan-offload off
	defer ethtool -K "$NETGPU_DEV" rx-vlan-offload on
	plain_stream 10.9.5.1 1500
}

split_on() {
	ethtool -G "$NETGPU_DEV" tcp-data-split on
	ethtool -g "$NETGPU_DEV" | grep -i 'tcp data split' | tail -n 1 | grep -q on
	nic_steer $QUEUE $PORT
	nic_mtu 1500
	nic_ping
}

kernel_receiver_listens() {
	[ -n "$(ss -Htln "sport = :$PORT")" ] || gone "$receiver"
}

# into PROGRAM BYTES [ARGS...]: one of the kernel's users of memory providers receives.
into() {
	local program="$1" bytes="$2"
	shift 2
	"./$program" "$NETGPU_DEV" $QUEUE $PORT "$bytes" "$@" >"$work/recv.out" 2>"$work/recv.err" &
	receiver=$!
	defer reap "$receiver"
	until_true 20 kernel_receiver_listens
	alive "$receiver" || fail "$(cat "$work/recv.err")"
}

# Nothing of an exact split is copied.
received() {
	finished "$receiver" 20 "$work/recv.err"
	note "$(cat "$work/recv.out")"
	equal "copied" "$(field "$(cat "$work/recv.out")" copied)" 0
}

# transfer PROGRAM ADDRESS MTU MIB [ARGS...]
transfer() {
	local program="$1" address="$2" bytes=$(($4 * MIB))
	nic_mtu "$3"
	shift 4
	into "$program" $bytes "$@"
	in_peer timeout $((120 * ${NETGPU_TEST_SLOW:-1})) ./send "$address" $PORT $bytes
	received
	check_log
}

small_writes() {
	local chunk
	for chunk in 1 40 700; do
		into "$1" 20000
		in_peer timeout $((60 * ${NETGPU_TEST_SLOW:-1})) ./send "$NETGPU_ADDR4" $PORT 20000 $chunk
		received
	done
}

# The area of the case before goes some time after its program.
huge_pages_are_back() {
	[ "$(awk '$1 == "HugePages_Free:" { print $2 }' /proc/meminfo)" -ge 8 ]
}

# Buffers of LENGTH bytes: pages of the receive queue, and of its memory key, of that size. With few bytes on a slow kernel: io_uring's
# area is one mapping, in which the debugging of the DMA API looks for each page that is synced.
large_buffers() {
	local mib=32
	[ "${NETGPU_TEST_SLOW:-1}" = 1 ] || mib=8
	until_true 20 huge_pages_are_back
	transfer zcrx "$2" "$3" $mib 4096 "$1"
}

# What replaces all channels, or the interface, must come back with the split.
reopened() {
	local sender rx
	into "$1" $((64 * MIB))
	in_peer timeout $((120 * ${NETGPU_TEST_SLOW:-1})) ./send "$NETGPU_ADDR4" $PORT $((64 * MIB)) &
	sender=$!
	defer reap $sender
	for rx in 256 1024; do
		ethtool -G "$NETGPU_DEV" rx $rx
	done
	nic_mtu 4000
	nic_mtu 1500
	ip link set "$NETGPU_DEV" down
	nic_configure
	wait $sender || fail "the sender failed"
	received
}

# netgpu_receives FAMILY MTU: 32 MiB, through half of that, exact, nothing copied.
netgpu_receives() {
	local line
	nic_mtu "$2"
	receiver "$(address ours "$1" 5001)" --memory 16M
	peer_sender plain "$(address ours "$1" 5001)" --bytes $((32 * MIB))
	finished "$receiver" 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	line=$(cat "$work/recv.out")
	note "$line"
	equal "bytes" "$(field "$line" rx)" $((32 * MIB))
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
	equal "copied" "$(field "$line" copied)" 0
	check_log
}

# netgpu_sends FAMILY MTU: the same the other way.
netgpu_sends() {
	local line
	nic_mtu "$2"
	peer_receiver "$(address peer "$1" 6001)"
	sender "$(address peer "$1" 6001)" "$work/32M"
	finished "$sender" 60 "$work/send.err"
	finished "$peer" 10 "$work/peer.err"
	line=$(cat "$work/send.out")
	note "$line"
	equal "zero-copy" "$(field "$line" zero-copy)" $((32 * MIB))
	equal "sha256" "$(field "$(cat "$work/peer.out")" sha256)" "$(field "$line" sha256)"
	check_log
}

split_off() {
	ethtool -G "$NETGPU_DEV" tcp-data-split auto
	ethtool -K "$NETGPU_DEV" rx-gro-hw off
	! is_on rx-gro-hw || fail "it stays on"
	nic_ping
	plain_stream "$NETGPU_ADDR4" 1500
	check_log
}

plan 44
program nic ../nic/run.sh
nic_gone
nic_up
run queues_stride
for mtu in 1500 9000; do
	run lro_merges $NETGPU_ADDR4 $mtu
	run lro_merges $NETGPU_ADDR6 $mtu
done
run lro_with many_streams
run lro_with bad_cable $NETGPU_ADDR4
run lro_with tags
run gro_on
for mtu in 1500 9000; do
	run gro_merges $NETGPU_ADDR4 $mtu
	run gro_merges $NETGPU_ADDR6 $mtu
done
run many_streams
run bad_cable $NETGPU_ADDR4
run bad_cable $NETGPU_ADDR6
run tags
run split_on
for program in zcrx devmem; do
	for mtu in 1500 9000; do
		# Through half of that.
		run transfer $program $NETGPU_ADDR4 $mtu 32 4096
		run transfer $program $NETGPU_ADDR6 $mtu 32 4096
	done
	run small_writes $program
	run reopened $program
done
for length in 16384 32768 65536; do
	run large_buffers $length $NETGPU_ADDR4 1500
	run large_buffers $length $NETGPU_ADDR6 9000
done
modprobe netgpu || echo "# modprobe netgpu failed"
for mtu in 1500 9000; do
	run netgpu_receives 4 $mtu
	run netgpu_receives 6 $mtu
done
plain-peer make "$work/32M" --bytes $((32 * MIB))
run netgpu_sends 4 1500
run netgpu_sends 6 9000
run split_off
finish
