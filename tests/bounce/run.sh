#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# A device that cannot reach memory itself: zero copy is impossible, and netgpu says so.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

nothing_is_left() {
	until_true 10 module_unload
	nic_ping
	check_log
}

plan 2
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
program bounce ./bounce
run nothing_is_left
finish
