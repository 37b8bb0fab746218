#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The software ConnectX under drivers that write anything: the fuzz targets of crates/connectx/fuzz, each for some seconds
# (NETGPU_TEST_NIC_FUZZ_SECONDS), led by the coverage that they reach. What breaks it is left in build/log/nic-fuzz/.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
top=$(realpath ../..)
seconds=${NETGPU_TEST_NIC_FUZZ_SECONDS:-5}
host=x86_64-unknown-linux-gnu
found=$top/build/log/nic-fuzz

# What cargo-fuzz asks of the compiler, but for the sanitizer of addresses, which needs an unstable one.
targets_build() {
	local coverage='-Cpasses=sancov-module' option
	for option in level=4 inline-8bit-counters pc-table trace-compares; do
		coverage="$coverage -Cllvm-args=-sanitizer-coverage-$option"
	done
	RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 $coverage" CXX=clang++ cargo build --quiet --release --locked --target $host \
		--manifest-path "$top/crates/connectx/fuzz/Cargo.toml" --target-dir "$NETGPU_TARGET/fuzz" >"$ktap_tmp/build" 2>&1 ||
		fail "$(cat "$ktap_tmp/build")"
}

survives() {
	local target="$1"
	mkdir -p "$found" "$ktap_tmp/$target"
	"$NETGPU_TARGET/fuzz/$host/release/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
		-artifact_prefix="$found/$target-" "$ktap_tmp/$target" >"$ktap_tmp/log" 2>&1 || fail "$(tail -n 60 "$ktap_tmp/log")"
	note "$(sed -n 's/.*cov: \([0-9]*\) .*/\1 edges/p' "$ktap_tmp/log" | tail -n 1), $(sed -n 's/^stat::number_of_executed_units: *//p' "$ktap_tmp/log") inputs"
}

plan 3
run targets_build
run survives commands
run survives queues
finish
