#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Receiving: an ordinary program on the other machine sends, `netgpu recv` has it in registered memory.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

# Longest and shortest header differ by this much at most, so this much of a segment's payload stays with its header:
# all options that TCP can carry, less the timestamps that every segment has.
slack=28

# stream FAMILY MTU PADDED: 32 MiB, through half of that, exact; nothing copied from a padded sender, the slack from another.
stream() {
	local family="$1" mtu="$2" padded="$3" bytes=33554432 before segments line
	nic_mtu "$mtu"
	receiver "$(address ours "$family" 5001)" --memory 16M
	before=$(peer_segments)
	peer_sender "$padded" "$(address ours "$family" 5001)" --bytes $bytes --seed "$mtu"
	finished "$receiver" 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	segments=$(($(peer_segments) - before))
	line=$(cat "$work/recv.out")
	note "$line; $segments segments"
	equal "bytes" "$(field "$line" rx)" $bytes
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
	equal "zero-copy and copied together" "$(($(field "$line" zero-copy) + $(field "$line" copied)))" $bytes
	if [ "$padded" = padded ]; then
		equal "copied" "$(field "$line" copied)" 0
	else
		at_most "copied" "$(field "$line" copied)" $((slack * segments))
	fi
}

# A stream of 128 MiB through a region of 4 MiB: every buffer is used some thirty times.
larger_than_the_region() {
	local bytes=134217728 line
	nic_mtu 9000
	receiver "$(address ours 4 5002)" --memory 4M
	peer_sender padded "$(address ours 4 5002)" --bytes $bytes
	finished "$receiver" 120 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	line=$(cat "$work/recv.out")
	note "$line"
	equal "bytes" "$(field "$line" rx)" $bytes
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
	equal "copied" "$(field "$line" copied)" 0
}

# The smallest memory that makes sense, and a file as the output.
into_a_file() {
	local bytes=8388608
	nic_mtu 1500
	# There is a longer one.
	head -c 9000000 /dev/zero >"$work/file"
	receiver "$(address ours 4 5003)" --memory 1M --output "$work/file"
	peer_sender plain "$(address ours 4 5003)" --bytes $bytes
	finished "$receiver" 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	equal "sha256 of the file" "$(sha256sum <"$work/file" | cut -d' ' -f1)" "$(field "$(cat "$work/peer.out")" sha256)"
	rm "$work/file"
}

# Short streams, and none at all.
short() {
	local bytes="$1" line
	receiver "$(address ours 4 5004)"
	peer_sender plain "$(address ours 4 5004)" --bytes "$bytes"
	finished "$receiver" 20 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	line=$(cat "$work/recv.out")
	equal "bytes" "$(field "$line" rx)" "$bytes"
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
}

# A reader that does not read: the TCP window closes, the sender waits, no packet is lost for want of buffers; then it
# reads, and everything is there.
slow_reader() {
	local family="$1" bytes=67108864 lost reader
	nic_mtu 1500
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	# Both ends at once: opening one alone would wait for the other.
	exec 9<>"$work/pipe"
	receiver "$(address ours "$family" 5005)" --memory 8M --output "$work/pipe"
	lost=$(lost_packets)
	peer_sender plain "$(address ours "$family" 5005)" --bytes $bytes
	until_true 20 peer_connected
	stalls peer_acked
	note "the sender waits after $stalled_at bytes"
	# What the region and the pipe hold, generously.
	at_most "bytes before the sender waits" "$stalled_at" 12582912
	equal "packets without a buffer" "$(lost_packets)" "$lost"
	drain sha256sum >"$work/sum"
	finished "$receiver" 120 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	finished "$reader" 20 "$work/sum"
	equal "sha256" "$(cut -d' ' -f1 "$work/sum")" "$(field "$(cat "$work/peer.out")" sha256)"
}

# The same many times over a few milliseconds each.
hesitant_reader() {
	local bytes=16777216 reader
	nic_mtu 9000
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	(
		while dd bs=256k count=1 iflag=fullblock 2>"$work/dd" && read -r records _ <"$work/dd" && [ "$records" != 0+0 ]; do sleep 0.01; done
	) <"$work/pipe" >"$work/copy" &
	reader=$!
	defer reap "$reader"
	defer rm -f "$work/copy"
	receiver "$(address ours 4 5006)" --memory 2M --output "$work/pipe"
	peer_sender padded "$(address ours 4 5006)" --bytes $bytes
	finished "$receiver" 120 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	finished "$reader" 20 "$work/dd"
	equal "sha256" "$(sha256sum <"$work/copy" | cut -d' ' -f1)" "$(field "$(cat "$work/peer.out")" sha256)"
}

# With packets dropped on the way, which come again and out of order.
lossy_cable() {
	local bytes=16777216 line
	nic_mtu 1500
	in_peer tc qdisc add dev "$NETGPU_PEER_DEV" root netem loss 1% reorder 5% delay 1ms ||
		skip "no netem in this kernel"
	defer ip netns exec peer tc qdisc del dev "$NETGPU_PEER_DEV" root
	receiver "$(address ours 4 5007)" --memory 8M
	peer_sender plain "$(address ours 4 5007)" --bytes $bytes
	finished "$receiver" 120 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	line=$(cat "$work/recv.out")
	note "$line"
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
}

# A second queue for a second program, at the same time.
two_receivers() {
	local bytes=33554432 first first_peer
	[ "$(nic_queues)" -ge 3 ] || skip "it takes three receive queues, the port has $(nic_queues)"
	receiver "$(address ours 4 5008)" --queue 1
	first=$receiver
	mv "$work/recv.out" "$work/first.out"
	peer_sender padded "$(address ours 4 5008)" --bytes $bytes --seed 8
	first_peer=$peer
	# It has opened the file that is given to the next one.
	until_true 20 peer_connected
	mv "$work/peer.out" "$work/first_peer.out"
	receiver "$(address ours 4 5009)" --queue 2
	peer_sender padded "$(address ours 4 5009)" --bytes $bytes --seed 9
	finished "$first" 60 "$work/recv.err"
	finished "$receiver" 60 "$work/recv.err"
	finished "$first_peer" 10 "$work/peer.err"
	finished "$peer" 10 "$work/peer.err"
	equal "sha256 of the first" "$(field "$(cat "$work/first.out")" sha256)" "$(field "$(cat "$work/first_peer.out")" sha256)"
	equal "sha256 of the second" "$(field "$(cat "$work/recv.out")" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
	equal "copied by the first" "$(field "$(cat "$work/first.out")" copied)" 0
	equal "copied by the second" "$(field "$(cat "$work/recv.out")" copied)" 0
}

# What `netgpu recv` changes on the device is put back, however it ends short of SIGKILL.
put_back() {
	local how="$1" before rc=0
	before=$(nic_settings)
	receiver "$(address ours 4 5010)"
	[ "$before" != "$(nic_settings)" ] || fail "nothing was changed: this test cannot tell"
	case $how in
	end)
		peer_sender plain "$(address ours 4 5010)" --bytes 1000000
		finished "$receiver" 20 "$work/recv.err"
		;;
	waiting)
		kill -INT "$receiver"
		;;
	*)
		peer_sender plain "$(address ours 4 5010)" --bytes 10000000000
		until_true 20 peer_connected
		kill "-$how" "$receiver"
		;;
	esac
	until_true 10 gone "$receiver"
	[ "$how" = end ] || wait "$receiver" || rc=$?
	case $how in
	waiting | INT) equal "exit status" "$rc" 130 ;;
	TERM) equal "exit status" "$rc" 143 ;;
	esac
	nic_settings >"$work/after"
	echo "$before" | diff - "$work/after" >"$work/diff" || {
		sed 's/^/# /' "$work/diff"
		fail "the above was not put back"
	}
	nic_ping
}

# Of two receivers the last to end puts the device back, and the other takes nothing from it.
put_back_by_the_last() {
	local before first second port
	[ "$(nic_queues)" -ge 3 ] || skip "it takes three receive queues, the port has $(nic_queues)"
	before=$(nic_settings)
	receiver "$(address ours 4 5012)" --queue 1
	first=$receiver
	receiver "$(address ours 4 5013)" --queue 2
	second=$receiver
	netgpu recv --dev "$NETGPU_DEV" --queue 2 --listen 5014 2>"$work/recv.err" && fail "two receivers on one queue"
	grep -q "queue 2 of $NETGPU_DEV is in use" "$work/recv.err" || fail "no reason given: $(cat "$work/recv.err")"
	if [ "$1" = second ]; then
		second=$first
		first=$receiver
	fi
	kill -INT "$first"
	until_true 10 gone "$first"
	receiver=$second
	[ "$1" = second ] && port=5012 || port=5013
	peer_sender padded "$(address ours 4 $port)" --bytes 1000000
	until_true 20 gone "$second"
	equal "settings" "$(nic_settings)" "$before"
}

# A port goes to one receiver: another one is refused, whichever queue and address it asks for, and takes nothing from the first.
port_in_use() {
	local bytes=33554432 before during queue address reader
	[ "$(nic_queues)" -ge 3 ] || skip "it takes three receive queues, the port has $(nic_queues)"
	before=$(nic_settings)
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	exec 9<>"$work/pipe"
	receiver "$(address ours 4 5019)" --queue 1 --memory 4M --output "$work/pipe"
	peer_sender plain "$(address ours 4 5019)" --bytes $bytes
	until_true 20 peer_connected
	during=$(nic_settings)
	for queue in 2 1; do
		for address in 5019 "$(address ours 4 5019)"; do
			# It would listen, and wait.
			timeout 10 netgpu recv --dev "$NETGPU_DEV" --queue $queue --listen "$address" 2>"$work/second.err" &&
				fail "two receivers of a port"
			grep -q "TCP port 5019 .* receive queue 1 .*; choose another port" "$work/second.err" || fail "$(cat "$work/second.err")"
			equal "settings" "$(nic_settings)" "$during"
		done
	done
	drain sha256sum >"$work/sum"
	finished "$receiver" 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	finished "$reader" 20 "$work/sum"
	equal "sha256" "$(cut -d' ' -f1 "$work/sum")" "$(field "$(cat "$work/peer.out")" sha256)"
	equal "settings" "$(nic_settings)" "$before"
}

# rule_at LOCATION PORT: such a rule of somebody else, to another queue.
rule_at() {
	ethtool -N "$NETGPU_DEV" flow-type tcp4 dst-port "$2" action 0 loc "$1" >/dev/null
}

# A rule that is not ours any more is left alone: another one in its place, and none.
rules_of_others() {
	local location
	receiver 5020
	location=$(ethtool -n "$NETGPU_DEV" | sed -n 's/^Filter: //p')
	ethtool -N "$NETGPU_DEV" delete "$location"
	rule_at "$location" 5021
	defer quietly ethtool -N "$NETGPU_DEV" delete "$location"
	kill -INT "$receiver"
	until_true 10 gone "$receiver"
	ethtool -n "$NETGPU_DEV" | grep -q 'Dest port: 5021' || fail "the rule of somebody else was deleted"
	# Ours takes its place, is deleted, and nothing comes back.
	receiver 5021
	ethtool -n "$NETGPU_DEV" rule "$location" | grep -q "Direct to queue $(($(nic_queues) - 1))" || fail "it was not replaced"
	ethtool -N "$NETGPU_DEV" delete "$location"
	kill -INT "$receiver"
	until_true 10 gone "$receiver"
	! ethtool -n "$NETGPU_DEV" | grep '^Filter:' || fail "the above came back"
}

# What a receiver that was killed has left behind, short of its steering rule.
put_back_after_kill() {
	local before
	before=$(nic_common_settings)
	receiver "$(address ours 4 5015)" --queue 1
	kill -9 "$receiver"
	until_true 10 gone "$receiver"
	[ "$before" != "$(nic_common_settings)" ] || fail "nothing was left behind: this test cannot tell"
	receiver "$(address ours 4 5015)" --queue 1
	kill -INT "$receiver"
	until_true 10 gone "$receiver"
	equal "settings" "$(nic_common_settings)" "$before"
	ethtool -n "$NETGPU_DEV" | awk '/^Filter:/ { print $2 }' | while read -r rule; do
		ethtool -N "$NETGPU_DEV" delete "$rule"
	done
}

# Bad arguments are told, and leave the device alone.
refused() {
	local before rc=0
	before=$(nic_settings)
	netgpu recv --dev lo --listen 5011 2>"$work/recv.err" && fail "netgpu received on lo"
	grep -q . "$work/recv.err" || fail "no reason given"
	netgpu recv --dev nosuch0 --listen 5011 2>"$work/recv.err" && fail "netgpu received on nosuch0"
	grep -q nosuch0 "$work/recv.err" || fail "the message does not name the device"
	netgpu recv --dev "$NETGPU_DEV" --queue 4000 --listen 5011 2>"$work/recv.err" && fail "there is no queue 4000"
	grep -q 4000 "$work/recv.err" || fail "the message does not name the queue"
	echo precious >"$work/file"
	netgpu recv --dev nosuch0 --listen 5011 --output "$work/file" 2>"$work/recv.err" && fail "netgpu received on nosuch0"
	netgpu recv --dev "$NETGPU_DEV" --queue 4000 --listen 5011 --output "$work/file" 2>"$work/recv.err" && fail "there is no queue 4000"
	equal "a file that nothing was received into" "$(cat "$work/file")" precious
	rm "$work/file"
	equal "settings" "$(nic_settings)" "$before"
}

# All is put back, though nobody reads any more what is said about it.
not_listened_to() {
	local before rc=0
	before=$(nic_settings)
	mkfifo "$work/said"
	netgpu -v recv --dev "$NETGPU_DEV" --listen 5017 2>"$work/said" 9>&- &
	receiver=$!
	defer reap "$receiver"
	# Up to the last line before it waits.
	grep -q "listening on" "$work/said"
	rm "$work/said"
	kill -INT "$receiver"
	until_true 20 gone "$receiver"
	wait "$receiver" || rc=$?
	equal "exit status" "$rc" 130
	equal "settings" "$(nic_settings)" "$before"
}

# What came before the connection broke is in the file: what is on the ring, and what TCP still has then.
broken_connection() {
	local rc=0 count stalled_at
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	exec 9<>"$work/pipe"
	receiver "$(address ours 4 5018)" --memory 1M --output "$work/pipe"
	peer_sender plain "$(address ours 4 5018)" --bytes 10000000
	# Nobody reads the pipe.
	until_true 20 peer_connected
	stalls peer_acked
	count=$(($(received) + $(ss -Htn state established "sport = :5018" | awk '{ print $1 }')))
	ss -HK state established "sport = :5018" >/dev/null
	drain cat >"$work/file"
	until_true 20 gone "$receiver"
	wait "$receiver" || rc=$?
	wait "$reader"
	[ "$rc" != 0 ] || fail "it did not see that the connection broke"
	equal "bytes in the file" "$(wc -c <"$work/file")" "$count"
}

# received: bytes that have come to the only region.
received() {
	local line
	line=$(grep -h '^region ' /sys/kernel/debug/netgpu/*)
	echo $(($(field "$line" rx_zerocopy) + $(field "$line" rx_copied)))
}

# Buffers of sizes that there are not.
refused_buffers() {
	local before size
	before=$(nic_settings)
	for size in 0 2K 5000 256K; do
		netgpu recv --dev "$NETGPU_DEV" --listen 5016 --buffer-size $size 2>"$work/recv.err" && fail "there are buffers of $size"
		grep -q '\[4096, 8192, 16384, 32768, 65536, 131072\]' "$work/recv.err" || fail "$(cat "$work/recv.err")"
	done
	equal "settings" "$(nic_settings)" "$before"
}

plan 31
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
for padded in plain padded; do
	for mtu in 1500 9000; do
		run stream 4 $mtu $padded
		run stream 6 $mtu $padded
	done
done
run larger_than_the_region
run into_a_file
run short 1
run short 27
run short 0
run slow_reader 4
run hesitant_reader
run lossy_cable
run two_receivers
run put_back end
run put_back waiting
run put_back INT
run put_back TERM
run put_back_by_the_last first
run put_back_by_the_last second
run port_in_use
run rules_of_others
run put_back_after_kill
run refused
run refused_buffers
run not_listened_to
run broken_connection
run nothing_is_left
finish
