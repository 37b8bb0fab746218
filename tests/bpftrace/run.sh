#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The scripts of dist/bpftrace: bpftrace compiles them, the kernel takes the programs, and they attach to the module's events.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/check.sh

compiles() {
	./bpftrace --include "$PWD/types.h" --dry-run "$1" >"$ktap_tmp/out" 2>&1
}

script() {
	compiles "scripts/$1.bt" && ! grep -q ERROR "$ktap_tmp/out" || {
		sed 's/^/# /' "$ktap_tmp/out"
		fail "bpftrace refuses it"
	}
}

# A script that names what is not there, to see that it would be told.
wrong_field() {
	sed 's/args.zerocopy/args.nothing/' scripts/netgpu-copies.bt >"$ktap_tmp/wrong.bt"
	! compiles "$ktap_tmp/wrong.bt" || fail "bpftrace took a field that no event has"
	sed 's/^/# /' "$ktap_tmp/out"
	grep -q "'nothing'" "$ktap_tmp/out" || fail "that was not for the field"
}

nothing_is_left() {
	until_true 10 module_unload
	check_log
}

mkdir -p /usr/include
cp -r include/. /usr/include/
modprobe netgpu || echo "# modprobe netgpu failed"
names=$(for file in scripts/*.bt; do basename "$file" .bt; done)
plan $(($(echo "$names" | wc -l) + 2))
for name in $names; do
	run script "$name"
done
run wrong_field
run nothing_is_left
finish
