#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The C library (crates/netgpu-c): its contract, the examples of examples/c in both directions and with a GPU's memory against plain
# TCP programs, and a program as they were written for the library of 2020. GPU and CUDA are stand-ins.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

bytes=16777216

with_library
# The stand-in for libcuda is found where this says so.
with_cuda=$ktap_tmp/lib:$PWD

# listening PROGRAM ARGS...: it is, when this returns. Its output goes to $work/got. Leaves $ours, $work/ours.err.
listening() {
	nothing_yet "$work/ours.err"
	"$@" >"$work/got" 2>"$work/ours.err" &
	ours=$!
	defer reap "$ours"
	until_true 20 is_listening "$work/ours.err" "$ours"
	alive "$ours" || fail "$(cat "$work/ours.err")"
}

# receive FAMILY PADDED PROGRAM ARGS...: a plain sender's stream, byte for byte.
receive() {
	local family="$1" padded="$2" line
	shift 2
	plain-peer make "$work/file" --bytes $bytes
	listening "$@" "$NETGPU_DEV" 5001
	peer_sender "$padded" "$(address ours "$family" 5001)" --file "$work/file"
	finished "$ours" 60 "$work/ours.err"
	finished "$peer" 10 "$work/peer.err"
	cmp "$work/file" "$work/got" || fail "other bytes came than were sent"
	rm "$work/file" "$work/got"
	line=$(grep '^rx ' "$work/ours.err") || return 0
	note "$line"
	equal "bytes" "$(field "$line" rx)" $bytes
	equal "zero-copy and copied" $(($(field "$line" zero-copy) + $(field "$line" copied))) $bytes
	[ "$padded" != padded ] || equal "copied" "$(field "$line" copied)" 0
}

# send FAMILY ARGS...: to a plain receiver.
send() {
	local family="$1" line
	shift
	plain-peer make "$work/file" --bytes $bytes
	peer_receiver "$(address peer "$family" 5002)" --output "$work/got"
	./send "$@" "$NETGPU_DEV" "$(address_only "$family")" 5002 <"$work/file" 2>"$work/ours.err" || fail "$(cat "$work/ours.err")"
	finished "$peer" 10 "$work/peer.err"
	cmp "$work/file" "$work/got" || fail "other bytes came than were sent"
	rm "$work/file" "$work/got"
	line=$(cat "$work/ours.err")
	note "$line"
	equal "zero-copy" "$(field "$line" zero-copy)" $bytes
}

# What has not arrived is not said to be sent.
cut_off() {
	not_taken ./send "$NETGPU_DEV" "$NETGPU_PEER_ADDR4" 5002
	grep -q 'not all has arrived' "$work/ours.err" || fail "it does not say so"
}

address_only() {
	case $1 in
	4) echo "$NETGPU_PEER_ADDR4" ;;
	6) echo "$NETGPU_PEER_ADDR6" ;;
	esac
}

receive_gpu() {
	export LD_LIBRARY_PATH="$with_cuda"
	receive 6 "$1" ./receive -c
}

send_gpu() {
	export LD_LIBRARY_PATH="$with_cuda"
	send 6 -c
}

# What goes out is what the NIC has put there.
echoes() {
	plain-peer make "$work/file" --bytes 2097152
	listening ./echo "$NETGPU_DEV" 5001
	in_peer nc -N "$NETGPU_ADDR4" 5001 <"$work/file" >"$work/back"
	finished "$ours" 60 "$work/ours.err"
	note "$(grep '^echo ' "$work/ours.err")"
	cmp "$work/file" "$work/back" || fail "other bytes came back than were sent"
	rm "$work/file" "$work/back"
}

# Without the library, and without CUDA, the loader and the library say so.
missing() {
	! LD_LIBRARY_PATH='' ./receive "$NETGPU_DEV" 5001 2>"$work/error" || fail "it runs without the library"
	grep -q 'libnetgpu.so.1' "$work/error" || fail "$(cat "$work/error")"
	! ./receive -c "$NETGPU_DEV" 5001 2>"$work/error" || fail "it receives without CUDA"
	grep -q 'libcuda.so.1' "$work/error" || fail "$(cat "$work/error")"
}

plan 16
nic_up
nic_steer 1 5001
ethtool -G "$NETGPU_DEV" tcp-data-split on
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
program misuse ./misuse
run receive 6 padded ./receive
run receive 6 plain ./receive
run receive 4 padded ./receive -4
run receive 4 plain ./receive -q 1 -m 512
run receive 6 padded ./old
run receive 4 plain ./old
run send 4
run send 6
run cut_off
run echoes
run missing
modprobe standin_gpu
modprobe standin_nvidia
LD_LIBRARY_PATH=$with_cuda program cuda ./cuda
run receive_gpu padded
run send_gpu
run nothing_is_left standin_nvidia standin_gpu
finish
