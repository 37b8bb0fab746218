#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# What users may do, and what they cannot do however they try.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

# Without a rule it is root's.
device_node() {
	[ "$(stat -c %a:%u:%g /dev/netgpu)" = 600:0:0 ] || fail "$(stat -c %a:%u:%g /dev/netgpu)"
}

# rule KEY: what the udev rule sets.
rule() {
	sed -n "s/^KERNEL==\"netgpu\".* $1=\"\\([^\"]*\\)\".*/\\1/p" 60-netgpu.rules
}

udev_rule() {
	[ "$(rule GROUP)" = netgpu ] || fail "group: $(rule GROUP)"
	[ "$(rule MODE)" = 0660 ] || fail "mode: $(rule MODE)"
	# As udev would, for a group of this number: see rights.c.
	chgrp 1234 /dev/netgpu
	chmod "$(rule MODE)" /dev/netgpu
}

# Whatever was provoked, the log tells nobody where things are in the kernel.
no_addresses_in_the_log() {
	! dmesg | grep -i netgpu | grep -qE '(^|[^0-9a-f])ffff[0-9a-f]{12}' || fail "$(dmesg | grep -i netgpu)"
}

# Packets for another machine come to a queue of netgpu's and go on over a link with a smaller MTU: fragments would be copies.
fragmented_on_the_way() {
	local before
	ip link add narrow0 type dummy
	defer ip link delete narrow0
	ip link set narrow0 mtu 600 up
	ip route add 198.51.100.0/24 dev narrow0
	in_peer ip route add 198.51.100.0/24 via "$NETGPU_ADDR4"
	defer ip netns exec peer ip route delete 198.51.100.0/24
	echo 1 >/proc/sys/net/ipv4/ip_forward
	defer eval 'echo 0 >/proc/sys/net/ipv4/ip_forward'
	# The peer allows fragments.
	in_peer sh -c 'echo 1 >/proc/sys/net/ipv4/ip_no_pmtu_disc'
	defer ip netns exec peer sh -c 'echo 0 >/proc/sys/net/ipv4/ip_no_pmtu_disc'
	receiver "$(address ours 4 5001)"
	ethtool -N "$NETGPU_DEV" flow-type udp4 dst-port 5999 action $(($(nic_queues) - 1)) loc 9
	defer ethtool -N "$NETGPU_DEV" delete 9
	before=$(ip_counter FragFails)
	until_true 10 more_fail "$before"
	kill -INT "$receiver"
	until_true 10 gone "$receiver"
}

more_fail() {
	head -c 1400 /dev/zero | in_peer nc -u -q 0 198.51.100.1 5999
	[ "$(ip_counter FragFails)" -gt "$1" ]
}

# ip_counter NAME: of our /proc/net/snmp.
ip_counter() {
	awk -v name="$1" '$1 == "Ip:" && !n { n = split($0, names); next } $1 == "Ip:" { for (i = 2; i <= n; i++) if (names[i] == name) print $i }' /proc/net/snmp
}

plan 10
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
run device_node
run udev_rule
program rights ./rights
program hostile ./hostile
program routes ./routes
program locks ./locks
program others ./others
run fragmented_on_the_way
run no_addresses_in_the_log
run nothing_is_left
finish
