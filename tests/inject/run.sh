#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Every call of the user API with each allocation and each copy from or to user memory in it failing once, and with the functions
# of src/shim/injection.c failing; see inject.c.
# NETGPU_TEST_FAILURES=all: the driver's, too, without leaving any out; that takes minutes.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

# Which failures are in play: those that a caller of the kernel must expect, that is all but GFP_NOFAIL.
every_kind_may_fail() {
	local kind file
	for kind in failslab fail_page_alloc fail_usercopy; do
		[ -d "/sys/kernel/debug/$kind" ] || fail "this kernel has no $kind"
		# Silent: thousands are provoked.
		echo 0 >"/sys/kernel/debug/$kind/verbose"
		for file in ignore-gfp-wait ignore-gfp-highmem; do
			[ ! -e "/sys/kernel/debug/$kind/$file" ] || echo N >"/sys/kernel/debug/$kind/$file"
		done
	done
	echo 0 >/sys/kernel/debug/fail_page_alloc/min-order
}

plan 4
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
kmemleak_clear
run every_kind_may_fail
program inject ./inject
run nothing_is_left
run kmemleak_check
finish
