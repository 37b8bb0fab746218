#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Runs the commands of README.md and docs/ that a user gives: page by page, in order, as they stand there (../lib/blocks.awk). The NIC is
# eth0 with the address 192.0.2.1, the other machine has 192.0.2.2.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

# The network of the other machine, and the cgroups of this one, which `ip netns exec` hides. By a path, or busybox's nsenter starts
# busybox's shell, which has commands of its own.
on_the_other_machine() {
	nsenter --net="$NETGPU_PEER_NS" /usr/bin/env "$@"
}

# start MARKS PLACE FILE: leaves $started.
start() {
	local marks="$1" place="$2" file="$3" out where=''
	out=$work/$(basename "$file").out
	case " $marks " in *' peer '*) where=on_the_other_machine ;; esac
	echo "# $place" >"$out"
	$where sh -eu "$file" >>"$out" 2>&1 &
	started=$!
	defer reap "$started"
	case " $marks " in
	*' background '*)
		until_true 20 is_listening "$out" "$started"
		background="$background $started:$out"
		;;
	*) finished "$started" 60 "$out" ;;
	esac
}

# page FILE: what it has started in the background must have come to a good end.
page() {
	local background='' one
	mkdir "$work/$1"
	while read -r number place marks; do
		note "$place $marks"
		start "$marks" "$place" "$work/blocks/$number"
	done <<-END
		$(grep " pages/$1:" "$work/list")
	END
	for one in $background; do
		finished "${one%%:*}" 30 "${one#*:}"
	done
}

received_is_what_was_sent() {
	cmp /tmp/file /tmp/received || fail "other bytes came than were sent"
	grep -h 'zero-copy' "$work"/*.out >"$work/summaries" || fail "nothing says how the bytes came"
	sed 's/^/# /' "$work/summaries"
	# The padded one.
	grep -q '^rx .* copied 0 ' "$work/summaries" || fail "none came without a copy"
}

nothing_is_left() {
	until_true 10 module_unload
	nic_ping
	check_log
}

nic_up
[ "$NETGPU_DEV" = eth0 ] || {
	ip link set "$NETGPU_DEV" down
	ip link set "$NETGPU_DEV" name eth0
	NETGPU_DEV=eth0
	nic_configure
}
ip address add 192.0.2.1/24 dev eth0
in_peer ip address add 192.0.2.2/24 dev "$NETGPU_PEER_DEV"

mkdir "$work/blocks"
awk -v area=manual -v out="$work/blocks" -f ../lib/blocks.awk pages/*.md >"$work/list"
pages=$(sed -n 's,^[0-9]* pages/\(.*\):[0-9]* .*,\1,p' "$work/list" | uniq)
plan $(($(echo "$pages" | wc -l) + 2))
for page in $pages; do
	run page "$page"
done
run received_is_what_was_sent
run nothing_is_left
finish
