#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Receive buffers that are larger than a page, on profile cx7, which packs payload into them. What is refused is in ../uapi and ../rx. Of
# this one are also the areas buffers-iommu, on a machine with an IOMMU, where only memory is another matter, and buffers-split, on profile
# cx5, where packets lie at fixed places in them.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

MIB=1048576

# Whoever had them lets go some time after its end.
huge_pages_are_back() {
	awk '/^HugePages_(Total|Free):/ { n[$1] = $2 } END { exit n["HugePages_Total:"] != n["HugePages_Free:"] }' /proc/meminfo
}

# stream FAMILY MTU SIZE [ARGUMENTS...]: 32 MiB, exact, nothing copied.
stream() {
	local family="$1" mtu="$2" size="$3" line
	shift 3
	until_true 20 huge_pages_are_back
	nic_mtu "$mtu"
	receiver "$(address ours "$family" 5001)" --buffer-size "$size" "$@"
	peer_sender "$padded" "$(address ours "$family" 5001)" --bytes $((32 * MIB)) --seed "$mtu"
	finished "$receiver" 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	line=$(cat "$work/recv.out")
	note "$line"
	equal "bytes" "$(field "$line" rx)" $((32 * MIB))
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
	equal "copied" "$(field "$line" copied)" 0
	check_log
}

# The C library's example, with buffers of SIZE bytes.
in_c() {
	local bytes=$((16 * MIB))
	until_true 20 huge_pages_are_back
	nic_steer 1 5006
	defer nic_unsteer
	ethtool -G "$NETGPU_DEV" tcp-data-split on
	plain-peer make "$work/file" --bytes $bytes
	nothing_yet "$work/recv.err"
	./receive -4 -q 1 -b "$1" "$NETGPU_DEV" 5006 >"$work/got" 2>"$work/recv.err" &
	receiver=$!
	defer reap $receiver
	until_true 20 is_listening "$work/recv.err" $receiver
	alive $receiver || fail "$(cat "$work/recv.err")"
	peer_sender plain "$(address ours 4 5006)" --file "$work/file"
	finished $receiver 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	cmp "$work/file" "$work/got" || fail "other bytes came than were sent"
	note "$(cat "$work/recv.err")"
	equal "copied" "$(field "$(grep '^rx ' "$work/recv.err")" copied)" 0
	rm "$work/file" "$work/got"
}

# What replaces all channels, or the interface, must come back with buffers of that size.
reopened() {
	local line rx size="$1"
	shift
	until_true 20 huge_pages_are_back
	nic_mtu 1500
	receiver "$(address ours 4 5002)" --buffer-size "$size" "$@"
	peer_sender "$padded" "$(address ours 4 5002)" --bytes $((128 * MIB))
	until_true 20 peer_connected
	for rx in 256 1024; do
		ethtool -G "$NETGPU_DEV" rx $rx
	done
	nic_mtu 4000
	nic_mtu 1500
	ip link set "$NETGPU_DEV" down
	nic_configure
	finished "$receiver" 120 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	line=$(cat "$work/recv.out")
	note "$line"
	equal "bytes" "$(field "$line" rx)" $((128 * MIB))
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
	check_log
}

# A reader that does not read: the TCP window closes before the NIC runs out of buffers.
slow_reader() {
	local bytes=$((64 * MIB)) lost reader
	until_true 20 huge_pages_are_back
	nic_mtu 1500
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	exec 9<>"$work/pipe"
	receiver "$(address ours 4 5003)" --buffer-size "$1" --memory 32M --output "$work/pipe"
	lost=$(lost_packets)
	peer_sender "$padded" "$(address ours 4 5003)" --bytes $bytes
	until_true 20 peer_connected
	stalls peer_acked
	note "the sender waits after $stalled_at bytes"
	at_most "bytes before the sender waits" "$stalled_at" $((36 * MIB))
	equal "packets without a buffer" "$(lost_packets)" "$lost"
	drain sha256sum >"$work/sum"
	finished "$receiver" 120 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	finished "$reader" 20 "$work/sum"
	equal "sha256" "$(cut -d' ' -f1 "$work/sum")" "$(field "$(cat "$work/peer.out")" sha256)"
}

# Frames that are longer than the payload of a full one, by what nobody wants of them.
with_fcs() {
	ethtool -K "$NETGPU_DEV" rx-fcs on
	defer ethtool -K "$NETGPU_DEV" rx-fcs off
	stream 4 1500 "$@"
}

# A ring of the NIC's that is not longer than what would fit a buffer: not all of it may wait for one.
short_ring() {
	local entries
	for entries in 64 1024; do
		ethtool -G "$NETGPU_DEV" rx $entries
		stream 4 1500 "$1"
	done
}

# Both views of a context have the size.
shown() {
	until_true 20 huge_pages_are_back
	receiver "$(address ours 4 5004)" --buffer-size 64K
	netgpu show >"$work/shown"
	grep -q '^  buffers of 64.00 KiB: 1024 donated' "$work/shown" || fail "$(cat "$work/shown")"
	netgpu show --prometheus >"$work/shown"
	grep -q '^netgpu_context_buffer_bytes{.*} 65536$' "$work/shown" || fail "$(cat "$work/shown")"
}

# The message is the command that helps.
without_huge_pages() {
	local had
	until_true 20 huge_pages_are_back
	had=$(cat /proc/sys/vm/nr_hugepages)
	defer eval "echo $had >/proc/sys/vm/nr_hugepages"
	echo 0 >/proc/sys/vm/nr_hugepages
	netgpu recv --dev "$NETGPU_DEV" --listen 5005 --buffer-size 64K 2>"$work/recv.err" && fail "it received without huge pages"
	grep -q '`echo 32 > /proc/sys/vm/nr_hugepages`' "$work/recv.err" || fail "$(cat "$work/recv.err")"
	eval "$(sed -n 's/.*`\(echo 32 > [^`]*\)`.*/\1/p' "$work/recv.err")"
	receiver "$(address ours 4 5005)" --buffer-size 64K
}

stand_in() {
	modprobe standin_gpu
	[ -c /dev/standin_gpu ]
}

with_library
iommu=$(ls /sys/class/iommu 2>/dev/null)
nic_up
# Where it is not to be had, packets are split at a fixed offset, and what comes unpadded is copied in part.
padded=plain
ethtool -K "$NETGPU_DEV" rx-gro-hw on 2>/dev/null || padded=padded
if [ -n "$iommu" ]; then plan 4; elif [ $padded = padded ]; then plan 21; else plan 16; fi
run stand_in
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
nic_mtu 1500
if [ -n "$iommu" ]; then
	program buffers ./buffers -F padded -V host_4k -V host_16k -V host_64k
	run stream 6 9000 64K
elif [ $padded = padded ]; then
	program buffers ./buffers -V host_4k -V host_16k -t hold -t copy -t bad_entries -t send -t queue_again -t shared_by_two_contexts -t taken_back -t room_of_its_own
	nic_mtu 9000
	program buffers_at_mtu_9000 ./buffers -V host_4k -V host_64k -V gpu_64k -t hold -t copy -t queue_again
	run stream 4 1500 8K
	run stream 6 1500 64K
	run stream 4 9000 16K
	run stream 6 9000 128K
	run stream 4 4000 64K
	# Many times through few buffers.
	run stream 4 1500 64K --memory 8M
	run stream 4 9000 128K --memory 16M
	run short_ring 128K
	nic_mtu 1500
	program padded netgpu pad ./buffers -t in_a_row
	program not_padded ./buffers -t not_padded
	nic_mtu 9000
	program padded_at_mtu_9000 netgpu pad ./buffers -V in_4k -t in_a_row
	run stream 4 1500 4K --padded
	run stream 6 1500 64K --padded
	run stream 4 9000 128K --padded
	run with_fcs 64K --padded
	run reopened 64K --padded
	run slow_reader 64K
else
	program buffers ./buffers -F padded
	nic_mtu 9000
	program buffers_at_mtu_9000 ./buffers -t receive -t hold -t copy
	run stream 4 1500 4K --huge
	run stream 6 1500 16K
	run stream 4 1500 64K
	run stream 6 9000 64K
	run stream 4 1500 128K
	# Many times through few buffers.
	run stream 4 1500 64K --memory 8M
	run stream 4 9000 128K --memory 16M
	run in_c 65536
	run reopened 128K
	run slow_reader 64K
	run shown
	run without_huge_pages
fi
run nothing_is_left standin_gpu
finish
