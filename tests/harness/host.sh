#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# That the harness sees what goes wrong: statuses, warnings, crashes and hangs of a guest, and results that are not there.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
scripts=$(realpath ../../scripts)

# guest STATUS [OPTIONS] COMMAND...: it must end with STATUS.
guest() {
	local wanted="$1" rc=0
	shift
	"$scripts/vm" "$@" >"$ktap_tmp/out" 2>"$ktap_tmp/err" || rc=$?
	[ "$rc" = "$wanted" ] || {
		sed 's/^/# /' "$ktap_tmp/out" "$ktap_tmp/err"
		fail "the guest's run ended with status $rc, expected $wanted"
	}
}

status_is_handed_on() {
	guest 0 true
	guest 7 sh -c 'echo here; exit 7'
	[ "$(cat "$ktap_tmp/out")" = here ] || fail "its output is: $(cat "$ktap_tmp/out")"
}

files_go_in_and_out() {
	mkdir "$ktap_tmp/share"
	echo in >"$ktap_tmp/share/in"
	guest 0 --share "$ktap_tmp/share" cp /host/in /host/out
	[ "$(cat "$ktap_tmp/share/out")" = in ] || fail "the file did not come out"
}

# provoke WHAT STATUS
provoke() {
	guest "$2" sh -c "modprobe lkdtm; echo $1 >/sys/kernel/debug/provoke-crash/DIRECT; true"
}

warning_fails() {
	provoke WARNING 125
	grep -q 'WARNING: ' "$ktap_tmp/err" || fail "the message does not show the warning"
}

sleeping_in_atomic_context_fails() {
	guest 125 sh -c 'echo "BUG: sleeping function called from invalid context" >/dev/kmsg'
}

bug_fails() {
	provoke BUG 125
}

warning_can_be_allowed() {
	guest 0 --allow-warnings sh -c 'modprobe lkdtm; echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT; true'
}

dead_guest_fails() {
	guest 125 sh -c 'poweroff -f; sleep 10'
	grep -q 'without a result' "$ktap_tmp/err" || fail "the message does not tell"
}

hang_fails() {
	guest 124 --timeout 6 sleep 60
	grep -q 'within 6 seconds' "$ktap_tmp/err" || fail "the message does not tell"
}

# counts TEXT PASSED FAILED SKIPPED: TEXT is KTAP, with \n.
counts() {
	rm -f "$ktap_tmp/tally"
	printf "$1" | "$scripts/ktap" -v area=harness -v tally="$ktap_tmp/tally" >"$ktap_tmp/out"
	[ "$(cat "$ktap_tmp/tally")" = "$2 $3 $4" ] || {
		sed 's/^/# /' "$ktap_tmp/out"
		fail "counted: $(cat "$ktap_tmp/tally"), expected: $2 $3 $4"
	}
}

results_are_counted() {
	counts '1..3\nok 1 a\nnot ok 2 b\nok 3 c # SKIP why\n' 1 1 1
	counts '1..1\n  1..2\n  ok 1 a\n  not ok 2 b\nnot ok 1 both\n' 1 1 0
	counts '1..1\n  1..2\n  ok 1 a\n  ok 2 b\nok 1 both\n' 2 0 0
	counts '1..1\n  1..1\n  ok 1 a\nnot ok 1 but its end failed\n' 1 1 0
	counts '1..2\n    1..1\n    ok 1 a\nok 1 first\n    1..1\n    ok 1 b\nok 2 second\n' 2 0 0
}

missing_results_fail() {
	counts 'nothing\n' 0 1 0
	counts '1..2\nok 1 a\n' 1 1 0
	counts '1..1\n  1..3\n  ok 1 a\nok 1 all\n' 1 1 0
	counts '1..1\nok 1 a\nBail out! enough\n' 1 1 0
}

# What is started after cargo's target folder was made does not keep other checkouts waiting.
target_is_made_and_let_go() {
	NETGPU_CACHE=$ktap_tmp/cache bash -euc '
		. "$1/lib.sh"
		use_target
		[ "$(cat "$NETGPU_TARGET/.checkout")" = "$NETGPU_TOP" ]
		flock --nonblock "$NETGPU_CACHE/.lock-target" true' - "$scripts" || fail "its lock is held"
}

# differs TOOLS CONFIG PATCH WHAT: from a kernel of `tools`, `config` and `patch`.
differs() {
	local why
	why=$(tools=$1 bash -euc '. "$1/lib.sh"; . "$1/kernel.sh"; kernel_why "$2" "$3" <(echo "$4")' - "$scripts" "$ktap_tmp/kernel" "$2" "$3")
	[ "$why" = "$4" ] || fail "it says: $why; expected: $4"
}

second_kernel_has_a_reason() {
	mkdir -p "$ktap_tmp/kernel/build"
	echo tools >"$ktap_tmp/kernel/.tools"
	echo config >"$ktap_tmp/kernel/build/netgpu.config"
	# One that is older than this has no note of its patches.
	differs tools config patch 'other patches'
	echo patch | sha256sum | cut -c 1-12 >"$ktap_tmp/kernel/.patches"
	differs tools config another 'other patches'
	differs tools another patch 'another configuration'
	differs another config patch 'other compilers or another source'
	differs another another another 'other compilers or another source, another configuration, other patches'
}

plan 12
run status_is_handed_on
run files_go_in_and_out
run warning_fails
run sleeping_in_atomic_context_fails
run bug_fails
run warning_can_be_allowed
run dead_guest_fails
run hang_fails
run results_are_counted
run missing_results_fail
run target_is_made_and_let_go
run second_kernel_has_a_reason
finish
