#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The life of a ConnectX: its link, its counters, what ethtool and devlink ask and set, and its coming and going in mid-traffic.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

peer_carrier() {
	[ "$(in_peer cat "/sys/class/net/$NETGPU_PEER_DEV/carrier" 2>/dev/null)" = "$1" ]
}

no_carrier() {
	! nic_carrier
}

server_listens() {
	[ -n "$(ss -Htln 'sport = :5201')" ]
}

server() {
	iperf3 --server "$@" >"$ktap_tmp/server" 2>&1 &
	defer quietly kill $!
	until_true 10 server_listens
}

connected() {
	nic_carrier && nic_ping
}

# --- Link ---

link_of_both_ends() {
	local before
	before=$(nic_counter link_down_events_phy)
	ip link set "$NETGPU_DEV" down
	until_true 10 peer_carrier 0
	nic_configure
	until_true 10 peer_carrier 1
	in_peer ip link set "$NETGPU_PEER_DEV" down
	until_true 10 no_carrier
	in_peer ip link set "$NETGPU_PEER_DEV" up
	in_peer ip -6 address replace "$NETGPU_PEER_ADDR6/64" dev "$NETGPU_PEER_DEV" nodad
	until_true 10 connected
	[ "$(nic_counter link_down_events_phy)" = $((before + 2)) ] || fail "link_down_events_phy: $(nic_counter link_down_events_phy), not $((before + 2))"
}

plugs() {
	connectx '{"do":"plug","port":0,"on":false}'
	defer connectx '{"do":"plug","port":0,"on":true}'
	until_true 10 no_carrier
	until_true 10 peer_carrier 0
	! ethtool -m "$NETGPU_DEV" >"$ktap_tmp/eeprom" 2>&1 || fail "an EEPROM without a plug: $(cat "$ktap_tmp/eeprom")"
	[ "$(nic_counter module_unplug)" = 1 ] || fail "module_unplug: $(nic_counter module_unplug)"
	connectx '{"do":"plug","port":0,"on":true}'
	until_true 10 connected
}

speed_is() {
	ethtool "$NETGPU_DEV" | grep -q "Speed: $1Mb/s" && in_peer ethtool "$NETGPU_PEER_DEV" | grep -q "Speed: $1Mb/s"
}

speeds() {
	local speed
	until_true 10 speed_is 100000
	ethtool "$NETGPU_DEV" >"$ktap_tmp/link"
	for speed in 25000baseCR/Full 'Auto-negotiation: on' 'Port: Direct Attach Copper' 'FEC modes: RS' 'Link detected: yes'; do
		grep -q "$speed" "$ktap_tmp/link" || fail "no $speed in: $(cat "$ktap_tmp/link")"
	done
	for speed in 25000 10000 40000; do
		ethtool -s "$NETGPU_DEV" speed $speed autoneg off
		until_true 10 speed_is $speed
		until_true 10 nic_ping
	done
	# The other end wants what this one does not.
	in_peer ethtool -s "$NETGPU_PEER_DEV" speed 100000 autoneg off
	until_true 10 no_carrier
	ethtool -s "$NETGPU_DEV" autoneg on
	in_peer ethtool -s "$NETGPU_PEER_DEV" autoneg on
	until_true 10 speed_is 100000
	until_true 10 connected
}

fec_is() {
	ethtool --show-fec "$NETGPU_DEV" | grep -q "Active FEC encoding: $1" && in_peer ethtool --show-fec "$NETGPU_PEER_DEV" | grep -q "Active FEC encoding: $1"
}

error_correction() {
	until_true 10 fec_is RS
	ethtool --set-fec "$NETGPU_DEV" encoding off
	until_true 10 fec_is Off
	until_true 10 connected
	# Ends that do not agree at this speed find another one, which has no such choice.
	in_peer ethtool --set-fec "$NETGPU_PEER_DEV" encoding rs
	until_true 10 speed_is 40000
	ethtool --set-fec "$NETGPU_DEV" encoding auto
	in_peer ethtool --set-fec "$NETGPU_PEER_DEV" encoding auto
	until_true 10 fec_is RS
	until_true 10 connected
}

pause_frames() {
	ethtool -a "$NETGPU_DEV" | tr -s '\t ' ' ' >"$ktap_tmp/pause"
	grep -q 'RX: on' "$ktap_tmp/pause" && grep -q 'TX: on' "$ktap_tmp/pause" || fail "$(cat "$ktap_tmp/pause")"
	ethtool -A "$NETGPU_DEV" rx off tx off
	ethtool -a "$NETGPU_DEV" | tr -s '\t ' ' ' >"$ktap_tmp/pause"
	grep -q 'RX: off' "$ktap_tmp/pause" && grep -q 'TX: off' "$ktap_tmp/pause" || fail "$(cat "$ktap_tmp/pause")"
	ethtool -A "$NETGPU_DEV" rx on tx on
	ethtool -I -a "$NETGPU_DEV" | grep -q tx_pause_frames || fail "no counters"
}

# --- Counters ---

# snapshot WHEN: all counters of both ends, when nothing moves.
snapshot() {
	local moved='' still
	while
		ethtool -S "$NETGPU_DEV" >"$ktap_tmp/here.$1"
		in_peer ethtool -S "$NETGPU_PEER_DEV" >"$ktap_tmp/there.$1"
		still=$(sed -n '/_packets_phy:/p' "$ktap_tmp/here.$1" "$ktap_tmp/there.$1")
		[ "$moved" != "$still" ]
	do
		moved=$still
	done
}

# sum FILE NAMES...: of several counters.
sum() {
	local file="$ktap_tmp/$1" name
	shift
	for name in "$@"; do
		awk -v name="$name:" '$1 == name { print $2; found = 1 } END { if (!found) print "no " name >"/dev/stderr" }' "$file"
	done | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}

# grown here|there NAMES...: by how much they have, together.
grown() {
	local end="$1"
	shift
	echo $(($(sum "$end.after" "$@") - $(sum "$end.before" "$@")))
}

same() {
	[ "$2" = "$3" ] || fail "$1: $2 and $3"
}

counters_add_up() {
	local kind sizes size frames
	snapshot before
	server
	both_ways "$NETGPU_ADDR4" --time 1
	for size in 10 100 200 400 900 1400; do
		in_peer ping -q -c 2 -i 0.01 -s $size "$NETGPU_ADDR4" >/dev/null
	done
	in_peer ping -q -c 3 -i 0.01 -W 0.1 -b 10.9.0.255 >/dev/null 2>&1 || true
	in_peer ping -q -c 3 -i 0.01 -W 0.1 -I "$NETGPU_PEER_DEV" ff02::77 >/dev/null 2>&1 || true
	snapshot after
	for kind in packets bytes multicast broadcast; do
		[ "$(grown there tx_${kind}_phy)" -gt 0 ] || fail "no $kind were sent"
		same "$kind, sent here and received there" "$(grown here tx_${kind}_phy)" "$(grown there rx_${kind}_phy)"
		same "$kind, sent there and received here" "$(grown there tx_${kind}_phy)" "$(grown here rx_${kind}_phy)"
	done
	frames=$(grown here rx_packets_phy)
	sizes=$(sed -n 's/^ *\(rx_[0-9].*bytes_phy\):.*/\1/p' "$ktap_tmp/here.after")
	# shellcheck disable=SC2086 # names of counters
	same "sizes and packets" "$(grown here $sizes)" "$frames"
	same "priorities and packets" "$(grown here rx_prio0_packets)" "$frames"
	same "virtual and physical port" \
		"$(grown here rx_vport_unicast_packets rx_vport_multicast_packets rx_vport_broadcast_packets)" "$frames"
	same "bytes of the virtual and the physical port" \
		"$(grown here rx_vport_unicast_bytes rx_vport_multicast_bytes rx_vport_broadcast_bytes)" \
		$(($(grown here rx_bytes_phy) - 4 * frames))
	same "the driver's packets, and those that it did not get" \
		"$(grown here rx_packets rx_out_of_buffer rx_if_down_packets rx_steer_missed_packets rx_oversize_pkts_buffer)" "$frames"
	[ "$(grown here rx_steer_missed_packets)" -ge 3 ] || fail "nobody listens to ff02::77, yet it came"
}

groups_of_counters() {
	local group
	for group in eth-phy eth-mac eth-ctrl rmon; do
		ethtool -S "$NETGPU_DEV" --groups $group >"$ktap_tmp/group" || fail "$group"
		[ "$(wc -l <"$ktap_tmp/group")" -gt 1 ] || fail "$group is empty"
	done
	ethtool -S "$NETGPU_DEV" --groups eth-mac | grep -q 'FramesReceivedOK: [1-9]' || fail "no frames"
	ethtool -I --show-fec "$NETGPU_DEV" | grep -q corrected_blocks || fail "no counters of error correction"
	ip -s -s link show "$NETGPU_DEV" >/dev/null
}

# --- What ethtool asks and sets ---

# tells PATTERN COMMAND...
tells() {
	local pattern="$1"
	shift
	"$@" >"$ktap_tmp/told" 2>&1 || fail "$*: $(cat "$ktap_tmp/told")"
	grep -Eq "$pattern" "$ktap_tmp/told" || fail "$*: no $pattern in: $(cat "$ktap_tmp/told")"
}

ethtool_asks() {
	tells 'driver: mlx5_core' ethtool -i "$NETGPU_DEV"
	tells 'firmware-version: 16\.35\.4030 \(NGP0000000005\)' ethtool -i "$NETGPU_DEV"
	tells 'software-receive' ethtool -T "$NETGPU_DEV"
	tells 'Adaptive RX: on' ethtool -c "$NETGPU_DEV"
	tells 'rx_striding_rq' ethtool --show-priv-flags "$NETGPU_DEV"
	tells 'Vendor name +: netgpu' ethtool -m "$NETGPU_DEV"
	tells '100GBASE-CR4|100G Base-CR4|100G' ethtool -m "$NETGPU_DEV"
	tells 'Combined:[[:space:]]+2' ethtool -l "$NETGPU_DEV"
	tells 'maxmtu 9978' ip -d link show "$NETGPU_DEV"
	tells 'serial_number|driver mlx5_core' devlink dev info
	check_log
}

receives_datagrams() {
	[ -n "$(ss -Hlun 'sport = :7000')" ]
}

# The driver starts the clocks of both ports with the time of day.
time_stamps() {
	local receiver received sent now
	tells 'hardware-transmit' ethtool -T "$NETGPU_DEV"
	tells 'hardware-receive' ethtool -T "$NETGPU_DEV"
	tells 'hardware-raw-clock' ethtool -T "$NETGPU_DEV"
	./stamp receive "$NETGPU_DEV" "$NETGPU_ADDR4" 7000 >"$ktap_tmp/received" 2>&1 &
	receiver=$!
	defer quietly kill $receiver
	until_true 10 receives_datagrams
	sent=$(in_peer ./stamp send "$NETGPU_PEER_DEV" "$NETGPU_ADDR4" 7000 2>&1) || fail "$sent"
	wait $receiver || fail "$(cat "$ktap_tmp/received")"
	received=$(cat "$ktap_tmp/received")
	now=$(date +%s)
	note "sent at $sent, received at $received, now $now"
	[ $((received / 1000000000)) -ge $((now - 5)) ] && [ $((received / 1000000000)) -le $((now + 5)) ] || fail "not the time of day"
	[ $((received - sent)) -gt -1000000000 ] && [ $((received - sent)) -lt 1000000000 ] || fail "the clocks are more than a second apart"
	check_log
}

# The chip has one, and a copper cable has none.
thermometer() {
	local sensors
	sensors=$(echo /sys/class/net/"$NETGPU_DEV"/device/hwmon/hwmon*)
	tells '^mlx5$' cat "$sensors/name"
	tells '^asic$' cat "$sensors/temp1_label"
	tells '^45000$' cat "$sensors/temp1_input"
	tells '^105000$' cat "$sensors/temp1_crit"
	echo 1 >"$sensors/temp1_reset_history"
	tells '^45000$' cat "$sensors/temp1_highest"
	[ ! -e "$sensors/temp2_input" ] || fail "a second thermometer"
	check_log
}

# In microseconds.
fastest_ping() {
	in_peer ping -q -c 30 -i 0.02 "$NETGPU_ADDR4" | awk -F '[ /]' '/^rtt/ { print int($7 * 1000) }'
}

coalescing() {
	ethtool -C "$NETGPU_DEV" adaptive-rx off adaptive-tx off rx-usecs 16 rx-frames 32 tx-usecs 8 tx-frames 16
	tells 'rx-usecs:.*16' ethtool -c "$NETGPU_DEV"
	nic_ping
	# A request that comes alone is not told of before its time is over.
	ethtool -C "$NETGPU_DEV" cqe-mode-rx on rx-usecs 4000
	[ "$(fastest_ping)" -ge 4000 ] || fail "a ping took $(fastest_ping) us"
	ethtool -C "$NETGPU_DEV" rx-usecs 0
	[ "$(fastest_ping)" -lt 4000 ] || fail "the fastest ping took $(fastest_ping) us"
	ethtool -C "$NETGPU_DEV" adaptive-rx on adaptive-tx on
	tells 'Adaptive RX: on +TX: on' ethtool -c "$NETGPU_DEV"
	nic_ping
}

private_flags() {
	local before
	ethtool --set-priv-flags "$NETGPU_DEV" rx_no_csum_complete on
	defer ethtool --set-priv-flags "$NETGPU_DEV" rx_no_csum_complete off
	until_true 10 nic_ping
	# Then the card's word about the transport checksum is taken instead of its sum.
	before=$(nic_counter rx_csum_unnecessary)
	server --one-off
	in_peer iperf3 --client "$NETGPU_ADDR4" --time 1 >"$ktap_tmp/iperf" 2>&1 || fail "$(cat "$ktap_tmp/iperf")"
	[ "$(nic_counter rx_csum_unnecessary)" -gt "$before" ] || fail "no checksum was unnecessary"
}

self_test() {
	tells 'test result is PASS' ethtool -t "$NETGPU_DEV"
	until_true 10 connected
}

identifies_itself() {
	ethtool -p "$NETGPU_DEV" 1
}

rings() {
	local size
	defer ethtool -G "$NETGPU_DEV" rx 1024 tx 1024
	for size in 8192 128; do
		ethtool -G "$NETGPU_DEV" rx $size tx $size
		until_true 10 nic_ping
		server
		both_ways "$NETGPU_ADDR4" --time 1
	done
}

# A port does not take frames that are longer than its own MTU, and says so.
largest_mtu() {
	local before
	nic_mtu 9978
	defer nic_mtu 1500
	in_peer ping -q -c 3 -i 0.05 -W 2 -M 'do' -s 9950 "$NETGPU_ADDR4" >"$ktap_tmp/ping" || fail "$(cat "$ktap_tmp/ping")"
	! ip link set "$NETGPU_DEV" mtu 9979 2>/dev/null || fail "an MTU of 9979"
	ip link set "$NETGPU_DEV" mtu 1500
	before=$(nic_counter rx_oversize_pkts_phy)
	! in_peer ping -q -c 3 -i 0.05 -W 0.2 -M 'do' -s 4000 "$NETGPU_ADDR4" >/dev/null || fail "a frame larger than the MTU came through"
	[ "$(nic_counter rx_oversize_pkts_phy)" = $((before + 3)) ] || fail "rx_oversize_pkts_phy does not count them"
}

keeps_the_fcs() {
	ethtool -K "$NETGPU_DEV" rx-fcs on
	defer ethtool -K "$NETGPU_DEV" rx-fcs off
	until_true 10 nic_ping
	server
	both_ways "$NETGPU_ADDR4" --time 1
	check_log
}

# Segments of more than 64 KiB; Linux marks their IPv6 packets as jumbograms, which the card must not send.
big_tcp() {
	local most
	most=$(ip -d link show "$NETGPU_DEV" | sed -n 's/.* tso_max_size \([0-9]*\).*/\1/p')
	[ "$most" -gt 65536 ] || fail "tso_max_size $most"
	[ "$most" -lt 300000 ] || most=300000
	ip link set "$NETGPU_DEV" gso_max_size "$most" gso_ipv4_max_size "$most"
	defer ip link set "$NETGPU_DEV" gso_max_size 65536 gso_ipv4_max_size 65536
	in_peer iperf3 --server --one-off >"$ktap_tmp/server" 2>&1 &
	defer quietly kill $!
	until_true 10 server_of_peer
	iperf3 --client "$1" --time 1 --length 1M >"$ktap_tmp/iperf" 2>&1 || fail "$(cat "$ktap_tmp/iperf")"
	check_log
}

server_of_peer() {
	[ -n "$(in_peer ss -Htln 'sport = :5201')" ]
}

# --- Coming and going ---

health() {
	local reporter
	for reporter in fw fw_fatal; do
		tells 'state healthy' devlink health show "pci/$(nic_pci)" reporter $reporter
	done
	devlink health diagnose "pci/$(nic_pci)" reporter fw >/dev/null
	for reporter in rx tx; do
		tells "reporter $reporter" devlink health
	done
	check_log
}

# The device is ours again, with nothing of its settings.
returned() {
	until_true 30 nic_is_there
	nic_configure
	check_log
}

devlink_reloads() {
	nic_traffic
	devlink dev reload "pci/$(nic_pci)" action driver_reinit >/dev/null
	returned
}

unbound_and_bound() {
	local name
	name=$(nic_pci)
	nic_traffic
	echo "$name" >/sys/bus/pci/drivers/mlx5_core/unbind
	until_true 10 peer_carrier 0
	echo "$name" >/sys/bus/pci/drivers/mlx5_core/bind
	returned
}

removed_and_found() {
	local path
	path=$(readlink -f "/sys/class/net/$NETGPU_DEV/device")
	nic_traffic
	echo 1 >"$path/remove"
	until_true 10 peer_carrier 0
	[ ! -e "$path" ] || fail "it is still there"
	echo 1 >/sys/bus/pci/rescan
	returned
}

# A function without driver is reset, and works. QEMU leaves the guest no other way than this: that of D3hot it takes away.
function_resets() {
	local name path
	name=$(nic_pci)
	path=/sys/bus/pci/devices/$name
	echo "$name" >/sys/bus/pci/drivers/mlx5_core/unbind
	echo flr >"$path/reset_method"
	echo 1 >"$path/reset"
	echo "$name" >/sys/bus/pci/drivers/mlx5_core/bind
	returned
}

firmware_asserts() {
	nic_traffic
	connectx '{"do":"assert","port":0,"syndrome":1}'
	until_true 60 recovered
	returned
}

recovered() {
	dmesg | grep -q "$(nic_pci): .*health recovery succeeded"
}

plan 26
nic_up
run link_of_both_ends
run plugs
run speeds
run error_correction
run pause_frames
run counters_add_up
run groups_of_counters
run ethtool_asks
run time_stamps
run thermometer
run coalescing
run private_flags
run self_test
run identifies_itself
run rings
run largest_mtu
run keeps_the_fcs
run big_tcp "$NETGPU_PEER_ADDR4"
run big_tcp "$NETGPU_PEER_ADDR6"
run health
run devlink_reloads
run unbound_and_bound
run removed_and_found
run function_resets
run firmware_asserts
run check_log
finish
