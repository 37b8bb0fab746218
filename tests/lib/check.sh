# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# What a test area must leave behind as it found it.

# What the kernel's log has only when something is wrong, for grep -E.
bad_log='BUG:|WARNING:|Oops|UBSAN:|KASAN:|inconsistent lock state|possible (recursive|circular)|suspicious RCU usage|lockdep is turned off|turning off the locking|unreferenced object|stalled pool|hung task|general protection|refcount_t'

# Nothing of that in the log since it was cleared.
check_log() {
	dmesg | awk -f /tests/lib/races.awk >"$ktap_tmp/dmesg"
	if grep -E "$bad_log" "$ktap_tmp/dmesg" >"$ktap_tmp/bad"; then
		sed 's/^/# /' "$ktap_tmp/bad"
		fail "the kernel log has the above"
	fi
}

# Pages that are pinned for long and not released yet: all that netgpu regions hold.
pinned_pages() {
	echo 1 >/proc/sys/vm/stat_refresh
	awk '$1 == "nr_foll_pin_acquired" { a = $2 } $1 == "nr_foll_pin_released" { r = $2 } END { print a - r }' /proc/vmstat
}

pinned_is() {
	[ "$(pinned_pages)" = "$1" ]
}

# kmemleak_clear: forget what was found so far. kmemleak_check: fail when something leaked since. Both take two scans,
# because an object counts only when it was unreferenced in an earlier scan and has not changed, and kmemleak does not
# judge an object in its first five seconds (MSECS_MIN_AGE in mm/kmemleak.c).
kmemleak_clear() {
	echo scan >/sys/kernel/debug/kmemleak
	echo clear >/sys/kernel/debug/kmemleak
}

kmemleak_check() {
	local old_enough now
	now
	old_enough=$((now + 6))
	while [ "$now" -lt "$old_enough" ]; do
		sleep 0.2
		now
	done
	echo scan >/sys/kernel/debug/kmemleak
	echo scan >/sys/kernel/debug/kmemleak
	cat /sys/kernel/debug/kmemleak >"$ktap_tmp/leaks"
	[ ! -s "$ktap_tmp/leaks" ] || {
		sed 's/^/# /' "$ktap_tmp/leaks"
		fail "kmemleak found the above"
	}
}

# nothing_is_left [MODULE...]: of what netgpu did since $pinned_at_first pages were pinned. The MODULEs go after it.
nothing_is_left() {
	until_true 10 pinned_is "$pinned_at_first"
	until_true 10 module_unload
	for module in "$@"; do
		until_true 10 rmmod "$module"
	done
	nic_ping
	check_log
}

module_gone() {
	! grep -q '^netgpu ' /proc/modules
}

# Unloads the module; its users may need a moment to let go.
module_unload() {
	rmmod netgpu 2>/dev/null || module_gone
}
