# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Common to all scripts here: where things are, messages, logged steps, locks. Sourced, never run.

NETGPU_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# Inside the toolchain root it is known already, and HOME is another.
NETGPU_CACHE=${NETGPU_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netgpu}
NETGPU_BUILD=$NETGPU_TOP/build
# What cargo builds: outside the checkout, whose object files Kbuild's clean removes. One for each checkout, see use_target.
NETGPU_TARGET=$NETGPU_CACHE/target-$(printf %s "$NETGPU_TOP" | sha256sum | cut -c 1-12)
mkdir -p "$NETGPU_CACHE" "$NETGPU_BUILD"

# say PART MESSAGE: one line of progress. On stderr, because stdout carries a script's result.
say() {
	printf '%s: %s\n' "$1" "$2" >&2
}

die() {
	printf '%s: error: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# usage_if_asked ARGS...: print the comment block at the top of the calling script for --help.
usage_if_asked() {
	local arg
	for arg in "$@"; do
		case $arg in
		-h | --help)
			awk 'NR > 2 && !/^#/ { exit } NR > 2 { sub(/^# ?/, ""); print }' "$0"
			exit 0
			;;
		--) return 0 ;;
		esac
	done
}

need_root_user() {
	[ "$(id -u)" = 0 ] || die "must run as root: it mounts file systems and enters a chroot"
}

# elapsed START: "12s" or "3m05s" since START, a value of SECONDS.
elapsed() {
	local t=$((SECONDS - $1))
	if [ "$t" -lt 60 ]; then printf '%ds' "$t"; else printf '%dm%02ds' $((t / 60)) $((t % 60)); fi
}

# step PART WHAT LOG COMMAND...: run COMMAND with its output in LOG, showing that it lives: on a terminal one line that
# is rewritten each second, otherwise a line every 20 seconds. A failure shows the end of LOG.
step() {
	local part=$1 what=$2 log=$3 start=$SECONDS pid rc=0 tick=0 state
	shift 3
	mkdir -p "$(dirname "$log")"
	say "$part" "$what"
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2 || true
		tick=$((tick + 1))
		if [ -t 2 ] && [ $((tick % 5)) = 0 ]; then
			printf '\r\033[K%s: %s' "$part" "$(step_state "$start" "$log" 60)" >&2
		elif [ ! -t 2 ] && [ $((tick % 100)) = 0 ]; then
			say "$part" "  $(step_state "$start" "$log" 100)"
		fi
	done
	wait "$pid" || rc=$?
	[ ! -t 2 ] || printf '\r\033[K' >&2
	if [ "$rc" != 0 ]; then
		tail -n 30 "$log" >&2
		say "$part" "failed after $(elapsed "$start"): $what (exit status $rc; full log: $log)"
		return "$rc"
	fi
	state=$(elapsed "$start")
	[ "$state" = 0s ] || say "$part" "  done in $state"
}

step_state() {
	local last
	last=$(tail -c 400 "$2" 2>/dev/null | tr '\r' '\n' | grep -av '^[[:space:]]*$' | tail -n 1 | tr -cd '[:print:]' | cut -c "1-$3") || true
	printf '%s %s' "$(elapsed "$1")" "$last"
}

# lock NAME: hold the cache lock NAME until this script ends, so that two runs do not build the same thing at once.
lock() {
	local fd
	exec {fd}>"$NETGPU_CACHE/.lock-$1"
	if ! flock --nonblock "$fd"; then
		say "$1" "another run is building this; waiting for it"
		flock "$fd"
	fi
}

# key_of: a short name for what is on stdin.
key_of() {
	sha256sum | cut -c 1-12
}

# module_tree KERNEL HOW: where the modules lie that scripts/module has built for that flavour of the kernel, in that way. Both may be
# empty: then it is the checkout itself.
module_tree() {
	local name=$1${1:+${2:+-}}$2
	echo "${name:+$NETGPU_BUILD/}${name:-$NETGPU_TOP}"
}

# inside_root "$@": go on with the calling script inside the toolchain root, with the same arguments. With enter_args set, those
# of scripts/enter.
enter_args=()
inside_root() {
	[ -z "${NETGPU_INSIDE_ROOT-}" ] || return 0
	exec "$NETGPU_TOP/scripts/enter" "${enter_args[@]}" "$(realpath "$0")" "$@"
}

# use_target: makes cargo's target folder of this checkout. A new one starts from that of another checkout, so that the
# crates that we depend on need not be compiled again; our own are. (Cargo tells those of two checkouts apart by time stamps
# only: in a common folder an old program would pass for a new one.)
use_target() {
	[ ! -e "$NETGPU_TARGET/.checkout" ] || return 0
	# In a shell of its own: what is started after this does not inherit the lock.
	(
		lock target
		[ ! -e "$NETGPU_TARGET/.checkout" ] || exit 0
		make_target
	)
}

make_target() {
	local other from='' manifest
	rm -rf "$NETGPU_TARGET" "$NETGPU_TARGET.new"
	for other in "$NETGPU_CACHE"/target-*/.checkout; do
		[ -e "$other" ] || continue
		if [ ! -d "$(cat "$other")" ]; then
			# Left by a checkout that is gone: of several of them one is kept.
			rm -rf "$NETGPU_TARGET.new"
			mv "${other%/*}" "$NETGPU_TARGET.new"
		else
			from=${other%/*}
		fi
	done
	if [ ! -d "$NETGPU_TARGET.new" ] && [ -n "$from" ]; then
		say crates "starting from what another checkout has compiled"
		# Cargo holds these locks while it compiles.
		flock "$from/debug/.cargo-build-lock" flock "$from/release/.cargo-build-lock" cp -a "$from" "$NETGPU_TARGET.new"
	fi
	mkdir -p "$NETGPU_TARGET.new/"{debug,release}
	touch "$NETGPU_TARGET.new/"{debug,release}/.cargo-build-lock
	for manifest in "$NETGPU_TOP"/crates/*/Cargo.toml; do
		rm -rf "$NETGPU_TARGET.new/"{debug,release}/.fingerprint/"$(sed -n 's/^name = "\(.*\)"/\1/p' "$manifest" | sed -n 1p)"-*
	done
	echo "$NETGPU_TOP" >"$NETGPU_TARGET.new/.checkout"
	mv "$NETGPU_TARGET.new" "$NETGPU_TARGET"
}
