#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The NIC goes away, with packets on their way, and comes back: its card is pulled out, or the machine sleeps. Or it has fewer queues for
# a while.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh
. ../lib/sleep.sh

connected() {
	nic_carrier && nic_ping
}

# Our card is pulled out under the driver, which is not told.
pull() {
	name=$(nic_pci)
	dmesg -c >/dev/null
	connectx '{"do":"card","port":0,"on":false}'
	defer connectx '{"do":"card","port":0,"on":true}'
	until_true 10 peer_sees_no_link
	until_true 30 driver_says "PCI slot is unavailable"
}

peer_sees_no_link() {
	[ "$(in_peer cat "/sys/class/net/$NETGPU_PEER_DEV/carrier")" = 0 ]
}

driver_says() {
	dmesg | grep -q "$name: .*$1"
}

# Linux takes the device away, and finds another one in the slot.
replace() {
	echo 1 >"/sys/bus/pci/devices/$name/remove"
	[ ! -e "/sys/bus/pci/devices/$name" ] || fail "it is still there"
	connectx '{"do":"card","port":0,"on":true}'
	echo 1 >/sys/bus/pci/rescan
	until_true 30 nic_is_there
	nic_configure
}

card_is_replaced() {
	local name
	nic_traffic
	pull
	replace
	check_log
}

# The driver goes on where it can read again.
card_is_back() {
	local name
	nic_traffic
	pull
	connectx '{"do":"card","port":0,"on":true}'
	until_true 60 driver_says "health recovery succeeded"
	nic_configure
	check_log
}

# The receiver is told when the device goes, and no memory stays with it.
card_of_netgpu_is_replaced() {
	local name rc=0
	receiver "$(address ours 4 5001)"
	peer_sender plain "$(address ours 4 5001)" --bytes 10000000000
	until_true 20 peer_connected
	pull
	replace
	until_true 30 gone "$receiver"
	wait "$receiver" || rc=$?
	[ "$rc" != 0 ] || fail "it lost its device, and says that all is well"
	note "$(cat "$work/recv.err")"
	reap "$peer"
	until_true 30 pinned_is "$pinned_at_first"
	check_log
}

# What stays as it is. The driver forgets its rules and how RSS spreads packets, the card what
# it agreed on with the other end.
lasting_settings() {
	cat "/sys/class/net/$NETGPU_DEV/ifindex"
	ethtool -g "$NETGPU_DEV"
	ethtool -k "$NETGPU_DEV"
	ethtool -l "$NETGPU_DEV"
	ip -o -4 address show dev "$NETGPU_DEV"
}

# slept STATE LEVEL: a connection that is in use when the machine falls asleep goes on when it is awake.
slept() {
	local client
	ethtool -G "$NETGPU_DEV" rx 512
	lasting_settings >"$ktap_tmp/before"
	iperf3 --server --one-off >"$ktap_tmp/server" 2>&1 &
	defer quietly kill $!
	until_true 10 server_listens
	nic_traffic
	# Not --bidir, with which iperf3 may wait for ever on a busy machine: see both_ways. The pings go both ways.
	in_peer iperf3 --client "$NETGPU_ADDR4" --time 3 >"$ktap_tmp/iperf" 2>&1 &
	client=$!
	until_true 10 peer_connected
	fall_asleep "$@"
	until_true 30 connected
	wait $client || fail "$(cat "$ktap_tmp/iperf")"
	lasting_settings >"$ktap_tmp/after"
	diff "$ktap_tmp/before" "$ktap_tmp/after" >"$ktap_tmp/diff" || {
		sed 's/^/# /' "$ktap_tmp/diff"
		fail "settings have changed"
	}
	check_log
}

server_listens() {
	[ -n "$(ss -Htln 'sport = :5201')" ]
}

# netgpu_sleeps STATE LEVEL: netgpu's queue is there again, with its memory and what is unread in it. Somebody has to tell the driver
# again what is to go there, and what is not.
netgpu_sleeps() {
	local bytes=33554432 reader line
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	# Both ends at once: opening one alone would wait for the other.
	exec 9<>"$work/pipe"
	receiver "$(address ours 4 5001)" --queue 1 --memory 8M --output "$work/pipe"
	peer_sender padded "$(address ours 4 5001)" --bytes $bytes
	until_true 20 peer_connected
	stalls peer_acked
	note "asleep after $stalled_at bytes"
	at_most "bytes before the sender waits" "$stalled_at" $((bytes / 2))
	fall_asleep "$@"
	until_true 30 nic_carrier
	[ "$(ethtool -n "$NETGPU_DEV" | grep -c Filter:)" = 0 ] || fail "the driver has its rules: this one is not needed any more"
	nic_steer 1 5001
	defer nic_unsteer
	until_true 30 connected
	drain sha256sum >"$work/sum"
	finished "$receiver" 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	finished "$reader" 20 "$work/sum"
	line=$(cat "$work/recv.out")
	note "$line"
	equal "bytes" "$(field "$line" rx)" $bytes
	equal "sha256" "$(cut -d' ' -f1 "$work/sum")" "$(field "$(cat "$work/peer.out")" sha256)"
	equal "copied" "$(field "$line" copied)" 0
	check_log
}

# netgpu has queue 1, and then the driver has only one.
queue_goes() {
	ethtool -L "$NETGPU_DEV" combined 2
	receiver "$(address ours 4 5001)" --queue 1 --memory 8M
	[ "$(pinned_pages)" -gt "$pinned_at_first" ] || fail "it has no memory"
	ip link set "$NETGPU_DEV" down
	defer nic_configure
	modprobe fewer_queues index="$(cat "/sys/class/net/$NETGPU_DEV/ifindex")"
	defer quietly rmmod fewer_queues
	[ "$(nic_queues)" = 1 ] || fail "$(nic_queues) queues"
}

# It is closed while the driver does not have it, and is like any other when it is there again.
queue_is_missing() {
	queue_goes
	reap "$receiver"
	until_true 30 pinned_is "$pinned_at_first"
	rmmod fewer_queues
	nic_configure
	receiver "$(address ours 4 5001)" --queue 1 --memory 8M
	reap "$receiver"
	until_true 30 pinned_is "$pinned_at_first"
	check_log
}

# Nothing stays with a device that goes while it has fewer queues.
device_goes_without_the_queue() {
	local name
	name=$(nic_pci)
	queue_goes
	echo 1 >"/sys/bus/pci/devices/$name/remove"
	reap "$receiver"
	until_true 30 pinned_is "$pinned_at_first"
	echo 1 >/sys/bus/pci/rescan
	until_true 30 nic_is_there
	check_log
}

plan 10
nic_up
modprobe netgpu
pinned_at_first=$(pinned_pages)
run card_is_replaced
run card_is_back
run card_of_netgpu_is_replaced
run queue_is_missing
run device_goes_without_the_queue
host_away
run slept freeze devices
run slept mem core
run slept mem none
run netgpu_sleeps mem none
host_back
run nothing_is_left
finish
