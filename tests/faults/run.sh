#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# A cable and ports on which things go wrong: streams arrive bit-exact all the same, and Linux's own driver recovers.
# NETGPU_TEST_MIB=5000: how long the streams of all_at_once are; with more than 4096 TCP's sequence numbers begin anew.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

MIB=1048576

# stream_in BYTES COMMAND...: a stream into netgpu; COMMAND runs when it is on its way.
stream_in() {
	local bytes="$1"
	shift
	receiver "$(address ours 4 7001)" --memory 16M
	peer_sender padded "$(address ours 4 7001)" --bytes "$bytes"
	until_true 20 peer_connected
	"$@"
	arrived "$receiver" recv rx "$bytes"
}

# stream_out BYTES COMMAND...: as stream_in, out of netgpu.
stream_out() {
	local bytes="$1"
	shift
	# Through a pipe: there may be no room for so much.
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	plain-peer make "$work/pipe" --bytes "$bytes" &
	peer_receiver "$(address peer 4 7002)"
	sender "$(address peer 4 7002)" "$work/pipe"
	"$@"
	arrived "$sender" send tx "$bytes"
}

# arrived PID recv|send rx|tx BYTES: both ends finish and agree.
arrived() {
	local line
	finished "$1" $((120 + $4 / MIB)) "$work/$2.err"
	finished "$peer" 20 "$work/peer.err"
	line=$(cat "$work/$2.out")
	note "$line"
	equal "bytes" "$(field "$line" "$3")" "$4"
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
}

# impaired WHAT FIELDS: streams of both directions over a cable that is impaired in both, at an MTU of their own.
impaired() {
	local what="$1" fields="$2" before after
	nic_mtu 1500
	before=$(fate "$what")
	defer nic_well
	connectx '{"do":"seed","value":1}'
	impair null "$fields"
	stream_in 8388608 true
	stream_out 8388608 true
	after=$(fate "$what")
	note "$what: $((after - before)) frames"
	[ "$after" -gt "$before" ] || fail "nothing was $what"
}

# A little of everything, for long.
all_at_once() {
	local bytes=$((${NETGPU_TEST_MIB:-64} * MIB))
	nic_mtu 9000
	defer nic_well
	connectx '{"do":"seed","value":2}'
	impair null '"drop":0.0002,"duplicate":0.002,"reorder":0.001,"corrupt":0.0002,"truncate":0.0002,"lie":0.0002'
	stream_in "$bytes" true
	stream_out "$bytes" true
}

# What TCP itself shows: with a limit of 200 Mbit/s it does not go faster, and with 5 ms each way a ping takes 10.
slow_cable() {
	local seconds
	nic_mtu 9000
	defer nic_well
	impair null '"rate-mbit":200'
	stream_in 8388608 true
	# From connecting to the end of everything, as the sender sees it.
	seconds=$(field "$(cat "$work/peer.out")" seconds)
	awk -v seconds="$seconds" 'BEGIN { exit !(8388608 * 8 / seconds <= 200e6) }' ||
		fail "8 MiB in $seconds s are more than 200 Mbit/s"
	impair null '"delay-us":5000'
	in_peer ping -q -c 5 -i 0.2 -W 2 "$NETGPU_ADDR4" >"$ktap_tmp/ping" || fail "$(cat "$ktap_tmp/ping")"
	awk -F/ '/^(rtt|round-trip)/ { exit !($4 >= 10) }' "$ktap_tmp/ping" || fail "$(cat "$ktap_tmp/ping")"
	stream_out 4194304 true
}

link_flaps() {
	local before
	nic_mtu 9000
	defer nic_well
	before=$(cat "/sys/class/net/$NETGPU_DEV/carrier_changes")
	stream_in 67108864 connectx '{"do":"flap","milliseconds":300}'
	stream_out 33554432 connectx '{"do":"flap","milliseconds":300}'
	[ "$(cat "/sys/class/net/$NETGPU_DEV/carrier_changes")" -ge $((before + 4)) ] || fail "the driver saw no flap"
}

starve() {
	connectx '{"do":"starve","port":0,"on":true}'
	sleep 0.3
	connectx '{"do":"starve","port":0,"on":false}'
}

receiver_starves() {
	local before
	nic_mtu 9000
	defer nic_well
	before=$(lost_packets)
	stream_in 67108864 starve
	[ "$(lost_packets)" -gt "$before" ] || fail "rx_out_of_buffer has not counted it"
}

# Error completions on our port: the driver's health reporters mend the queue, and TCP what was lost.
queue_recovers() {
	local what="$1" reporter="$2" before after
	nic_mtu 9000
	before=$(recovered "$reporter")
	if [ "$reporter" = tx ]; then
		stream_out 67108864 connectx "{\"do\":\"$what\",\"port\":0}"
	else
		stream_in 67108864 connectx "{\"do\":\"$what\",\"port\":0}"
	fi
	after=$(recovered "$reporter")
	[ "$after" -gt "$before" ] || fail "the driver's $reporter reporter has recovered nothing"
}

# recovered REPORTER: how often a health reporter of our port has mended something.
recovered() {
	devlink -j health show "$(devlink_port)" reporter "$1" | tr ',{}' '\n\n\n' | sed -n 's/^"recover"://p'
}

devlink_port() {
	devlink port show | awk -v dev="$NETGPU_DEV" '{ for (i = 2; i < NF; i++) if ($i == "netdev" && $(i + 1) == dev) print substr($1, 1, length($1) - 1) }'
}

device_recovered() {
	dmesg | grep -q "$(basename "$(readlink "/sys/class/net/$NETGPU_DEV/device")"): .*health recovery succeeded"
}

# The driver sees the syndrome in its two-second round, resets the firmware and starts over; the interface comes back.
firmware_asserts() {
	nic_mtu 1500
	connectx '{"do":"assert","port":0,"syndrome":1}'
	until_true 60 device_recovered
	# A new network device, without addresses.
	until_true 10 nic_is_there
	nic_configure
	stream_in 8388608 true
	stream_out 8388608 true
}

# A command that the card does not answer: the driver waits, and meanwhile everything else goes on. What asks for the temperature holds
# no lock that others wait for.
command_sticks() {
	local reader
	ethtool -S "$NETGPU_DEV" >/dev/null
	connectx '{"do":"stick-commands","port":0}'
	cat "/sys/class/net/$NETGPU_DEV/device/hwmon/"hwmon*/temp1_input >"$work/temperature" 2>&1 &
	reader=$!
	until_true 10 grep -q '^State:.D' "/proc/$reader/status"
	ethtool -S "$NETGPU_DEV" >/dev/null
	nic_mtu 9000
	nic_mtu 1500
	nic_ping
	grep -q '^State:.D' "/proc/$reader/status" || fail "it was answered: $(cat "$work/temperature")"
	# Before the driver gives it up, after a minute: from then on its mlx5_cmd_flush(), when it goes, waits for ever.
	connectx '{"do":"stick-commands","port":0,"count":0}'
	finished "$reader" 10 "$work/temperature"
	equal "temperature" "$(cat "$work/temperature")" 45000
}

nothing_is_left() {
	until_true 20 module_unload
	nic_ping
	check_log
}

plan 16
nic_up
modprobe netgpu
run impaired dropped '"drop":0.01'
run impaired duplicated '"duplicate":0.05'
run impaired reordered '"reorder":0.02'
run impaired corrupted '"corrupt":0.005'
run impaired truncated '"truncate":0.005'
run impaired lied '"lie":0.01'
run all_at_once
run slow_cable
nic_mtu 1500
program all_behind_a_lost_packet ./lost
run link_flaps
run receiver_starves
run queue_recovers fail-sends tx
run queue_recovers fail-receives rx
run command_sticks
run firmware_asserts
run nothing_is_left
finish
