#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# What `make demo` and `make demo GPU=1` do once everything is built, with smaller files: that they say what README shows, and fail when they
# cannot.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
demo=$(realpath ../../scripts/demo)

# demonstrates MIB [OPTION]: leaves what was printed in $ktap_tmp/printed.
demonstrates() {
	local mib=$1 direction
	shift
	"$demo" "$@" --mib "$mib" >"$ktap_tmp/printed" 2>&1 || fail "$(cat "$ktap_tmp/printed")"
	for direction in rx tx; do
		grep -qx "demo: $direction $((mib << 20)) bytes  zero-copy $((mib << 20))  copied 0  sha256 ok" "$ktap_tmp/printed" ||
			fail "$(cat "$ktap_tmp/printed")"
	done
}

of_the_host() {
	demonstrates 16
}

of_a_gpu() {
	demonstrates 4 --gpu
	[ "$(grep -cx 'demo: [rt]x GPU memory touched by CPUs: 0 bytes loaded, 0 stored' "$ktap_tmp/printed")" = 2 ] || fail "$(cat "$ktap_tmp/printed")"
}

# Nothing that was left of a run before passes for this one.
fails_without_its_parts() {
	! NETGPU_CONNECTX=/nonexistent "$demo" --mib 4 >"$ktap_tmp/printed" 2>&1 || fail "$(cat "$ktap_tmp/printed")"
	! grep 'sha256 ok' "$ktap_tmp/printed" || fail "the above"
}

plan 3
run of_the_host
run of_a_gpu
run fails_without_its_parts
finish
