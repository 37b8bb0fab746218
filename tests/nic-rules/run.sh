#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Which frames a ConnectX receives, and in which queue: addresses, VLANs, rules, spreading. The peer makes single frames.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

# quietly COMMAND...: for what may be undone already.
quietly() {
	"$@" 2>/dev/null || true
}

# What nobody else on this cable sends to or from.
stranger=02:00:00:00:00:77
group=01:00:5e:7f:00:01
frames=40

# received QUEUE: packets that the driver has had from this receive queue, or, with -, from all.
received() {
	if [ "$1" = - ]; then
		cat "/sys/class/net/$NETGPU_DEV/statistics/rx_packets"
	else
		nic_counter "rx$1_packets"
	fi
}

# send WHAT...: $frames frames, from the peer's card.
send() {
	in_peer ./frame "$NETGPU_PEER_DEV" $frames "$@"
}

# within_a_moment COMMAND...: COMMAND succeeds in the next half a second. Unlike until_true it may be false in the end.
within_a_moment() {
	local tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ $tries -lt 10 ] || return 1
		sleep 0.05
	done
}

have_come() {
	[ $(($(received "$1") - $2)) -ge $frames ]
}

# The driver's work queue may still be busy with what was asked of it: both try until it is as they say.
#
# comes QUEUE WHAT...: such frames come in this queue, all of them.
comes() {
	until_true 10 came "$@"
}

came() {
	local queue="$1" before
	shift
	before=$(received "$queue")
	send "$@"
	within_a_moment have_come "$queue" "$before"
}

# ignored COUNTER WHAT...: such frames do not come, and COUNTER of `ethtool -S` has them all.
ignored() {
	until_true 10 passed_by "$@"
}

# Others may come meanwhile, but fewer.
passed_by() {
	local counter="$1" before counted
	shift
	before=$(received -)
	counted=$(nic_counter "$counter")
	send "$@"
	within_a_moment counted_all "$counter" "$counted" && [ $(($(received -) - before)) -lt $frames ]
}

counted_all() {
	[ $(($(nic_counter "$1") - $2)) -ge $frames ]
}

missed() {
	ignored rx_steer_missed_packets "$@"
}

mac_of() {
	cat "/sys/class/net/$1/address"
}

ours() {
	echo "to=$(mac_of "$NETGPU_DEV")"
}

foreign_unicast() {
	comes - "$(ours)"
	missed to=$stranger
	ip link set "$NETGPU_DEV" promisc on
	defer ip link set "$NETGPU_DEV" promisc off
	comes - to=$stranger
	ip link set "$NETGPU_DEV" promisc off
	missed to=$stranger
}

more_unicast() {
	second_address add
	defer second_address delete
	comes - to=$stranger
	second_address delete
	missed to=$stranger
}

# A second address of the card, as macvlan asks for it.
second_address() {
	if [ "$1" = add ]; then
		ip link add link "$NETGPU_DEV" name second address $stranger type macvlan
		ip link set second up
	elif [ -e /sys/class/net/second ]; then
		ip link delete second
	fi
}

changed_address() {
	local old
	old=$(mac_of "$NETGPU_DEV")
	ip link set "$NETGPU_DEV" address $stranger
	defer ip link set "$NETGPU_DEV" address "$old"
	comes - to=$stranger
	missed to="$old"
	in_peer ip neigh flush dev "$NETGPU_PEER_DEV"
	until_true 10 nic_ping
	ip link set "$NETGPU_DEV" address "$old"
	in_peer ip neigh flush dev "$NETGPU_PEER_DEV"
	until_true 10 nic_ping
}

multicast() {
	missed to=$group
	ip maddress add $group dev "$NETGPU_DEV"
	defer quietly ip maddress delete $group dev "$NETGPU_DEV"
	comes - to=$group
	missed to=01:00:5e:7f:00:02
	ip maddress delete $group dev "$NETGPU_DEV"
	missed to=$group
	ip link set "$NETGPU_DEV" allmulticast on
	defer ip link set "$NETGPU_DEV" allmulticast off
	comes - to=$group
	missed to=$stranger
}

broadcast() {
	comes - to=ff:ff:ff:ff:ff:ff
}

# vlan PORT PROTOCOL: the VLAN of this port, with an address.
vlan() {
	if [ "$1" = ours ]; then
		ip link add link "$NETGPU_DEV" name vlan5 type vlan protocol "$2" id 5
		ip address add 10.9.5.1/24 dev vlan5
		ip link set vlan5 up
	else
		in_peer ip link add link "$NETGPU_PEER_DEV" name vlan5 type vlan protocol "$2" id 5 egress-qos-map 0:3
		in_peer ip address add 10.9.5.2/24 dev vlan5
		in_peer ip link set vlan5 up
	fi
}

# vlans PROTOCOL: both, for this case.
vlans() {
	vlan ours "$1"
	defer ip link delete vlan5
	vlan peer "$1"
	defer in_peer ip link delete vlan5
	until_true 10 vlan_ping
}

vlan_ping() {
	in_peer ping -q -c 1 -W 1 10.9.5.1 >/dev/null
}

vlan_is_filtered() {
	local tag="$1" protocol="$2" before
	missed "$(ours)" "$tag=5"
	vlans "$protocol"
	before=$(nic_counter rx_prio3_packets)
	comes - "$(ours)" "$tag=0x6005"
	[ $(($(nic_counter rx_prio3_packets) - before)) -ge $frames ] || fail "rx_prio3_packets does not count them"
	missed "$(ours)" "$tag=6"
	# The driver has no switch for the filter of S-tags.
	[ "$tag" = vlan ] || return 0
	ethtool -K "$NETGPU_DEV" rx-vlan-filter off
	defer ethtool -K "$NETGPU_DEV" rx-vlan-filter on
	comes - "$(ours)" "$tag=6"
}

# Tags that the card takes off and the driver puts into the entry, and tags that Linux leaves in the packet.
vlan_offloads() {
	local rx tx before
	vlans 802.1q
	for rx in off on; do
		ethtool -K "$NETGPU_DEV" rxvlan $rx
		defer ethtool -K "$NETGPU_DEV" rxvlan on
		for tx in off on; do
			ethtool -K "$NETGPU_DEV" txvlan $tx
			defer ethtool -K "$NETGPU_DEV" txvlan on
			before=$(nic_counter rx_removed_vlan_packets)
			until_true 10 vlan_ping
			in_peer ping -q -c 3 -i 0.05 -W 2 -s 1400 10.9.5.1 >"$ktap_tmp/ping" || fail "rxvlan $rx, txvlan $tx: $(cat "$ktap_tmp/ping")"
			case $rx in
			on) [ "$(nic_counter rx_removed_vlan_packets)" -gt "$before" ] || fail "the card took no tag off" ;;
			off) [ "$(nic_counter rx_removed_vlan_packets)" = "$before" ] || fail "the card took a tag off" ;;
			esac
		done
	done
}

server_listens() {
	[ -n "$(ss -Htln 'sport = :5201')" ]
}

# Segments and checksums of the card behind a tag.
vlan_segmentation() {
	local segments
	vlans "$1"
	segments=$(nic_counter tx_tso_packets)
	iperf3 --server >"$ktap_tmp/server" 2>&1 &
	defer quietly kill $!
	until_true 10 server_listens
	both_ways 10.9.5.1 --time 1
	[ "$(nic_counter tx_tso_packets)" -gt "$segments" ] || fail "no TSO"
	check_log
}

# All traffic to queue 0, so that a rule is seen by the packets of queue 1.
one_queue() {
	ethtool -L "$NETGPU_DEV" combined 2
	ethtool -X "$NETGPU_DEV" equal 1
	defer ethtool -X "$NETGPU_DEV" default
	ethtool -K "$NETGPU_DEV" ntuple on
	defer ethtool -K "$NETGPU_DEV" ntuple off
	defer no_rules
}

no_rules() {
	local location
	for location in $(ethtool -n "$NETGPU_DEV" | sed -n 's/^Filter: //p'); do
		ethtool -N "$NETGPU_DEV" delete "$location"
	done
}

# rule WHAT...: the only one.
rule() {
	ethtool -N "$NETGPU_DEV" flow-type "$@" loc 5 >"$ktap_tmp/rule" 2>&1 || fail "$*: $(cat "$ktap_tmp/rule")"
}

# follows QUEUE WHAT...: as comes, for frames to our address.
follows() {
	local queue="$1"
	shift
	comes "$queue" "$(ours)" "$@"
}

rules_ether() {
	one_queue
	rule ether proto 0x88b6 action 1
	follows 1 type=0x88b6
	follows 0 type=0x88b5
	rule ether src $stranger m 00:00:00:00:00:f0 action 1
	follows 1 from=02:00:00:00:00:c7
	follows 0 from=02:00:00:00:00:c6
	rule ether dst $stranger action 1
	comes 1 to=$stranger
	follows 0
	rule ether dst "$(mac_of "$NETGPU_DEV")" proto 0x88b5 vlan 5 m 0xf000 action 1
	follows 1 vlan=5
	follows 0 type=0x88b5
	rule ether proto 0x88b5 action -1
	ignored rx_packets_phy "$(ours)"
	follows 0 type=0x88b6
}

rules_ip() {
	local version="$1" from="$2" to="$3" other="$4" l4 ip
	ip=ip$version
	one_queue
	rule "$ip" src-ip "$from" action 1
	follows 1 "$ip=$from,$to" udp=7,9
	follows 0 "$ip=$other,$to" udp=7,9
	rule "$ip" src-ip "$from" dst-ip "$to" l4proto 200 action 1
	follows 1 "$ip=$from,$to" protocol=200
	follows 0 "$ip=$from,$to" protocol=201
	for l4 in tcp udp; do
		rule $l4"$version" src-ip "$from" dst-ip "$to" src-port 7 dst-port 9 action 1
		follows 1 "$ip=$from,$to" $l4=7,9
		follows 0 "$ip=$from,$to" $l4=7,8
		follows 0 "$ip=$from,$to" $l4=9,9
		follows 0 "$ip=$other,$to" $l4=7,9
		rule $l4"$version" dst-port 0x0900 m 0x00ff action 1
		follows 1 "$ip=$from,$to" $l4=7,2311
		follows 0 "$ip=$from,$to" $l4=7,2560
		rule $l4"$version" dst-port 9 vlan 5 m 0xf000 dst-mac "$(mac_of "$NETGPU_DEV")" action 1
		follows 1 vlan=5 "$ip=$from,$to" $l4=7,9
		follows 0 "$ip=$from,$to" $l4=7,9
		rule $l4"$version" dst-port 9 action -1
		ignored rx_packets_phy "$(ours)" "$ip=$from,$to" $l4=7,9
		follows 0 "$ip=$from,$to" $l4=7,8
	done
}

# Of several rules the one that says most wins; deleted ones leave nothing.
rules_together() {
	one_queue
	rule udp4 dst-port 9 action 1
	ethtool -N "$NETGPU_DEV" flow-type udp4 src-port 7 dst-port 9 action 0 loc 6 >/dev/null
	follows 1 ip4=10.9.0.2,10.9.0.1 udp=8,9
	follows 0 ip4=10.9.0.2,10.9.0.1 udp=7,9
	ethtool -N "$NETGPU_DEV" delete 6
	follows 1 ip4=10.9.0.2,10.9.0.1 udp=7,9
	ethtool -N "$NETGPU_DEV" delete 5
	follows 0 ip4=10.9.0.2,10.9.0.1 udp=7,9
}

# A second way to spread, for what a rule sends there.
rss_context() {
	local context
	one_queue
	context=$(ethtool -X "$NETGPU_DEV" context new start 1 equal 1 | sed -n 's/^New RSS context is //p')
	defer ethtool -X "$NETGPU_DEV" context "$context" delete
	ethtool -N "$NETGPU_DEV" flow-type tcp4 dst-port 9 context "$context" loc 5 >/dev/null
	defer ethtool -N "$NETGPU_DEV" delete 5
	follows 1 ip4=10.9.0.2,10.9.0.1 tcp=7,9
	follows 0 ip4=10.9.0.2,10.9.0.1 tcp=7,8
	ethtool -X "$NETGPU_DEV" context "$context" equal 1
	follows 0 ip4=10.9.0.2,10.9.0.1 tcp=7,9
}

# spread WHAT...: how many of so many flows come in queue 1.
spread() {
	local before all
	before=$(received 1)
	all=$(received -)
	send "$(ours)" spread=$frames "$@"
	until_true 10 have_come - "$all"
	echo $(($(received 1) - before))
}

spreads() {
	local ones
	ones=$(spread "$@")
	[ "$ones" -gt 4 ] && [ "$ones" -lt $((frames - 4)) ] || fail "$ones of $frames flows in queue 1: $*"
}

stays() {
	local ones
	ones=$(spread "$@")
	[ "$ones" -lt 4 ] || [ "$ones" -ge $frames ] || fail "$ones of $frames flows in queue 1: $*"
}

rss_spreads() {
	local flow key
	ethtool -L "$NETGPU_DEV" combined 2
	ethtool -X "$NETGPU_DEV" default
	# The driver's is a random one, and one in 64 of those keeps flows together that differ in so few bits.
	key=6d:5a:56:da:25:5b:0e:c2:41:67:25:3d:43:a3:8f:b0:d0:ca:2b:cb:ae:7b:30:b4:77:cb:2d:a3:80:30:f2:0c:6a:42:b7:3b:be:ac:01:fa
	defer ethtool -X "$NETGPU_DEV" hkey "$(ethtool -x "$NETGPU_DEV" | sed -n '/^RSS hash key/{n;p}')"
	ethtool -X "$NETGPU_DEV" hkey $key
	for flow in 'ip4=10.9.0.2,10.9.0.1 udp' 'ip6=fd09::2,fd09::1 tcp'; do
		spreads ${flow%% *} ${flow##* }=1000,9
	done
	# Nothing is left of the flow in a hash of zeros.
	ethtool -X "$NETGPU_DEV" hkey "$(echo "$key" | sed 's/[0-9a-f]/0/g')"
	stays ip4=10.9.0.2,10.9.0.1 udp=1000,9
	ethtool -X "$NETGPU_DEV" hkey "$key"
	spreads ip4=10.9.0.2,10.9.0.1 udp=1000,9
	# Without ports.
	ethtool -N "$NETGPU_DEV" rx-flow-hash udp4 sd
	defer ethtool -N "$NETGPU_DEV" rx-flow-hash udp4 sdfn
	stays ip4=10.9.0.2,10.9.0.1 udp=1000,9
	spreads ip4=10.9.0.2,10.9.0.1 tcp=1000,9
	ethtool -N "$NETGPU_DEV" rx-flow-hash udp4 sdfn
	# The other function.
	ethtool -X "$NETGPU_DEV" hfunc xor
	defer ethtool -X "$NETGPU_DEV" hfunc toeplitz
	spreads ip4=10.9.0.2,10.9.0.1 udp=1000,9
}

# What a thread receives comes, in the end, in the queue of its processor.
rfs_follows() {
	local before queue
	ethtool -L "$NETGPU_DEV" combined 2
	ethtool -K "$NETGPU_DEV" ntuple on
	defer ethtool -K "$NETGPU_DEV" ntuple off
	echo 4096 >/proc/sys/net/core/rps_sock_flow_entries
	defer sh -c 'echo 0 >/proc/sys/net/core/rps_sock_flow_entries'
	for queue in 0 1; do
		echo 2048 >"/sys/class/net/$NETGPU_DEV/queues/rx-$queue/rps_flow_cnt"
	done
	before=$(nic_counter rx_arfs_add)
	taskset 2 iperf3 --server --one-off >"$ktap_tmp/server" 2>&1 &
	defer quietly kill $!
	until_true 10 server_listens
	in_peer iperf3 --client "$NETGPU_ADDR4" --time 2 --parallel 4 >"$ktap_tmp/iperf" 2>&1 || fail "$(cat "$ktap_tmp/iperf")"
	[ "$(nic_counter rx_arfs_add)" -gt "$before" ] || fail "the driver has added no rule"
	[ "$(nic_counter rx_arfs_err)" = 0 ] || fail "the card has refused a rule"
	check_log
}

plan 18
nic_up
run broadcast
run foreign_unicast
run more_unicast
run changed_address
run multicast
run vlan_is_filtered vlan 802.1q
run vlan_is_filtered svlan 802.1ad
run vlan_offloads
run vlan_segmentation 802.1q
run vlan_segmentation 802.1ad
run rules_ether
run rules_ip 4 10.9.0.2 10.9.0.1 10.9.0.3
run rules_ip 6 fd09::2 fd09::1 fd09::3
run rules_together
run rss_context
run rss_spreads
run rfs_follows
run check_log
finish
