#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# What users may do, and what they cannot do however they try.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

# Without a rule it is root's.
device_node() {
	[ "$(stat -c %a:%u:%g /dev/netgpu)" = 600:0:0 ] || fail "$(stat -c %a:%u:%g /dev/netgpu)"
}

# rule KEY: what the udev rule sets.
rule() {
	sed -n "s/^KERNEL==\"netgpu\".* $1=\"\\([^\"]*\\)\".*/\\1/p" 60-netgpu.rules
}

udev_rule() {
	[ "$(rule GROUP)" = netgpu ] || fail "group: $(rule GROUP)"
	[ "$(rule MODE)" = 0660 ] || fail "mode: $(rule MODE)"
	# As udev would, for a group of this number: see rights.c.
	chgrp 1234 /dev/netgpu
	chmod "$(rule MODE)" /dev/netgpu
}

# Whatever was provoked, the log tells nobody where things are in the kernel.
no_addresses_in_the_log() {
	! dmesg | grep -i netgpu | grep -qE '(^|[^0-9a-f])ffff[0-9a-f]{12}' || fail "$(dmesg | grep -i netgpu)"
}

plan 8
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
run device_node
run udev_rule
program rights ./rights
program hostile ./hostile
program routes ./routes
program locks ./locks
run no_addresses_in_the_log
run nothing_is_left
finish
