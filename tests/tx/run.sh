#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Sending: `netgpu send` from registered memory, an ordinary program on the other machine receives.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

# check_sent BYTES: both ends agree, and no byte was copied on our side.
check_sent() {
	local line
	line=$(cat "$work/send.out")
	note "$line"
	equal "bytes sent" "$(field "$line" tx)" "$1"
	equal "zero-copy" "$(field "$line" zero-copy)" "$1"
	equal "copied" "$(field "$line" copied)" 0
	equal "bytes received" "$(field "$(cat "$work/peer.out")" received)" "$1"
	equal "sha256" "$(field "$(cat "$work/peer.out")" sha256)" "$(field "$line" sha256)"
}

stream() {
	local family="$1" mtu="$2"
	nic_mtu "$mtu"
	peer_receiver "$(address peer "$family" 6001)"
	sender "$(address peer "$family" 6001)" "$work/32M"
	finished "$sender" 60 "$work/send.err"
	finished "$peer" 10 "$work/peer.err"
	check_sent 33554432
	equal "sha256 of the file" "$sum" "$(field "$(cat "$work/send.out")" sha256)"
}

larger_than_the_region() {
	nic_mtu 9000
	peer_receiver "$(address peer 4 6002)"
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	cat "$work/32M" "$work/32M" "$work/32M" "$work/32M" >"$work/pipe" &
	defer reap $!
	sender "$(address peer 4 6002)" "$work/pipe" --memory 4M
	finished "$sender" 120 "$work/send.err"
	finished "$peer" 10 "$work/peer.err"
	check_sent 134217728
}

short() {
	local bytes="$1"
	head -c "$bytes" "$work/32M" >"$work/short"
	peer_receiver "$(address peer 4 6003)"
	sender "$(address peer 4 6003)" "$work/short" --memory 64K
	finished "$sender" 20 "$work/send.err"
	finished "$peer" 10 "$work/peer.err"
	check_sent "$bytes"
}

sent_bytes() {
	ss -tinH state established | tr ' ' '\n' | sed -n 's/^bytes_acked://p' | sort -n | tail -n 1
}

sending() {
	[ "$(sent_bytes || echo 0)" -gt 0 ] 2>/dev/null
}

# The other machine does not read: the sender waits with its memory, and goes on where it was.
slow_reader() {
	local reader
	nic_mtu 1500
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	exec 9<>"$work/pipe"
	peer_receiver "$(address peer 4 6004)" --output "$work/pipe"
	sender "$(address peer 4 6004)" "$work/32M" --memory 1M
	until_true 20 sending
	stalls sent_bytes
	note "the sender waits after $stalled_at bytes"
	at_most "bytes before it waits" "$stalled_at" 16777216
	drain cat >/dev/null
	finished "$sender" 60 "$work/send.err"
	finished "$peer" 10 "$work/peer.err"
	check_sent 33554432
}

# The other machine reads nothing and has sent something, which the sender does not take: it sleeps while it waits.
sleeps_beside_unread_bytes() {
	local reader before ticks
	nic_mtu 1500
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	ip netns exec peer nc -l -p 6011 <"$work/pipe" >/dev/null &
	reader=$!
	defer reap "$reader"
	exec 9>"$work/pipe"
	until_true 20 peer_listens 6011
	sender "$(address peer 4 6011)" "$work/32M" --memory 1M
	echo here >&9
	until_true 20 sending
	kill -STOP "$reader"
	stalls sent_bytes
	before=$(ticks_of "$sender")
	sleep 1
	ticks=$(($(ticks_of "$sender") - before))
	[ $ticks -lt 25 ] || fail "in a second of waiting it was busy for $ticks hundredths"
	kill -CONT "$reader"
	exec 9>&-
	finished "$sender" 60 "$work/send.err"
	equal "bytes sent" "$(field "$(cat "$work/send.out")" tx)" 33554432
}

peer_listens() {
	in_peer ss -tlnH "sport = :$1" | grep -q .
}

# Time that a process was on a processor, in hundredths of a second.
ticks_of() {
	awk '{ print $14 + $15 }' "/proc/$1/stat"
}

lossy_cable() {
	nic_mtu 1500
	tc qdisc add dev "$NETGPU_DEV" root netem loss 1% reorder 5% delay 1ms || skip "no netem in this kernel"
	defer tc qdisc del dev "$NETGPU_DEV" root
	head -c 16777216 "$work/32M" >"$work/short"
	peer_receiver "$(address peer 4 6005)"
	sender "$(address peer 4 6005)" "$work/short" --memory 4M
	finished "$sender" 120 "$work/send.err"
	finished "$peer" 10 "$work/peer.err"
	check_sent 16777216
}

# The other program dies, gracefully or not: the sender says so and ends.
peer_goes() {
	local how="$1" rc=0
	peer_receiver "$(address peer 4 6006)"
	sender "$(address peer 4 6006)" /dev/zero --memory 4M
	until_true 20 sending
	kill "-$how" "$peer"
	until_true 20 gone "$sender"
	wait "$sender" || rc=$?
	[ "$rc" != 0 ] || fail "the sender did not notice"
	grep -q . "$work/send.err" || fail "the sender did not say why it ended"
	until_true 10 pinned_is "$pinned_at_first"
}

# ... and so it does when it has handed over everything and the kernel has yet to send it: the window of a peer that does not read is shut.
peer_goes_at_the_end() {
	local rc=0
	head -c 100000 "$work/32M" >"$work/short"
	peer_receiver "$(address peer 4 6010)"
	kill -STOP "$peer"
	sender "$(address peer 4 6010)" "$work/short" --verify "$(sha256sum <"$work/short" | cut -d' ' -f1)"
	until_true 20 half_closed 6010
	kill -KILL "$peer"
	until_true 20 gone "$sender"
	wait "$sender" || rc=$?
	[ "$rc" != 0 ] || fail "the sender takes it for sent: $(cat "$work/send.out")"
	grep -q 'has not acknowledged all' "$work/send.err" || fail "$(cat "$work/send.err")"
	until_true 10 pinned_is "$pinned_at_first"
}

# half_closed PORT: the last that we send there is on its way.
half_closed() {
	[ -n "$(ss -Htn state fin-wait-1 "dport = :$1")" ]
}

interrupted() {
	local rc=0
	peer_receiver "$(address peer 4 6007)"
	sender "$(address peer 4 6007)" /dev/zero --memory 4M
	until_true 20 sending
	kill -INT "$sender"
	until_true 20 gone "$sender"
	wait "$sender" || rc=$?
	equal "exit status" "$rc" 130
	until_true 10 pinned_is "$pinned_at_first"
}

# Both ways at once, from and to the same port.
both_ways() {
	local bytes=33554432 peer_recv
	nic_mtu 9000
	peer_receiver "$(address peer 4 6008)"
	peer_recv=$peer
	mv "$work/peer.out" "$work/peer_recv.out"
	receiver "$(address ours 4 6009)" --memory 16M
	peer_sender padded "$(address ours 4 6009)" --bytes $bytes
	sender "$(address peer 4 6008)" "$work/32M"
	finished "$sender" 90 "$work/send.err"
	finished "$receiver" 90 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	finished "$peer_recv" 10 "$work/peer.err"
	equal "sha256 received" "$(field "$(cat "$work/recv.out")" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
	equal "copied on the way in" "$(field "$(cat "$work/recv.out")" copied)" 0
	mv "$work/peer_recv.out" "$work/peer.out"
	check_sent $bytes
}

refused() {
	netgpu send --dev lo 127.0.0.1:6010 "$work/32M" 2>"$work/send.err" && fail "netgpu sent on lo"
	grep -q . "$work/send.err" || fail "no reason given"
	netgpu send --dev "$NETGPU_DEV" "$(address peer 4 6010)" /nosuch 2>"$work/send.err" && fail "there is no such file"
	grep -q nosuch "$work/send.err" || fail "the message does not name the file"
	# Nobody listens.
	netgpu send --dev "$NETGPU_DEV" "$(address peer 4 6010)" "$work/32M" 2>"$work/send.err" && fail "nobody listens"
	grep -q "$NETGPU_PEER_ADDR4" "$work/send.err" || fail "the message does not name the address"
}

# Small sends over a cable that loses packets, doubles them and changes their order.
small_over_a_bad_cable() {
	defer nic_well
	connectx '{"do":"seed","value":1}'
	impair null '"drop":0.01,"duplicate":0.01,"reorder":0.02'
	./small -t stream >"$work/small.out" 2>&1 || {
		sed 's/^/# /' "$work/small.out"
		fail "the stream did not come through"
	}
	[ "$(fate dropped)" -gt 0 ] || fail "nothing was dropped"
}

settings_stay() {
	equal "settings" "$(nic_settings)" "$settings_at_first"
}

nothing_is_left() {
	until_true 10 pinned_is "$pinned_at_first"
	until_true 10 module_unload
	nic_ping
	check_log
}

plan 21
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
settings_at_first=$(nic_settings)
# Not from /dev/urandom, which is slow on an emulated processor.
plain-peer make "$work/32M" --bytes 33554432
sum=$(sha256sum <"$work/32M" | cut -d' ' -f1)
for mtu in 1500 9000; do
	run stream 4 $mtu
	run stream 6 $mtu
done
run larger_than_the_region
run short 1
run short 1000
run short 0
run slow_reader
run sleeps_beside_unread_bytes
run lossy_cable
run peer_goes TERM
run peer_goes KILL
run peer_goes_at_the_end
run interrupted
run both_ways
run refused
nic_mtu 1500
program small ./small
run small_over_a_bad_cable
run settings_stay
run nothing_is_left
finish
