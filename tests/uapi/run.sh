#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The user API by its contract: every command, mapping and ring with good and bad input.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

plan 9
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
modprobe taker || echo "# modprobe taker failed"
programs_start_pinned=$(pinned_pages)

program device ./device
program region ./region
program limit ./limit
program context ./context
program queue ./queue
program socket ./socket
program rings ./rings

nothing_is_left() {
	until_true 10 pinned_is "$programs_start_pinned"
	rmmod taker
	until_true 10 module_unload
	nic_ping
	check_log
}
run nothing_is_left

reload() {
	modprobe netgpu
	[ -c /dev/netgpu ]
	rmmod netgpu
	[ ! -e /dev/netgpu ]
}
run reload
finish
