#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The Debian packages, from making them to purging them: installed on a stock Debian with the packaged kernel of the tests, where DKMS
# builds the module, and then booted (boot.sh).
cd "$(dirname "$0")" || exit 1
# What is mounted here is gone with this process.
[ -n "${NETGPU_PRIVATE_MOUNTS-}" ] || NETGPU_PRIVATE_MOUNTS=1 exec unshare --mount --propagation unchanged "./${0##*/}"
. ../lib/ktap.sh
top=$(realpath ../..)
scripts=$top/scripts
work=$top/build/tests/packages
stock=$("$scripts/root" --stock)
# Of scripts/kernel-deb, NETGPU_KERNEL_PACKAGES: the folder of others, for example build/deb.
kernel=${NETGPU_KERNEL_PACKAGES:-$("$scripts/kernel-deb" --test)}
packages=$top/build/packages
# The stock system, with what is written to it elsewhere.
root=$work/root

# in_root COMMAND...
in_root() {
	unshare --mount --propagation unchanged sh -ec 'for dir in dev proc; do mount --rbind /$dir "$1/$dir"; done; exec chroot "$@"' sh "$root" \
		env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

they_are_made() {
	"$scripts/packages-build" >"$ktap_tmp/log" 2>&1 || fail "$(cat "$ktap_tmp/log")"
	# What lintian would not let pass, and dpkg does: another owner, or a file that others may write to.
	for deb in "$packages"/*.deb; do
		dpkg-deb -c "$deb" >"$ktap_tmp/files"
		! grep -vE '^.(rw.r-.r-.|rwxrwxrwx) root/root ' "$ktap_tmp/files" || fail "${deb##*/} has the above"
	done
}

debians_configuration_holds_what_netgpu_needs() {
	"$scripts/kernel-deb" --configure >"$ktap_tmp/log" 2>&1 || fail "$(cat "$ktap_tmp/log")"
}

# What the kernel's build has generated for its macros of Rust, modules need as well.
headers_have_what_macros_include() {
	local file
	dpkg-deb -c "$(echo "$kernel"/linux-headers-*.deb)" >"$ktap_tmp/files"
	for file in "$("$scripts/kernel")"/build/rust/kernel/generated_*.rs; do
		grep -q "/rust/kernel/${file##*/}\$" "$ktap_tmp/files" || fail "the headers lack ${file##*/}"
	done
}

# A folder of headers such as the kernel's of others: OPTIONS are the lines of its configuration.
other_kernel() {
	mkdir -p "$root/lib/modules/$1/build/include/config"
	touch "$root/lib/modules/$1/build/Makefile" "$root/lib/modules/$1/build/Module.symvers"
	printf "$2" >"$root/lib/modules/$1/build/include/config/auto.conf"
}

they_install() {
	other_kernel 7.3.4-other 'CONFIG_RUST=y\nCONFIG_DMA_SHARED_BUFFER=y\nCONFIG_CC_IS_CLANG=y\n'
	other_kernel 6.12.1-old 'CONFIG_DMA_SHARED_BUFFER=y\nCONFIG_CC_IS_CLANG=y\n'
	mkdir -p "$root/packages"
	cp "$kernel"/*.deb "$packages"/*.deb "$root/packages/"
	in_root sh -ec 'apt-get install -y /packages/*.deb; rm -r /packages' >"$work/install.log" 2>&1 || {
		cat "$root"/var/lib/dkms/netgpu/*/build/make.log 2>/dev/null || true
		fail "$(cat "$work/install.log")"
	}
}

dkms_has_built_the_module() {
	in_root dkms status netgpu >"$ktap_tmp/status"
	sed 's/^/# /' "$ktap_tmp/status"
	[ "$(wc -l <"$ktap_tmp/status")" = 1 ] || fail "DKMS has built for other kernels, too"
	grep -q '^netgpu/.*-netgpu, x86_64: installed$' "$ktap_tmp/status" || fail "the module is not installed"
}

# Without failing: somebody's other kernels are none of our business.
other_kernels_are_told_what_they_lack() {
	grep -q "7.3.4-other/build was built without netgpu's patches" "$work/install.log" || fail "$(cat "$work/install.log")"
	grep -q '6.12.1-old/build was built without CONFIG_RUST=y' "$work/install.log" || fail "$(cat "$work/install.log")"
}

programs_find_the_library() {
	cp ../lib/nodevice.c "$root/tmp/program.c"
	in_root sh -ec 'cc -o /tmp/program -include linux/netgpu.h /tmp/program.c -lnetgpu; /tmp/program' >"$ktap_tmp/said" 2>&1 || fail "$(cat "$ktap_tmp/said")"
	grep -q 'no network device "no-such-device"' "$ktap_tmp/said" || fail "$(cat "$ktap_tmp/said")"
	rm "$root/tmp/program" "$root/tmp/program.c"
}

python_finds_the_module() {
	cat >"$root/tmp/program.py" <<-'END'
		import numpy
		import netgpu
		try:
		    netgpu.Context("no-such-device")
		except OSError as error:
		    print(error)
	END
	in_root python3 -I /tmp/program.py >"$ktap_tmp/said" 2>&1 || fail "$(cat "$ktap_tmp/said")"
	grep -q 'no network device "no-such-device"' "$ktap_tmp/said" || fail "$(cat "$ktap_tmp/said")"
	in_root python3 -c 'import importlib.metadata as m; print(m.version("netgpu"))' >"$ktap_tmp/version" || fail "its version is not known"
	rm "$root/tmp/program.py"
}

manuals_are_there() {
	in_root sh -ec 'for page in netgpu netgpu-setup netgpu-doctor; do test -e "/usr/share/man/man1/$page.1.gz"; done' || fail "a page is missing"
}

rm -rf "$work"
mkdir -p "$work/files" "$work/work" "$root" "$work/host"
mount -t overlay -o "lowerdir=$stock,upperdir=$work/files,workdir=$work/work" overlay "$root" || exit 1

plan 10
run they_are_made
run debians_configuration_holds_what_netgpu_needs
run headers_have_what_macros_include
run they_install
run dkms_has_built_the_module
run other_kernels_are_told_what_they_lack
run programs_find_the_library
run python_finds_the_module
run manuals_are_there
rm -rf "$root/lib/modules/7.3.4-other" "$root/lib/modules/6.12.1-old"
cp -r boot.sh ../lib "$work/host/"
program boots "$scripts/vm" --root "$root" --nic --share "$work/host" --mem 2G --timeout 600 sh /host/boot.sh
finish
