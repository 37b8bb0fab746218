#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The module's KUnit cases: they run while it is loaded, and their KTAP is in the kernel's log.
dmesg -c >/dev/null
modprobe netgpu || echo "Bail out! modprobe netgpu failed"
dmesg | sed -n 's/^\[ *[0-9.]*\] //; /^ *\(not ok\|ok\|1\.\.[0-9]\|# \|KTAP version\)/p'
rmmod netgpu
