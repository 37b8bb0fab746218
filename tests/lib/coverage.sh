#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Runs the command that follows, with modules that count what runs, and leaves what they counted in /host/coverage: see
# src/coverage/end.c.
"$@"
status=$?

# What a test has left in use is let go of soon.
tries=100
for module in netgpu_nvidia netgpu; do
	while grep -q "^$module " /proc/modules; do
		rmmod $module 2>/dev/null && break
		tries=$((tries - 1))
		[ $tries -gt 0 ] || {
			echo "# $module.ko is in use, so what it counted is not known"
			exit 1
		}
		sleep 0.1
	done
done
mkdir -p /host/coverage
[ ! -e /sys/kernel/debug/netgpu-coverage ] || cp /sys/kernel/debug/netgpu-coverage/* /host/coverage/
exit $status
