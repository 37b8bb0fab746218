#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# On the system with the packages, as it has come up: what host.sh boots.
cd "$(dirname "$0")" || exit 1
. lib/ktap.sh
. lib/nic.sh
. lib/transfer.sh

comes_up() {
	timeout 120 systemctl is-system-running --wait >"$ktap_tmp/state" || {
		cat "$ktap_tmp/state"
		systemctl --failed --no-legend
		fail "something has failed"
	}
}

module_is_loaded() {
	[ -d /sys/module/netgpu ] || fail "nobody has loaded netgpu"
	case $(modinfo -n netgpu) in */updates/dkms/*) ;; *) fail "it is $(modinfo -n netgpu)" ;; esac
}

device_is_the_groups() {
	[ "$(stat -c '%F %G %a' /dev/netgpu)" = 'character special file netgpu 660' ] || fail "$(stat -c '%F %G %a' /dev/netgpu)"
	# A member opens it, and whoever is none does not.
	setpriv --reuid nobody --regid nogroup --groups netgpu sh -c ': <>/dev/netgpu'
	! setpriv --reuid nobody --regid nogroup --clear-groups sh -c ': <>/dev/netgpu' 2>/dev/null || fail "anybody may open it"
}

# Those of the port, which has another number each time that it appears.
settings() {
	nic_settings | sed 's/^[0-9]*: //'
}

# The state of the unit, and its log when that is not STATE.
unit_is() {
	[ "$(systemctl is-active "netgpu-setup@$NETGPU_DEV")" = "$1" ] || {
		journalctl -u "netgpu-setup@$NETGPU_DEV" --no-pager
		fail "the unit is not $1"
	}
}

unit_sets_the_port_up() {
	systemctl start "netgpu-setup@$NETGPU_DEV" || true
	unit_is active
	settings >"$ktap_tmp/now"
	! cmp -s "$before" "$ktap_tmp/now" || fail "nothing has changed"
}

doctor_is_content() {
	local rc=0
	netgpu doctor "$NETGPU_DEV" >"$ktap_tmp/doctor" || rc=$?
	sed 's/^/# /' "$ktap_tmp/doctor"
	[ $rc = 0 ] || fail "netgpu doctor ended with status $rc"
}

bytes_arrive() {
	local sum
	head -c 4M /dev/urandom >"$work/file"
	sum=$(sha256sum "$work/file" | cut -d ' ' -f 1)
	receiver "$NETGPU_ADDR4:5000" --verify "$sum" --output "$work/received"
	in_peer netgpu send --dev "$NETGPU_PEER_DEV" "$NETGPU_ADDR4:5000" "$work/file" >"$work/send.out"
	finished "$receiver" 60 "$work/recv.err"
	sed 's/^/# /' "$work/recv.out"
	cmp "$work/file" "$work/received" || fail "other bytes came than were sent"
	[ "$(field "$(cat "$work/recv.out")" zero-copy)" -gt 0 ] || fail "all of it was copied"
}

unit_restores_it() {
	systemctl stop "netgpu-setup@$NETGPU_DEV"
	unit_is inactive
	settings | diff "$before" - >"$ktap_tmp/diff" || fail "other settings than before: $(head -n 20 "$ktap_tmp/diff")"
}

is_active() {
	[ "$(systemctl is-active "netgpu-setup@$NETGPU_DEV")" = active ]
}

is_not_active() {
	! is_active
}

# As at boot, when it appears.
enabled_unit_follows_the_port() {
	local pci
	pci=$(nic_pci)
	systemctl enable --now "netgpu-setup@$NETGPU_DEV" 2>&1
	unit_is active
	echo "$pci" >/sys/bus/pci/drivers/mlx5_core/unbind
	until_true 20 is_not_active
	echo "$pci" >/sys/bus/pci/drivers/mlx5_core/bind
	until_true 60 is_active
	nic_configure
	doctor_is_content
}

# What was made of the packages $1, and what is in them.
what_is_there() {
	find /etc /run /var -name '*netgpu*' ! -path "*$(uname -r)*" ! -path '/etc/apt/*' ! -path '/run/systemd/*'
	find /usr/lib/modules -path '*/updates/*netgpu*'
	[ -z "$1" ] || dpkg -L $1 | while read -r file; do
		[ -d "$file" ] || echo "$file"
	done
}

purging_leaves_nothing() {
	local ours
	ours=$(dpkg-query -W -f '${Package} ${source:Package}\n' | awk '$2 == "netgpu" { print $1 }')
	what_is_there "$ours" | sort -u >"$ktap_tmp/files"
	note "$(wc -l <"$ktap_tmp/files") files of" $ours
	dpkg --purge $ours >"$ktap_tmp/log" 2>&1 || fail "$(cat "$ktap_tmp/log")"
	sed 's/^/# /' "$ktap_tmp/log"
	while read -r file; do
		[ ! -e "$file" ] && [ ! -L "$file" ] || echo "$file"
	done <"$ktap_tmp/files" >"$ktap_tmp/left"
	what_is_there '' >>"$ktap_tmp/left"
	[ ! -s "$ktap_tmp/left" ] || fail "left: $(cat "$ktap_tmp/left")"
	! getent group netgpu || fail "the group is left"
	settings | diff "$before" - >"$ktap_tmp/diff" || fail "the port was not restored: $(head -n 20 "$ktap_tmp/diff")"
}

plan 9
run comes_up
run module_is_loaded
run device_is_the_groups
nic_up
before=$ktap_tmp/before
settings >"$before"
run unit_sets_the_port_up
run doctor_is_content
run bytes_arrive
run unit_restores_it
run enabled_unit_follows_the_port
run purging_leaves_nothing
finish
