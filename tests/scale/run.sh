#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Many of everything at a time: sockets, queues, regions, contexts, devices, processes. See scale.c.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

# A queue for everybody else, and eight.
queues() {
	ethtool -L "$NETGPU_DEV" combined 9
	equal_or_fail "$(nic_queues)" 9
}

equal_or_fail() {
	[ "$1" = "$2" ] || fail "$1 queues, expected $2"
}

nothing_is_left() {
	until_true 20 pinned_is "$pinned_at_first"
	until_true 20 module_unload
	nic_ping
	check_log
}

plan 3
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
run queues
program scale ./scale
run nothing_is_left
finish
