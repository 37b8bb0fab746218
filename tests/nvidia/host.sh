#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# What src/nvidia/nv_p2p.h says of NVIDIA's driver, against the source of its open flavour as Debian has it (contrib).
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh

# The archive that the toolchain root was made from, its part contrib, in state of our own.
fetch() {
	local line dir="$ktap_tmp/apt" from suite
	line=$(awk '$1 == "deb" { print; exit }' /etc/apt/sources.list)
	from=$(echo "$line" | sed 's/\[[^]]*\]//' | awk '{ print $2 }')
	suite=$(echo "$line" | sed 's/\[[^]]*\]//' | awk '{ print $3 }')
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
	echo "deb $from $suite contrib" >"$dir/sources.list"
	echo "APT::Sandbox::User \"root\"; Dir::Etc::sourcelist \"$dir/sources.list\"; Dir::Etc::sourceparts \"-\"; Dir::State::lists \"$dir/lists\";
		Dir::Cache \"$dir/cache\"; Acquire::Retries \"1\"; Acquire::http::Timeout \"20\";" >"$dir/apt.conf"
	cd "$dir" || exit 1
	APT_CONFIG=$dir/apt.conf apt-get -q -q update >"$dir/log" 2>&1 &&
		APT_CONFIG=$dir/apt.conf apt-get -q -q download nvidia-open-kernel-dkms >>"$dir/log" 2>&1 ||
		skip "no package nvidia-open-kernel-dkms from $suite contrib: $(grep -m 1 '^[EW]:' "$dir/log")"
	dpkg-deb -x nvidia-open-kernel-dkms_*.deb "$ktap_tmp/driver"
	find "$ktap_tmp/driver" -name nv-p2p.h | grep -q . || fail "there is no nv-p2p.h in it"
	note "$(echo nvidia-open-kernel-dkms_*.deb)"
}

fetched() {
	find "$ktap_tmp/driver" -name nv-p2p.h 2>/dev/null | grep -m 1 '/nvidia/nv-p2p.h$' || skip "the driver's source could not be fetched"
}

# facts HEADER: what a C compiler makes of it.
facts() {
	gcc -Wall -Werror -D HEADER="\"$1\"" -o "$ktap_tmp/facts" facts.c && "$ktap_tmp/facts"
}

facts_agree() {
	theirs=$(fetched)
	facts "$theirs" >"$ktap_tmp/theirs"
	facts ../../src/nvidia/nv_p2p.h >"$ktap_tmp/ours"
	diff "$ktap_tmp/ours" "$ktap_tmp/theirs" || fail "< is ours, > the driver's"
}

# For modules under the GPL, which is what symbol_get() of the kernel asks for.
functions_are_exported() {
	theirs=$(dirname "$(fetched)")
	names=$(sed -n 's/.*c"\(nvidia_p2p_[a-z_]*\)".*/\1/p' ../../src/nvidia/driver.rs)
	[ "$(echo "$names" | wc -l)" = 6 ] || fail "we call other functions than this case knows"
	for name in $names; do
		grep -q "^NV_EXPORT_SYMBOL($name);" "$theirs/nv-p2p.c" || fail "$name is not exported"
	done
	grep -rqE 'define NV_EXPORT_SYMBOL\(symbol\) +EXPORT_SYMBOL_GPL\(symbol\)' "$theirs/.." || fail "they are exported otherwise"
}

plan 3
run fetch
run facts_agree
run functions_are_exported
finish
