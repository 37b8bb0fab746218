#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Memory of NVIDIA's GPUs, with stand-ins for the GPU (../gpu/standin_gpu.c) and for what NVIDIA's software offers to the kernel
# (standin_nvidia.c).
#
# NETGPU_TEST_REVOKES: how often memory goes at any moment.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

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

nothing_is_left() {
	until_true 10 module_unload
	until_true 10 rmmod standin_nvidia
	until_true 10 rmmod standin_gpu
	nic_ping
	check_log
}

plan 5
nic_up
ethtool -L "$NETGPU_DEV" combined 2
modprobe netgpu || echo "# modprobe netgpu failed"
run no_driver
run loaded_on_demand
program p2p ./p2p
run unload_order
run nothing_is_left
finish
