# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Test cases in KTAP. Sourced by run.sh:
#
#	plan 3
#	run case_function [ARGS...]          one case: a function, in a subshell with set -e
#	program NAME COMMAND [ARGS...]       one case: a program with KTAP of its own, nested
#	finish                               exits 0, 1, or 4 when all cases were skipped
#
# In a case: `fail TEXT`, `skip REASON`, `note TEXT`; `defer COMMAND...` runs COMMAND when the case ends, the last
# one first; `until_true SECONDS COMMAND...` waits for a condition and fails when its time is over.
#
# On an emulated processor a program takes a fiftieth of a second to start, and a subshell half of that: what is here starts few.

ktap_number=0
ktap_failed=0
ktap_skipped=0
ktap_tmp=$(mktemp -d)
trap 'rm -rf "$ktap_tmp"' EXIT

plan() {
	echo "KTAP version 1"
	echo "1..$1"
}

note() {
	echo "# $*"
}

fail() {
	note "$*"
	exit 1
}

skip() {
	echo "$*" >"$ktap_tmp/skip"
	exit 4
}

# Quotes each word for eval, into $quoted.
ktap_quote() {
	local word
	quoted=
	for word in "$@"; do
		case $word in
		*\'*) word=$(printf '%s' "$word" | sed "s/'/'\\\\''/g") ;;
		esac
		quoted="$quoted'$word' "
	done
}

defer() {
	local quoted
	ktap_quote "$@"
	ktap_undo="$quoted
${ktap_undo-}"
}

# quietly COMMAND...: for undoing what may be undone already.
quietly() {
	"$@" 2>/dev/null || true
}

until_true() {
	# On a slow kernel, see scripts/test --debug, everything takes longer.
	local limit=$(($1 * ${NETGPU_TEST_SLOW:-1})) end tries=0 nap=0.05 now
	shift
	now
	end=$((now + limit))
	while ! "$@"; do
		now
		[ "$now" -lt "$end" ] || fail "not within $limit s: $*"
		tries=$((tries + 1))
		case $tries in
		4) nap=0.1 ;;
		8) nap=0.2 ;;
		esac
		sleep $nap
	done
}

# Whole seconds since boot, unmoved by changes of the clock, into $now.
now() {
	read -r now </proc/uptime
	now=${now%%.*}
}

# ktap_result STATUS NAME BEGAN
ktap_result() {
	local rc="$1" name="$2" now took
	now
	took=$((now - $3))
	ktap_number=$((ktap_number + 1))
	# What to look at first when the tests take too long.
	[ $took -lt 5 ] || note "$took s"
	case $rc in
	0) echo "ok $ktap_number $name" ;;
	4)
		ktap_skipped=$((ktap_skipped + 1))
		echo "ok $ktap_number $name # SKIP $(cat "$ktap_tmp/skip" 2>/dev/null || echo "everything in it")"
		;;
	*)
		ktap_failed=$((ktap_failed + 1))
		echo "not ok $ktap_number $name"
		;;
	esac
	[ ! -e "$ktap_tmp/skip" ] || rm "$ktap_tmp/skip"
}

run() {
	local name='' now word
	now
	for word in "$@"; do
		name=$name${name:+.}$word
	done
	# Not in a condition: that would switch set -e off inside.
	(
		ktap_undo=
		trap 'eval "$ktap_undo"' EXIT
		trap 'exit 130' INT TERM
		set -e
		"$@"
	)
	ktap_result $? "$name" "$now"
}

program() {
	local name="$1" now
	now
	shift
	{
		"$@" 2>&1
		echo $? >"$ktap_tmp/rc"
	} | sed 's/^/  /'
	ktap_result "$(cat "$ktap_tmp/rc")" "$name" "$now"
}

finish() {
	[ "$ktap_failed" = 0 ] || exit 1
	[ "$ktap_skipped" != "$ktap_number" ] || exit 4
	exit 0
}
