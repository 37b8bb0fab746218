#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Linux's own driver on the software ConnectX, without anything of netgpu: what a NIC has to do.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

port_has_link() {
	[ "$(cat "/sys/class/net/$NETGPU_DEV/operstate")" = up ]
	[ "$(cat "/sys/class/net/$NETGPU_DEV/device/driver/module/drivers/pci:mlx5_core/module/initstate")" = live ]
}

ping_sizes() {
	local mtu="$1" address size
	nic_mtu "$mtu"
	for size in 0 1 1000 $((mtu - 28)); do
		in_peer ping -q -c 3 -i 0.05 -W 2 -M 'do' -s "$size" "$NETGPU_ADDR4" >"$ktap_tmp/ping" || fail "IPv4, $size bytes: $(cat "$ktap_tmp/ping")"
	done
	for size in 0 1 1000 $((mtu - 48)); do
		in_peer ping -q -c 3 -i 0.05 -W 2 -M 'do' -s "$size" "$NETGPU_ADDR6" >"$ktap_tmp/ping" || fail "IPv6, $size bytes: $(cat "$ktap_tmp/ping")"
	done
	! in_peer ping -q -c 1 -W 1 -M 'do' -s "$mtu" "$NETGPU_ADDR4" >/dev/null 2>&1 || fail "a packet larger than the MTU went through"
}

server_listens() {
	[ -n "$(ss -Htln 'sport = :5201')" ]
}

server() {
	iperf3 --server >"$ktap_tmp/server" 2>&1 &
	defer kill $!
	until_true 10 server_listens
}

# iperf ADDRESS ARGS...: leaves what went through in $gigabits.
iperf() {
	local address="$1"
	shift
	in_peer iperf3 --client "$address" --bytes 24M --json "$@" >"$ktap_tmp/iperf" ||
		fail "$(sed -n 's/.*"error"://p' "$ktap_tmp/iperf")"
	gigabits=$(awk '$1 == "\"bits_per_second\":" { rate = $2 } END { printf "%.2f", rate / 1e9 }' "$ktap_tmp/iperf")
}

throughput() {
	local address="$1" mtu="$2"
	shift 2
	nic_mtu "$mtu"
	server
	iperf "$address" "$@"
	note "MTU $mtu $*: $gigabits Gbit/s"
}

# Large sends are cut, and checksums made and checked, by the device: the driver's own counters say so.
offloads_are_used() {
	local segments checksums
	nic_mtu 1500
	segments=$(nic_counter tx_tso_packets)
	checksums=$(nic_counter rx_csum_complete)
	checksums=$((checksums + $(nic_counter rx_csum_unnecessary)))
	server
	both_ways "$NETGPU_ADDR4" --bytes 24M
	[ "$(nic_counter tx_tso_packets)" -gt "$segments" ] || fail "no TSO"
	[ $(($(nic_counter rx_csum_complete) + $(nic_counter rx_csum_unnecessary))) -gt "$checksums" ] || fail "no checksum offload"
}

# Without any offload the same must come out: then Linux makes and checks all of it.
offloads_can_be_off() {
	nic_mtu 1500
	ethtool -K "$NETGPU_DEV" tx off rx off tso off gro off
	defer ethtool -K "$NETGPU_DEV" tx on rx on tso on gro on
	server
	both_ways "$NETGPU_ADDR4" --bytes 24M
	both_ways "$NETGPU_ADDR6" --bytes 24M
}

rx_packets_of() {
	nic_counter "rx$1_packets"
}

rss_spreads() {
	local before0 before1
	ethtool -L "$NETGPU_DEV" combined 2
	until_true 10 nic_ping
	before0=$(rx_packets_of 0)
	before1=$(rx_packets_of 1)
	server
	iperf "$NETGPU_ADDR4" --parallel 16
	[ "$(rx_packets_of 0)" -gt "$before0" ] || fail "nothing came through queue 0"
	[ "$(rx_packets_of 1)" -gt "$before1" ] || fail "nothing came through queue 1"
}

rss_obeys() {
	local before
	ethtool -L "$NETGPU_DEV" combined 2
	ethtool -X "$NETGPU_DEV" equal 1
	defer ethtool -X "$NETGPU_DEV" default
	until_true 10 nic_ping
	before=$(rx_packets_of 1)
	server
	iperf "$NETGPU_ADDR4" --parallel 8
	[ "$(rx_packets_of 1)" = "$before" ] || fail "queue 1 is not in the table, yet it got packets"
}

ntuple_steers() {
	local flow="$1" address="$2" before
	ethtool -L "$NETGPU_DEV" combined 2
	ethtool -X "$NETGPU_DEV" equal 1
	defer ethtool -X "$NETGPU_DEV" default
	ethtool -K "$NETGPU_DEV" ntuple on
	defer ethtool -K "$NETGPU_DEV" ntuple off
	ethtool -N "$NETGPU_DEV" flow-type "$flow" dst-port 5201 action 1 loc 7 >/dev/null
	before=$(rx_packets_of 1)
	nic_ping
	[ "$(rx_packets_of 1)" = "$before" ] || fail "the rule took packets that are not its own"
	server
	iperf "$address"
	[ "$(rx_packets_of 1)" -gt $((before + 100)) ] || fail "the rule took nothing"
	ethtool -N "$NETGPU_DEV" delete 7
	before=$(rx_packets_of 1)
	iperf "$address"
	[ "$(rx_packets_of 1)" = "$before" ] || fail "the rule is gone, yet it works"
}

# Channels, ring sizes and MTU make the driver take its queues down and up.
reconfigured_under_traffic() {
	local client rx
	server
	in_peer iperf3 --client "$NETGPU_ADDR4" --time 6 >"$ktap_tmp/iperf" 2>&1 &
	client=$!
	for rx in 256 2048 1024; do
		ethtool -G "$NETGPU_DEV" rx $rx
		ethtool -L "$NETGPU_DEV" combined 1
		ethtool -L "$NETGPU_DEV" combined 2
		nic_mtu 4000
		nic_mtu 1500
	done
	wait $client || fail "$(cat "$ktap_tmp/iperf")"
	until_true 10 nic_ping
}

down_and_up() {
	local i
	for i in 1 2 3; do
		ip link set "$NETGPU_DEV" down
		nic_configure
	done
}

driver_reloads() {
	local i
	for i in 1 2 3; do
		ip netns del peer
		until_true 20 nic_two_there
		rmmod mlx5_core
		nic_up
	done
	check_log
}

plan 20
nic_up
run port_has_link
for mtu in 1500 9000; do
	run ping_sizes $mtu
	for address in $NETGPU_ADDR4 $NETGPU_ADDR6; do
		run throughput "$address" $mtu
		run throughput "$address" $mtu --reverse
	done
done
run offloads_are_used
run offloads_can_be_off
run rss_spreads
run rss_obeys
run ntuple_steers tcp4 "$NETGPU_ADDR4"
run ntuple_steers tcp6 "$NETGPU_ADDR6"
run reconfigured_under_traffic
run down_and_up
run driver_reloads
finish
