#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The header split at a fixed offset, through the kernel's own users of memory providers: io_uring's zero copy receive and devmem TCP.
# Nothing of netgpu is loaded.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

QUEUE=1
PORT=8000
MIB=1048576

listening() {
	[ -n "$(ss -Htln "sport = :$PORT")" ]
}

listening_or_gone() {
	listening || ! kill -0 "$receiver" 2>/dev/null
}

# The receiver of the case, and what it printed.
receiver_start() {
	"$@" >"$ktap_tmp/received" &
	receiver=$!
	defer eval "kill $receiver 2>/dev/null || :"
	until_true 20 listening_or_gone
	listening || fail "the receiver does not listen"
}

receiver_stop() {
	wait "$receiver" || fail "the receiver failed"
	received=$(awk '$1 == "received" { print $2 }' "$ktap_tmp/received")
	copied=$(awk '$1 == "received" { print $4 }' "$ktap_tmp/received")
	note "$(cat "$ktap_tmp/received")"
}

# All that can be left with the headers is what 40 bytes of TCP options and the larger IP header would have taken.
copied_is_slack() {
	[ "$copied" -le $((received / 20)) ] || fail "$copied of $received bytes were copied"
}

nothing_dropped() {
	[ "$(nic_counter rx_hds_long_hdr_drop)" = 0 ] || fail "packets were dropped for long headers"
	[ "$(nic_counter rx_csum_unreadable_drop)" = 0 ] || fail "packets were dropped for their checksum"
}

# transfer PROGRAM ADDRESS BYTES [PAGES]
transfer() {
	receiver_start "./$1" "$NETGPU_DEV" $QUEUE $PORT "$3" ${4:+"$4"}
	in_peer timeout $((120 * ${NETGPU_TEST_SLOW:-1})) ./send "$2" $PORT "$3"
	receiver_stop
	copied_is_slack
	nothing_dropped
}

split_on() {
	ethtool -G "$NETGPU_DEV" tcp-data-split on
	ethtool -g "$NETGPU_DEV" | grep -i 'tcp data split' | tail -n 1 | grep -q on
}

striding() {
	ethtool --set-priv-flags "$NETGPU_DEV" rx_striding_rq "$1"
}

lro_is() {
	ethtool -k "$NETGPU_DEV" | grep -q "large-receive-offload: $1"
}

# Where the other queues stride, that of a memory provider still does not, and nothing is merged.
beside_striding_queues() {
	striding on
	defer striding off
	! ethtool -K "$NETGPU_DEV" lro on 2>/dev/null || lro_is off || fail "LRO is on together with the split"
	transfer "$1" "$NETGPU_ADDR4" $((16 * MIB))
	nic_ping
}

no_split_with_lro() {
	ethtool -G "$NETGPU_DEV" tcp-data-split auto
	striding on
	defer striding off
	ethtool -K "$NETGPU_DEV" lro on
	lro_is on
	! ethtool -G "$NETGPU_DEV" tcp-data-split on 2>/dev/null || fail "the split is on together with LRO"
	ethtool -K "$NETGPU_DEV" lro off
}

jumbo() {
	nic_mtu 9000
	defer nic_mtu 1500
	transfer "$1" "$NETGPU_ADDR6" $((32 * MIB))
}

no_gro() {
	ethtool -K "$NETGPU_DEV" gro off
	defer ethtool -K "$NETGPU_DEV" gro on
	transfer "$1" "$NETGPU_ADDR4" $((16 * MIB))
}

# Writes of so few bytes that all of a packet, half of it, hardly anything of it fits next to the headers.
small_writes() {
	for chunk in 40 100 700; do
		receiver_start "./$1" "$NETGPU_DEV" $QUEUE $PORT 200000
		in_peer timeout $((60 * ${NETGPU_TEST_SLOW:-1})) ./send "$NETGPU_ADDR4" $PORT 200000 $chunk
		receiver_stop
	done
	nothing_dropped
}

# Far fewer buffers than the RQ has room for. io_uring is no user for that: it needs buffers to copy into.
few_buffers() {
	transfer "$1" "$NETGPU_ADDR4" $((16 * MIB)) 128
}

# What replaces all channels, or the interface, must come back with the split.
reopen() {
	receiver_start "./$1" "$NETGPU_DEV" $QUEUE $PORT $((128 * MIB))
	in_peer timeout $((120 * ${NETGPU_TEST_SLOW:-1})) ./send "$NETGPU_ADDR4" $PORT $((128 * MIB)) &
	sender=$!
	defer eval "kill $sender 2>/dev/null || :"
	for rx in 256 1024; do
		ethtool -G "$NETGPU_DEV" rx $rx
		nic_mtu 4000
		nic_mtu 1500
	done
	ip link set "$NETGPU_DEV" down
	nic_configure
	wait $sender || fail "the sender failed"
	receiver_stop
	copied_is_slack
	nothing_dropped
}

# The provider goes while there is no queue to restart.
close_while_down() {
	receiver_start "./$1" "$NETGPU_DEV" $QUEUE $PORT $MIB
	ip link set "$NETGPU_DEV" down
	defer nic_configure
	kill "$receiver"
	wait "$receiver" || :
	until_true 10 provider_gone
	check_log
}

provider_gone() {
	ethtool -G "$NETGPU_DEV" tcp-data-split off 2>/dev/null && ethtool -G "$NETGPU_DEV" tcp-data-split on
}

other_queues_as_ever() {
	receiver_start ./zcrx "$NETGPU_DEV" $QUEUE $PORT $MIB
	nic_ping
	[ "$(nic_counter rx0_hds_nodata_packets)" = 0 ] || fail "queue 0 splits, too"
}

# dropped_is COUNTER COUNT: at least so many more than when the case began.
dropped_is() {
	[ "$(nic_counter "$1")" -ge $(($(eval "echo \$before_$1") + $2)) ]
}

# 14 bytes of Ethernet, 40 of IPv6, 48 of options and 32 of TCP do not fit in 114. The handshake still does.
long_headers() {
	before_rx_hds_long_hdr_drop=$(nic_counter rx_hds_long_hdr_drop)
	receiver_start ./devmem "$NETGPU_DEV" $QUEUE $PORT $MIB
	ethtool -X "$NETGPU_DEV" start $QUEUE equal 1
	defer ethtool -X "$NETGPU_DEV" equal 1
	in_peer timeout $((60 * ${NETGPU_TEST_SLOW:-1})) ./send "$NETGPU_ADDR6" $PORT $MIB 1000 48 2>/dev/null &
	sender=$!
	defer eval "kill $sender 2>/dev/null || :"
	until_true 20 dropped_is rx_hds_long_hdr_drop 3
	check_log
}

# Nobody can have a second look at the checksum.
bad_checksums() {
	before_rx_csum_unreadable_drop=$(nic_counter rx_csum_unreadable_drop)
	receiver_start ./devmem "$NETGPU_DEV" $QUEUE $PORT $MIB
	in_peer ./badsum "$NETGPU_PEER_ADDR4" "$NETGPU_ADDR4" $PORT 10
	until_true 20 dropped_is rx_csum_unreadable_drop 10
	check_log
	in_peer timeout $((60 * ${NETGPU_TEST_SLOW:-1})) ./send "$NETGPU_ADDR4" $PORT $MIB
	receiver_stop
}

# The most packets to a page, and the fewest descriptors. IPv6 goes away with such an MTU: this comes last.
small_ring() {
	ethtool -G "$NETGPU_DEV" rx 16
	nic_mtu 576
	receiver_start "./$1" "$NETGPU_DEV" $QUEUE $PORT $((4 * MIB))
	in_peer timeout $((60 * ${NETGPU_TEST_SLOW:-1})) ./send "$NETGPU_ADDR4" $PORT $((4 * MIB))
	receiver_stop
	in_peer ping -q -i 0.01 -c 200 "$NETGPU_ADDR4" >/dev/null || fail "no ping"
	check_log
}

plan 22
nic_up
nic_steer $QUEUE $PORT

run no_split_with_lro
run split_on
run beside_striding_queues zcrx
for program in zcrx devmem; do
	run transfer $program $NETGPU_ADDR4 $((32 * MIB))
	run transfer $program $NETGPU_ADDR6 $((32 * MIB))
	run jumbo $program
	run no_gro $program
	run small_writes $program
	run reopen $program
	run close_while_down $program
done
run few_buffers devmem
run long_headers
run bad_checksums
run other_queues_as_ever
run small_ring devmem
finish
