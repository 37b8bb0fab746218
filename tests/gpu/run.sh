#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Memory that is not this machine's: of a stand-in GPU behind a PCI BAR, as dma-bufs (standin_gpu.c) and by NVIDIA's interface
# (standin_nvidia.c); dma-bufs of udmabuf, and, where there is an IOMMU, of vfio-pci. The area gpu-iommu is this one on a machine with
# an IOMMU.
#
# NETGPU_TEST_REVOKES: how often memory is taken back under traffic.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

QUEUE=1
PORT=8000

listening() {
	[ -n "$(ss -Htln "sport = :$PORT")" ]
}

# The device, the BAR and its drivers are there.
stand_in() {
	modprobe standin_gpu
	modprobe standin_nvidia
	[ -c /dev/standin_gpu ]
	[ -c /dev/standin_nvidia ]
}

# They go again.
stand_in_gone() {
	until_true 10 rmmod netgpu_nvidia
	rmmod standin_nvidia
	until_true 10 rmmod standin_gpu
}

# The kernel's own devmem TCP, which knows nothing of us, puts a stream into the BAR by the NIC's DMA.
nic_to_bar() {
	local receiver bytes=16777216 copied
	nic_steer $QUEUE $PORT
	defer nic_unsteer
	ethtool -G "$NETGPU_DEV" tcp-data-split on
	./devmem "$NETGPU_DEV" $QUEUE $PORT $bytes 4096 gpu >"$ktap_tmp/received" &
	receiver=$!
	defer eval "kill $receiver 2>/dev/null || :"
	until_true 20 listening
	in_peer timeout 120 ./send "$NETGPU_ADDR4" $PORT $bytes
	wait $receiver || fail "the receiver failed"
	note "$(cat "$ktap_tmp/received")"
	copied=$(awk '{ print $4 }' "$ktap_tmp/received")
	[ "$copied" -le $((bytes / 20)) ] || fail "$copied of $bytes bytes were copied"
}

# The library's way to regions of dma-bufs.
library_adds_dma_buf() {
	netgpu bench register udmabuf --mib 4 --dev "$NETGPU_DEV" >"$ktap_tmp/registered"
	[ "$(grep -c '^netgpu reg udmabuf: ' "$ktap_tmp/registered")" = 4 ] || fail "$(cat "$ktap_tmp/registered")"
}

iommu_is_strict() {
	[ "$(cat "/sys/class/net/$NETGPU_DEV/device/iommu_group/type")" = DMA ]
}

# The GPU's driver makes way for vfio-pci.
vfio_binds() {
	local gpu=/sys/bus/pci/devices/$NETGPU_TEST_GPU
	stand_in_gone
	modprobe vfio-pci
	echo vfio-pci >"$gpu/driver_override"
	echo "$NETGPU_TEST_GPU" >/sys/bus/pci/drivers_probe
	[ "$(basename "$(readlink "$gpu/driver")")" = vfio-pci ]
}

nothing_is_left() {
	until_true 10 pinned_is "$pinned_at_first"
	if [ -n "$iommu" ]; then
		rmmod vfio-pci
	else
		stand_in_gone
	fi
	until_true 10 module_unload
	nic_ping
	check_log
}

# The first, which standin_gpu takes for the GPU.
NETGPU_TEST_GPU=$(basename "$(dirname "$(grep -lx 0x1110 /sys/bus/pci/devices/*/device | head -n 1)")")
export NETGPU_TEST_GPU
iommu=$(ls /sys/class/iommu 2>/dev/null)
if [ -n "$iommu" ]; then plan 9; else plan 6; fi
nic_up
[ -z "$iommu" ] || run iommu_is_strict
run stand_in
run nic_to_bar
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
program dmabuf ./dmabuf
program data ./data
run library_adds_dma_buf
if [ -n "$iommu" ]; then
	run vfio_binds
	program vfio ./vfio
fi
run nothing_is_left
finish
