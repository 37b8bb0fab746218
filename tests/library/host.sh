#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The C library as those find it who build programs with it: header, symbols and their versions, pkg-config, installing. What it does
# is in tests/capi.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
top=$(realpath ../..)
source=$top/crates/netgpu-c
so=$top/build/lib/libnetgpu.so
export PKG_CONFIG_PATH="$top/build/lib/pkgconfig"

# The list is the interface: what is on it stays, with its version. New functions are added to it, and to a node of their own.
symbols_are_those_promised() {
	nm -D --with-symbol-versions --defined-only "$so" | sed 's/^[0-9a-f]* . //' | LC_ALL=C sort >"$ktap_tmp/symbols"
	grep -v '^#' "$source/libnetgpu.symbols" | diff - "$ktap_tmp/symbols" || fail "libnetgpu.so has other symbols than libnetgpu.symbols lists"
}

header_has_what_the_library_has() {
	sed -n 's/^[a-z].*[ *]\(netgpu_[a-z_]*\)(.*/\1/p' "$source/include/netgpu.h" | LC_ALL=C sort >"$ktap_tmp/header"
	sed -n 's/@@.*//p' "$source/libnetgpu.symbols" >"$ktap_tmp/library"
	diff "$ktap_tmp/header" "$ktap_tmp/library" || fail "header and library differ"
}

name_and_needs() {
	readelf -d "$so" >"$ktap_tmp/dynamic"
	grep -q 'SONAME.*\[libnetgpu\.so\.1\]' "$ktap_tmp/dynamic" || fail "it has another SONAME"
	sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' "$ktap_tmp/dynamic" >"$ktap_tmp/needed"
	! grep -vE '^(libc\.so\.6|libgcc_s\.so\.1|libm\.so\.6|ld-linux-x86-64\.so\.2)$' "$ktap_tmp/needed" || fail "it needs the above"
}

# compiles COMPILER OPTIONS...: both headers, by themselves and together.
compiles() {
	local lang=c
	case $1 in *++) lang=c++ ;; esac
	for header in netgpu.h netgpu_lib.h 'netgpu_lib.h>
#include <netgpu.h'; do
		echo "#include <$header>" >"$ktap_tmp/try"
		"$@" -x $lang -fsyntax-only -Wall -Wextra -Wpedantic -Werror -I "$top/build/include" "$ktap_tmp/try" || fail "$*: <$header>"
	done
}

says_so() {
	"$@" >"$ktap_tmp/said" || fail "it ended with status $?"
	grep -q 'no network device "no-such-device"' "$ktap_tmp/said" || fail "$(cat "$ktap_tmp/said")"
}

pkg_config_is_enough() {
	# shellcheck disable=SC2046
	cc -o "$ktap_tmp/program" ../lib/nodevice.c $(pkg-config --cflags --libs netgpu)
	says_so env LD_LIBRARY_PATH="$top/build/lib" "$ktap_tmp/program"
	[ "$(pkg-config --modversion netgpu)" = 1.1 ] || fail "it says another version"
}

static_library() {
	# Without the shared one, as a folder has them, the static one is taken.
	mkdir "$ktap_tmp/static"
	ln -s "$top/build/lib/libnetgpu.a" "$ktap_tmp/static/"
	# shellcheck disable=SC2046
	cc -o "$ktap_tmp/program" ../lib/nodevice.c -L "$ktap_tmp/static" $(pkg-config --static --cflags --libs netgpu | sed "s,-L${top}[^ ]*,,")
	says_so "$ktap_tmp/program"
}

installs_where_it_is_told() {
	local archive to
	archive=$(realpath "$top/build/lib/libnetgpu.a")
	to=$ktap_tmp/to
	make -s -C "$source" install ARCHIVE="$archive" OUT="$ktap_tmp/out" DESTDIR="$to" PREFIX=/usr LIBDIR=/usr/lib/x86_64-linux-gnu
	(cd "$to" && find . ! -type d | LC_ALL=C sort) >"$ktap_tmp/files"
	diff - "$ktap_tmp/files" <<-'END' || fail "other files are installed"
		./usr/include/netgpu.h
		./usr/include/netgpu_lib.h
		./usr/lib/x86_64-linux-gnu/libnetgpu.a
		./usr/lib/x86_64-linux-gnu/libnetgpu.so
		./usr/lib/x86_64-linux-gnu/libnetgpu.so.1
		./usr/lib/x86_64-linux-gnu/libnetgpu.so.1.1
		./usr/lib/x86_64-linux-gnu/pkgconfig/netgpu.pc
	END
	grep -q '^libdir=/usr/lib/x86_64-linux-gnu$' "$to/usr/lib/x86_64-linux-gnu/pkgconfig/netgpu.pc" || fail "netgpu.pc names another place"
	[ -e "$to/usr/lib/x86_64-linux-gnu/libnetgpu.so" ] || fail "libnetgpu.so leads nowhere"
}

plan 11
run symbols_are_those_promised
run header_has_what_the_library_has
run name_and_needs
run compiles gcc -std=c99
run compiles gcc -std=c23
run compiles clang -std=c11
run compiles clang++ -std=c++11
run compiles clang++ -std=c++23
run pkg_config_is_enough
run static_library
run installs_where_it_is_told
finish
