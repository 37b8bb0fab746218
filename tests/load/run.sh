#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Loading the module: on the kernel it is for, and on those that lack one of the patches it stands on.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh

loads() {
	modprobe netgpu
	[ -c /dev/netgpu ] || fail "no /dev/netgpu"
	rmmod netgpu
	[ ! -e /dev/netgpu ] || fail "/dev/netgpu is still there"
}

# refused EXPORT PATCH: insmod fails, the log names the patch, and nothing is left.
refused() {
	local export="$1" patch="$2" rc=0
	dmesg -c >/dev/null
	insmod "./without-$export.ko" 2>"$ktap_tmp/insmod" || rc=$?
	[ "$rc" != 0 ] || fail "it loaded"
	grep -q 'Function not implemented' "$ktap_tmp/insmod" || fail "not ENOSYS: $(cat "$ktap_tmp/insmod")"
	dmesg | grep -q "netgpu: this kernel lacks the patch \"$patch\"" || fail "the log does not name the patch: $(dmesg)"
	[ ! -e /dev/netgpu ] || fail "/dev/netgpu is there"
	! grep -q '^netgpu ' /proc/modules || fail "the module is there"
}

plan 8
run loads
for export in netif_mp_open_rxq net_mp_niov_set_page_pool \
	net_mp_niov_clear_page_pool netdev_queue_get_dma_dev; do
	run refused $export "net: export the memory provider interface"
done
run refused netif_mp_try_close_rxq "net: let a memory provider wait for its queue to close"
run refused net_mp_ops_valid "page_pool: accept memory provider ops of a module"
run loads
finish
