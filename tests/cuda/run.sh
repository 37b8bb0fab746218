#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Memory of NVIDIA's GPUs, with stand-ins for the GPU, for NVIDIA's driver and for CUDA (../standin). What is common to all memory is in
# ../gpu.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

# The stand-in for libcuda, which tells nobody that it is one.
export LD_LIBRARY_PATH="$PWD"

# Without NVIDIA's driver the module that would use it says so, and a region of a GPU's memory is refused.
no_driver() {
	! modprobe netgpu_nvidia 2>/dev/null || fail "it loads without NVIDIA's driver"
	dmesg | grep -q 'netgpu_nvidia: nvidia.ko offers no peer-to-peer functions' || fail "it does not say why"
	./add 2>"$ktap_tmp/add" && fail "a region was added"
	grep -q "No such device or address" "$ktap_tmp/add" || fail "$(cat "$ktap_tmp/add")"
}

# The first region asks for it.
loaded_on_demand() {
	modprobe standin_gpu
	modprobe standin_nvidia
	! grep -q '^netgpu_nvidia ' /proc/modules
	./add 2>/dev/null || true
	grep -q '^netgpu_nvidia ' /proc/modules || fail "it was not loaded"
}

# Each stays as long as it is needed, and goes when it is not.
unload_order() {
	./add hold >"$ktap_tmp/held" &
	holder=$!
	defer eval "kill $holder 2>/dev/null || :"
	until_true 10 grep -q held "$ktap_tmp/held"
	! rmmod netgpu_nvidia 2>/dev/null || fail "netgpu_nvidia goes while a region is there"
	! rmmod standin_nvidia 2>/dev/null || fail "NVIDIA's driver goes while netgpu_nvidia is there"
	kill $holder
	wait $holder || :
	until_true 10 rmmod netgpu_nvidia
	rmmod standin_nvidia
	modprobe standin_nvidia
	./add
	rmmod netgpu_nvidia
}

# way dmabuf|p2p: how a GPU's memory becomes a region.
way() {
	unset NETGPU_TEST_NO_DMABUF
	[ "$1" = dmabuf ] || export NETGPU_TEST_NO_DMABUF=1
}

# receive WAY PADDED: 16 MiB into a GPU's memory, exact.
receive() {
	local line bytes=16777216
	way "$1"
	receiver "$(address ours 4 5001)" --memory cuda:8M
	peer_sender "$2" "$(address ours 4 5001)" --bytes $bytes
	finished "$receiver" 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	line=$(cat "$work/recv.out")
	note "$line"
	equal "bytes" "$(field "$line" rx)" $bytes
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
	[ "$2" != padded ] || equal "copied" "$(field "$line" copied)" 0
}

# send WAY: a file from a GPU's memory, exact.
send() {
	local line bytes=16777216
	way "$1"
	plain-peer make "$work/file" --bytes $bytes
	peer_receiver "$(address peer 6 5002)"
	sender "$(address peer 6 5002)" "$work/file" --memory cuda:4M
	finished "$sender" 60 "$work/send.err"
	finished "$peer" 10 "$work/peer.err"
	rm "$work/file"
	line=$(cat "$work/send.out")
	note "$line"
	equal "zero-copy" "$(field "$line" zero-copy)" $bytes
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
}

# More than the GPU has.
too_much() {
	! netgpu recv --dev "$NETGPU_DEV" --listen 5003 --memory cuda:1G 2>"$work/error" || fail "it receives"
	grep -q "out of memory" "$work/error" || fail "$(cat "$work/error")"
}

# show BYTES: that much of the GPU's memory other devices can be shown.
show() {
	echo "$1" >/sys/module/standin_gpu/parameters/shown
	echo "$1" >/sys/module/standin_nvidia/parameters/shown
}

# larger_than_the_bar WAY: there is the memory, but the GPU's BAR is smaller. It is told so, and what to do.
larger_than_the_bar() {
	way "$1"
	show 4194304
	defer show 18446744073709551615
	! netgpu recv --dev "$NETGPU_DEV" --listen 5003 --memory cuda:8M 2>"$work/error" || fail "it receives"
	note "$(cat "$work/error")"
	grep -q "GPU.*memory .*BAR 1, which has no room for so much.*nvidia-smi" "$work/error" || fail "that does not tell"
}

# Without CUDA, and without the way to the memory, the command says what is missing.
missing() {
	! LD_LIBRARY_PATH='' netgpu recv --dev "$NETGPU_DEV" --listen 5003 --memory cuda 2>"$work/error" || fail "it receives without CUDA"
	grep -q "libcuda.so.1" "$work/error" || fail "$(cat "$work/error")"
}

nothing_is_left() {
	until_true 10 module_unload
	until_true 10 rmmod standin_nvidia
	until_true 10 rmmod standin_gpu
	nic_ping
	check_log
}

plan 15
nic_up
ethtool -L "$NETGPU_DEV" combined 2
modprobe netgpu || echo "# modprobe netgpu failed"
run no_driver
run loaded_on_demand
program p2p ./p2p
for with in dmabuf p2p; do
	run receive $with padded
	run receive $with plain
	run send $with
done
run too_much
run larger_than_the_bar dmabuf
run larger_than_the_bar p2p
run missing
run unload_order
run nothing_is_left
finish
