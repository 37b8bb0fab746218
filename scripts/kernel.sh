# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# What scripts/kernel and scripts/kernel-deb have in common: Debian's source with patches/ on top. Sourced after lib.sh, never run.

# kernel_input ROOT: what goes into a kernel that is built in that toolchain root: leaves $source_tar, $source_version, $tools (a key of the
# compilers and the source) and $patches.
kernel_input() {
	local root=$1 name
	source_tar=$(echo "$root"/usr/src/linux-source-*.tar.xz)
	[ -e "$source_tar" ] || die "no kernel source in $root; is linux-source still in scripts/packages?"
	source_version=$(dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Version}' 'linux-source-*')
	# What shapes the result, out of all that is in the root.
	tools=$(dpkg-query --admindir="$root/var/lib/dpkg" -W 'linux-source-*' 'clang-[0-9]*' 'lld-[0-9]*' 'llvm-[0-9]*' rustc rust-src bindgen | awk 'NF == 2' | key_of)
	patches=()
	[ -e "$NETGPU_TOP/patches/series" ] || return 0
	while read -r name; do
		[[ -z $name || $name = \#* ]] && continue
		[ -e "$NETGPU_TOP/patches/$name" ] || die "patches/series names $name, which does not exist"
		patches+=("$NETGPU_TOP/patches/$name")
	done <"$NETGPU_TOP/patches/series"
}

# kernel_tree DIR PART [PATCH...]: makes DIR the source with those patches; PART is who says so.
kernel_tree() {
	local dir=$1 part=$2 pristine=$NETGPU_CACHE/linux-$source_version p
	shift 2
	(
		lock source
		[ ! -e "$pristine" ] || exit 0
		rm -rf "$pristine.tmp"
		mkdir "$pristine.tmp"
		step "$part" "unpacking the kernel source" "$NETGPU_BUILD/log/unpack.log" \
			tar -C "$pristine.tmp" --strip-components=1 -xf "$source_tar"
		mv "$pristine.tmp" "$pristine"
	)
	# Hard links to the pristine source; patch replaces files, it does not write into them.
	cp -al "$pristine" "$dir"
	for p in "$@"; do
		patch -d "$dir" -p1 -F0 -s --no-backup-if-mismatch <"$p" >"$NETGPU_BUILD/log/patch.log" 2>&1 || {
			cat "$NETGPU_BUILD/log/patch.log" >&2
			die "${p##*/} does not apply to ${source_tar##*/} with the patches before it"
		}
	done
}

# kernel_why TREE CONFIG [PATCH...]: what the kernel of that configuration, of those patches, and of $tools has that the one in TREE has not.
kernel_why() {
	local tree=$1 config=$2 why=''
	shift 2
	[ "$(cat "$tree/.tools")" = "$tools" ] || why+=', other compilers or another source'
	[ "$(cat "$tree/build/netgpu.config")" = "$config" ] || why+=', another configuration'
	[ "$(cat "$tree/.patches" 2>/dev/null)" = "$(cat /dev/null "$@" | key_of)" ] || why+=', other patches'
	echo "${why#, }"
}

# kernel_holds FRAGMENT CONFIG: whether each line of FRAGMENT holds in CONFIG. Kconfig drops in silence what does not fit.
kernel_holds() {
	local line bad=0
	while read -r line; do
		[[ $line = CONFIG_* || $line = '# CONFIG_'*' is not set' ]] || continue
		if [[ $line = '#'* ]]; then
			# An option that does not exist is not set either.
			line=${line#\# }
			! grep -q "^${line%% *}=" "$2" || { echo "does not hold: $line"; bad=1; }
		else
			grep -qxF "$line" "$2" || { echo "does not hold: $line"; bad=1; }
		fi
	done <"$1"
	return $bad
}
