#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# That each path of the benchmark delivers what was sent: one stream each, compared byte by byte, and nothing measured.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/check.sh

# Eight ways to receive (not the one that drops what comes), and six to send.
paths_are_right() {
	# Where it looks for CUDA.
	mkdir -p /usr/local/lib
	cp libcuda.so.1 /usr/local/lib/
	./bench-guest cx5 8 1 1500 verify >"$ktap_tmp/verified" 2>&1 || fail "$(cat "$ktap_tmp/verified")"
	sed 's/^/# /' "$ktap_tmp/verified"
	[ "$(grep -c ' 8388608 bytes as sent$' "$ktap_tmp/verified")" = 14 ] || fail "not fourteen streams"
	check_log
}

plan 1
run paths_are_right
finish
