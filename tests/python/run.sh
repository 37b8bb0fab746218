#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The Python module (crates/netgpu-python), with numpy for a library that takes tensors: host memory and, with the stand-ins of ../standin, a
# GPU's; the examples of examples/python, and the program of docs/python.md.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

bytes=4194304
export PYTHONPATH="$PWD:$PWD/home/lib/python3/dist-packages" PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1 PYTHONUNBUFFERED=1
python=$PWD/home/bin/python3

# The module says what its stub says, and everything has a text.
types_are_told() {
	$python stub.py
}

# listening ARGS...: a program of ours is. Leaves $ours.
listening() {
	nothing_yet "$work/ours.err"
	$python "$@" >"$work/got" 2>"$work/ours.err" &
	ours=$!
	defer reap "$ours"
	until_true 60 is_listening "$work/ours.err" "$ours"
	alive "$ours" || fail "$(cat "$work/ours.err")"
}

# receive PROGRAM ARGS...: a plain sender's stream, byte for byte.
receive() {
	plain-peer make "$work/file" --bytes $bytes
	listening "$@"
	peer_sender plain "$(address ours 4 5001)" --file "$work/file"
	finished "$ours" 60 "$work/ours.err"
	finished "$peer" 10 "$work/peer.err"
	cmp "$work/file" "$work/got" || fail "other bytes came than were sent"
	sed 's/^/# /' "$work/ours.err"
	rm "$work/file" "$work/got"
}

# A stdout that takes no more, and has a buffer that says so, is the end: nothing of what came goes missing in silence.
receive_into_a_full_pipe() {
	listening -c 'import os, sys
unread, out = os.pipe()
os.set_inheritable(unread, True)
os.dup2(out, 1)
os.set_blocking(1, False)
del os.environ["PYTHONUNBUFFERED"]
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])' receive.py --asyncio "$NETGPU_DEV" 1 5001
	peer_sender plain "$(address ours 4 5001)" --bytes $bytes
	until_true 60 gone "$ours"
	! wait "$ours" || fail "it is content"
	grep -q BlockingIOError "$work/ours.err" || fail "$(cat "$work/ours.err")"
	! grep -q zero-copy "$work/ours.err" || fail "it has received to the end, and written a part"
}

send() {
	plain-peer make "$work/file" --bytes $bytes
	peer_receiver "$(address peer 4 5002)" --output "$work/got"
	$python send.py "$NETGPU_DEV" "$NETGPU_PEER_ADDR4" 5002 "$work/file" 2>"$work/ours.err" || fail "$(cat "$work/ours.err")"
	finished "$peer" 10 "$work/peer.err"
	cmp "$work/file" "$work/got" || fail "other bytes came than were sent"
	sed 's/^/# /' "$work/ours.err"
	rm "$work/file" "$work/got"
}

# What has not arrived is not said to be sent.
cut_off() {
	not_taken $python send.py "$NETGPU_DEV" "$NETGPU_PEER_ADDR4" 5002 "$work/file"
	grep -q 'ConnectionResetError: .*the connection has failed' "$work/ours.err" || fail "it does not say why"
}

# The program of the documentation, as it stands there, for which the NIC is eth0 and has other addresses.
documented() {
	[ "$NETGPU_DEV" = eth0 ] || skip "the port is $NETGPU_DEV"
	ip address add 192.0.2.1/24 dev eth0
	defer ip address delete 192.0.2.1/24 dev eth0
	in_peer ip address add 192.0.2.2/24 dev "$NETGPU_PEER_DEV"
	defer in_peer ip address delete 192.0.2.2/24 dev "$NETGPU_PEER_DEV"
	mkdir "$work/blocks"
	awk -v area=python -v out="$work/blocks" -f ../lib/blocks.awk python.md >"$work/list"
	while read -r number _; do
		cat "$work/blocks/$number"
	done <"$work/list" >"$work/documented.py"
	nothing_yet "$work/ours.err"
	$python "$work/documented.py" >"$work/ours.err" 2>&1 &
	ours=$!
	defer reap "$ours"
	until_true 60 is_listening "$work/ours.err" "$ours"
	peer_receiver 192.0.2.2:5002 --output "$work/got"
	head -c $bytes /dev/zero | in_peer nc -N 192.0.2.1 5001
	finished "$ours" 60 "$work/ours.err"
	finished "$peer" 10 "$work/peer.err"
	sed 's/^/# /' "$work/ours.err"
	grep -q "^$bytes bytes, the commonest is 0$" "$work/ours.err" || fail "it has received something else"
	head -c 1048576 /dev/zero | tr '\0' '*' | cmp - "$work/got" || fail "other bytes came than were sent"
}

plan 10
nic_up
nic_steer 1 5001
ethtool -G "$NETGPU_DEV" tcp-data-split on
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
run types_are_told
program host $python host.py
run receive receive.py "$NETGPU_DEV" 1 5001
run receive receive.py --asyncio "$NETGPU_DEV" 1 5001
run receive_into_a_full_pipe
run send
run cut_off
run documented
modprobe standin_gpu
modprobe standin_nvidia
LD_LIBRARY_PATH=$PWD program gpu $python gpu.py
run nothing_is_left standin_nvidia standin_gpu
finish
