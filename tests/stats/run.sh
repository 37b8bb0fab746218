#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# What is counted, for the owner by ioctl (stats.c), for the administrator in debugfs and as trace events.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

shown=/sys/kernel/debug/netgpu
events=/sys/kernel/tracing/events/netgpu

contexts_are_shown() {
	[ -n "$(ls "$shown")" ]
}

bytes_are_shown() {
	[ "$(field "$(sed -n 's/^context [0-9]* //p' "$shown"/*)" rx_zerocopy)" -gt 1000000 ]
}

debugfs() {
	local file text
	[ -d "$shown" ] || fail "no directory"
	[ -z "$(ls "$shown")" ] || fail "there are contexts: $(ls "$shown")"
	receiver "$(address ours 4 7001)" --memory 16M
	peer_sender plain "$(address ours 4 7001)" --bytes 100000000000
	until_true 10 contexts_are_shown
	until_true 20 bytes_are_shown
	file=$(echo "$shown"/*)
	equal "mode of the file" "$(stat -c %a:%u "$file")" 400:0
	equal "mode of debugfs" "$(stat -c %a:%u /sys/kernel/debug)" 700:0
	text=$(cat "$file")
	echo "$text" | sed 's/^/# /'
	equal "the number" "$(field "$text" context)" "${file##*/}"
	equal "the device" "$(field "$text" ifindex)" "$(cat "/sys/class/net/$NETGPU_DEV/ifindex")"
	for what in region queue socket; do
		equal "lines of a $what" "$(echo "$text" | grep -c "^$what ")" 1
	done
	! echo "$text" | grep -qiE '(^|[^0-9a-f])ffff[0-9a-f]{12}' || fail "that is an address of the kernel"
	kill -INT "$receiver"
	until_true 10 gone "$receiver"
	until_true 10 nothing_is_shown
}

nothing_is_shown() {
	[ -z "$(ls "$shown")" ]
}

# Reads files while contexts come and go.
debugfs_in_a_storm() {
	local n=0 reader
	(while :; do cat "$shown"/* >/dev/null 2>&1; done) &
	reader=$!
	defer reap "$reader"
	while [ $n -lt 20 ]; do
		./stats -r stats.steered.arguments >/dev/null || fail "round $n"
		n=$((n + 1))
	done
	reap "$reader"
	check_log
}

# The names are a promise.
names_of_events() {
	local name
	for name in attach bad_addr bad_return bind complete deliver detach queue_close queue_empty queue_open region_attach \
		region_revoke send stall; do
		echo "netgpu_$name"
	done >"$ktap_tmp/expected"
	find "$events" -mindepth 1 -maxdepth 1 -type d -name 'netgpu_*' | sed 's,.*/,,' | sort >"$ktap_tmp/there"
	cmp "$ktap_tmp/expected" "$ktap_tmp/there" || fail "there are: $(cat "$ktap_tmp/there")"
}

# traced NAME PATTERN: an event of that name was traced, and its text matches.
traced() {
	grep -qE ": netgpu_$1: $2\$" "$ktap_tmp/trace" || fail "no $1 like $2 but: $(grep "netgpu_$1:" "$ktap_tmp/trace" | head -n 3)"
}

listen_no_more() {
	echo 0 >"$events/enable"
	echo >/sys/kernel/tracing/trace
}

trace_events() {
	echo >/sys/kernel/tracing/trace
	echo 1 >"$events/enable"
	defer listen_no_more
	./stats -r stats.steered.of_bad_entries >/dev/null
	./stats -r stats.steered.of_sends >/dev/null
	./stats -r stats.steered.of_a_full_ring >/dev/null
	./stats -r stats.steered.of_what_goes >/dev/null
	echo 0 >"$events/enable"
	cat /sys/kernel/tracing/trace >"$ktap_tmp/trace"
	traced bind "context=[0-9]+ ifindex=$(cat "/sys/class/net/$NETGPU_DEV/ifindex")"
	traced region_attach "context=[0-9]+ addr=0x[0-9a-f]+ len=1048576"
	traced queue_open "context=[0-9]+ queue=0 index=[0-9]+"
	traced queue_close "context=[0-9]+ queue=0 index=[0-9]+"
	traced queue_empty "context=[0-9]+ queue=0 index=[0-9]+"
	traced bad_addr "context=[0-9]+ queue=0 addr=0x1"
	traced bad_return "context=[0-9]+ queue=0 addr=0x[0-9a-f]+"
	traced attach "context=[0-9]+ socket=0"
	traced detach "context=[0-9]+ socket=0 aborted=0"
	traced detach "context=[0-9]+ socket=0 aborted=1"
	traced deliver "context=[0-9]+ socket=0 zerocopy=[1-9][0-9]* copied=[0-9]+ split=[0-9]+ no_room=[0-9]+ unsplit=[0-9]+"
	traced stall "context=[0-9]+ socket=0 reason=ring"
	traced send "context=[0-9]+ socket=0 id=0 len=10000"
	traced complete "context=[0-9]+ socket=0 id=0 copied=0"
	! grep -qiE '(^|[^0-9a-f])ffff[0-9a-f]{12}' "$ktap_tmp/trace" || fail "that is an address of the kernel"
	check_log
}

nothing_is_left() {
	until_true 10 pinned_is "$pinned_at_first"
	until_true 10 module_unload
	[ ! -e "$shown" ] || fail "debugfs has a directory still"
	[ ! -e "$events" ] || fail "there are events still"
	nic_ping
	check_log
}

plan 6
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
program stats ./stats
run debugfs
run debugfs_in_a_storm
run names_of_events
run trace_events
run nothing_is_left
finish
