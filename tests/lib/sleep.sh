# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Suspending the guest. Its virtio devices are what reaches the host: results go over one, /host is on another, and neither that file
# system nor the ports are there again after a suspend. So they have no driver while the guest can sleep: between `host_away` and
# `host_back` there is no /host and no `connectx`, and results wait in memory.

host_away() {
	exec >"$ktap_tmp/results" 2>&1
	host_options=$(awk '$2 == "/host" { print $4 }' /proc/mounts)
	umount /host
	host_devices=$(echo /sys/bus/virtio/drivers/*/virtio*)
	host_drivers unbind
}

# host_drivers bind|unbind
host_drivers() {
	local device
	for device in $host_devices; do
		echo "${device##*/}" >"${device%/*}/$1"
	done
}

# The console comes a moment after its driver.
host_listens() {
	(exec 3<>/dev/hvc0) 2>/dev/null
}

host_back() {
	host_drivers bind
	mount -t 9p -o "$host_options" host /host
	until_true 10 host_listens
	exec 3<>/dev/hvc0
	stty raw -echo <&3
	cat "$ktap_tmp/results" >&3
	exec >&3 2>&1 3>&-
}

# fall_asleep STATE LEVEL: STATE is of /sys/power/state; LEVEL is how far to go, of /sys/power/pm_test, which comes back by itself after
# a second, or `none` for all the way.
fall_asleep() {
	local before
	before=$(cat /sys/power/suspend_stats/success)
	echo 1 >/sys/module/suspend/parameters/pm_test_delay
	echo "$2" >/sys/power/pm_test
	echo "$1" >/sys/power/state
	[ "$(cat /sys/power/suspend_stats/success)" = $((before + 1)) ] || fail "it did not sleep"
}
