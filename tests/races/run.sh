#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# That the kernel of `make test KERNEL=kcsan` finds a data race in a module like ours, and that our filter of its log lets it through.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/check.sh

a_race_is_found() {
	[ -e /sys/kernel/debug/kcsan ] || skip "this kernel has no KCSAN; run make test KERNEL=kcsan"
	modprobe netgpu_racy
	dmesg | awk -f /tests/lib/races.awk | grep -q 'BUG: KCSAN: data-race in .*netgpu_racy' || {
		dmesg | tail -n 40 | sed 's/^/# /'
		fail "the race was not reported"
	}
	# It was meant.
	dmesg -c >/dev/null
	echo "the race of netgpu_racy was reported" >/dev/kmsg
}

plan 1
run a_race_is_found
finish
