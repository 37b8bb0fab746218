#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The Rust library: the programs of its documentation, and how it waits. In tasks of tokio: several connections at a time that receive and
# send, and buffers that come back from other tasks. In threads.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

# listening PROGRAM ARGS...: the example is. Leaves $ours.
listening() {
	local program="$1"
	shift
	nothing_yet "$work/err"
	"./$program" "$NETGPU_DEV" 1 '[::]:5001' "$@" >"$work/out" 2>"$work/err" &
	ours=$!
	defer reap "$ours"
	until_true 20 is_listening "$work/err" "$ours"
	alive "$ours" || fail "$(cat "$work/err")"
}

# The two programs of the documentation.
documented_receiver() {
	plain-peer make "$work/file" --bytes 4194304
	listening receive
	peer_sender plain "$(address ours 4 5001)" --file "$work/file"
	finished "$ours" 30 "$work/err"
	finished "$peer" 10 "$work/peer.err"
	sed 's/^/# /' "$work/err"
	cmp "$work/file" "$work/out" || fail "other bytes came than were sent"
	rm "$work/file" "$work/out"
}

documented_sender() {
	plain-peer make "$work/file" --bytes 4194304
	peer_receiver "$(address peer 4 5002)" --output "$work/back"
	./send "$NETGPU_DEV" "$(address peer 4 5002)" <"$work/file" 2>"$work/err" || fail "$(cat "$work/err")"
	finished "$peer" 10 "$work/peer.err"
	sed 's/^/# /' "$work/err"
	cmp "$work/file" "$work/back" || fail "other bytes came than were sent"
	rm "$work/file" "$work/back"
}

# What has not arrived is not said to be sent.
documented_sender_is_cut_off() {
	not_taken ./send "$NETGPU_DEV" "$(address peer 4 5002)"
	grep -q 'the connection has failed' "$work/ours.err" || fail "it does not say why"
}

# What each of them sends comes back to it. The peer closes its side first, while its last bytes are on their way back.
several_at_a_time() {
	local count="$1" bytes=2097152 i clients=''
	listening echo "$count"
	for i in $(seq "$count"); do
		plain-peer make "$work/file.$i" --bytes $bytes --seed "$i"
		in_peer ./exchange "$NETGPU_ADDR4" 5001 <"$work/file.$i" >"$work/back.$i" &
		clients="$clients $!"
		defer reap $!
	done
	finished "$ours" 90 "$work/err"
	for i in $clients; do
		finished "$i" 10 "$work/err"
	done
	sed 's/^/# /' "$work/out"
	for i in $(seq "$count"); do
		cmp "$work/file.$i" "$work/back.$i" || fail "other bytes came back than were sent"
		rm "$work/file.$i" "$work/back.$i"
	done
	equal "connections" "$(grep -c ": $bytes bytes" "$work/out")" "$count"
}

# runs_short PROGRAM ARGS...: of buffers. The stream fits into the memory but not into the socket's share of it, which is half: when the share
# is used up, and all packets have come, nothing but the return of pieces, by another task or thread, can have it go on. TCP's window has room
# for all of them: else the peer would probe it with some bytes.
runs_short() {
	local bytes=2097152 before
	before=$(cat /proc/sys/net/ipv4/tcp_rmem)
	defer sh -c "echo $before >/proc/sys/net/ipv4/tcp_rmem"
	echo 4096 8388608 8388608 >/proc/sys/net/ipv4/tcp_rmem
	# Leaves enough buffers for all packets, of which two share one.
	ethtool -G "$NETGPU_DEV" rx 256
	listening "$@"
	peer_sender plain "$(address ours 4 5001)" --bytes $bytes
	finished "$ours" 30 "$work/err"
	finished "$peer" 10 "$work/peer.err"
	sed 's/^/# /' "$work/out"
	grep -q "$bytes bytes" "$work/out" || fail "not all bytes came"
	[ "$(sed -n 's/^stalled \(.*\) times/\1/p' "$work/out")" -gt 0 ] || fail "it never stalled, so that nothing was tried"
}

wakes_when_pieces_come_back() {
	runs_short echo 1 $((200 * ${NETGPU_TEST_SLOW:-1}))
}

a_thread_sleeps_while_others_hold_pieces() {
	runs_short waits held
	slept
}

# slept: the longest wait was for about a second, and the thread was not busy in it.
slept() {
	local waited busy
	waited=$(sed -n 's/^waited \(.*\) ms, busy for .*/\1/p' "$work/out")
	busy=$(sed -n 's/^waited .*, busy for \(.*\) ms$/\1/p' "$work/out")
	[ "$waited" -ge 900 ] || fail "it waited for $waited ms only, so that nothing was tried"
	[ $((busy * 4)) -le "$waited" ] || fail "of $waited ms that it waited for it was busy for $busy ms"
}

# exchanging CASE: the example waits, and at the other end of the connection what goes into descriptor 9 is sent, and what comes goes into
# $work/back, by $reads.
exchanging() {
	listening waits "$1"
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	ip netns exec peer ./exchange "$NETGPU_ADDR4" 5001 <"$work/pipe" >"$work/back" 2>"$work/peer.err" &
	reads=$!
	defer reap "$reads"
	exec 9>"$work/pipe"
}

# Of what we have sent.
bytes_acked() {
	ss -tinH state established 'sport = :5001' | tr ' ' '\n' | sed -n 's/^bytes_acked://p'
}

is_waiting() {
	grep -q waiting "$work/out" || gone "$ours"
}

a_thread_sleeps_while_sends_are_not_taken() {
	exchanging finished
	until_true 20 is_waiting
	sleep 1
	echo here >&9
	exec 9>&-
	finished "$ours" 20 "$work/err"
	sed 's/^/# /' "$work/out"
	slept
}

# When the peer reads nothing, sends do not finish. What happens meanwhile is found afterwards: the end of the stream.
a_thread_sleeps_while_bytes_are_not_taken() {
	exchanging received
	until_true 20 peer_connected
	kill -STOP "$reads"
	echo here >&9
	until_true 20 is_waiting
	stalls bytes_acked
	exec 9>&-
	sleep 0.2
	kill -CONT "$reads"
	finished "$ours" 20 "$work/err"
	sed 's/^/# /' "$work/out"
	slept
}

peer_at_the_end() {
	[ -n "$(in_peer ss -tnH state close-wait 'dport = :5001')" ]
}

# As with any socket, the other end comes to the end of the stream, while its own side is open.
closing_ends_in_order() {
	exchanging closes
	echo here >&9
	finished "$ours" 20 "$work/err"
	sed 's/^/# /' "$work/out"
	until_true 20 peer_at_the_end
	exec 9>&-
	finished "$reads" 20 "$work/peer.err"
	equal "what has come back" "$(cat "$work/back")" here
}

# Which of its own sends has finished the library cannot tell when others send, too, and says so.
sends_beside_it_are_told() {
	exchanging "beside-$1"
	finished "$ours" 20 "$work/err"
	exec 9>&-
	finished "$reads" 20 "$work/peer.err"
}

# With a connection that is idle, after it was busy, all threads sleep.
sleeps_when_idle() {
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	listening echo 1
	in_peer nc -N "$NETGPU_ADDR4" 5001 <"$work/pipe" >"$work/back" &
	defer reap $!
	exec 9>"$work/pipe"
	echo here >&9
	until_true 10 test -s "$work/back"
	until_true 20 all_asleep
	exec 9>&-
	finished "$ours" 20 "$work/err"
}

# In many looks, one after the other.
all_asleep() {
	local look
	for look in $(seq 50); do
		! grep -q '^State:	[^S]' "/proc/$ours"/task/*/status || return 1
	done
}

plan 14
nic_up
nic_steer 1 5001
ethtool -G "$NETGPU_DEV" tcp-data-split on
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
run documented_receiver
run documented_sender
run documented_sender_is_cut_off
run several_at_a_time 1
run several_at_a_time 6
run wakes_when_pieces_come_back
run a_thread_sleeps_while_others_hold_pieces
run a_thread_sleeps_while_sends_are_not_taken
run a_thread_sleeps_while_bytes_are_not_taken
run closing_ends_in_order
run sends_beside_it_are_told first
run sends_beside_it_are_told later
run sleeps_when_idle
run nothing_is_left
finish
