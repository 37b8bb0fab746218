#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Ends of all kinds, most of them violent, with data on its way; nothing may be left of them.
#
# NETGPU_TEST_KILLS: how often a program is killed and the module unloaded. NETGPU_TEST_ORDERS: see orders.c.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

kills=${NETGPU_TEST_KILLS:-50}
export NETGPU_TEST_ORDERS="${NETGPU_TEST_ORDERS:-72}"

rx_bytes() {
	cat "/sys/class/net/$NETGPU_DEV/statistics/rx_bytes"
}

tx_bytes() {
	cat "/sys/class/net/$NETGPU_DEV/statistics/tx_bytes"
}

# grown BY FROM COMMAND...: the number that COMMAND prints is BY more than FROM.
grown() {
	local by="$1" from="$2"
	shift 2
	[ $(($("$@") - from)) -ge "$by" ]
}

# KiB of memory that is not free while the ports are down, so that what rings and their pools happen to hold does not
# count, and the kernel has let go of what it can.
memory_in_use() {
	ip link set "$NETGPU_DEV" down
	in_peer ip link set "$NETGPU_PEER_DEV" down
	sync
	echo 3 >/proc/sys/vm/drop_caches
	echo 1 >/proc/sys/vm/stat_refresh
	# Pages that wait on the lists of a CPU ("count:") are free and do not count as such.
	awk '
		FILENAME ~ /zoneinfo/ && $1 == "count:" { waiting += $2 * 4 }
		$1 == "MemTotal:" { total = $2 }
		$1 == "MemFree:" { print total - $2 - waiting }' /proc/zoneinfo /proc/meminfo
	in_peer ip link set "$NETGPU_PEER_DEV" up
	in_peer ip -6 address replace "$NETGPU_PEER_ADDR6/64" dev "$NETGPU_PEER_DEV" nodad
	nic_configure
}

# KiB of slab, stacks, page tables and the like.
kernel_memory() {
	awk '$1 ~ /^(SUnreclaim|KernelStack|PageTables|Percpu|VmallocUsed):$/ { sum += $2 } END { print sum }' /proc/meminfo
}

# One violent end, with a few megabytes already through and more on the way; then the module goes.
kill_once() {
	local victim="$1" from
	modprobe netgpu
	case $victim in
	receiver | its_peer)
		receiver "$(address ours 4 7001)" --memory 8M
		from=$(rx_bytes)
		peer_sender plain "$(address ours 4 7001)" --bytes 100000000000
		until_true 20 grown 2000000 "$from" rx_bytes
		;;
	sender | its_receiver)
		peer_receiver "$(address peer 4 7002)"
		netgpu send --dev "$NETGPU_DEV" --memory 8M "$(address peer 4 7002)" /dev/zero >"$work/send.out" 2>"$work/send.err" &
		receiver=$!
		defer reap "$receiver"
		from=$(tx_bytes)
		until_true 20 grown 2000000 "$from" tx_bytes
		;;
	esac
	case $victim in
	receiver | sender) kill -KILL "$receiver" ;;
	*) kill -KILL "$peer" ;;
	esac
	# Whoever is left has lost the connection and ends by itself.
	until_true 20 gone "$receiver"
	until_true 20 gone "$peer"
	until_true 10 pinned_is "$pinned_at_first"
	until_true 10 module_unload
	nic_reset
}

kill_and_unload() {
	local n=0 used_before=0 kernel_before=0 used kernel room
	while [ $n -lt "$kills" ]; do
		for victim in receiver sender its_peer its_receiver; do
			[ $n -lt "$kills" ] || break
			# What the first rounds leave behind is what is kept for the next ones.
			if [ $n = 8 ]; then
				used_before=$(memory_in_use)
				kernel_before=$(kernel_memory)
			fi
			kill_once $victim
			n=$((n + 1))
		done
	done
	nic_ping
	modprobe netgpu
	if [ "$used_before" != 0 ]; then
		used=$(memory_in_use)
		kernel=$(kernel_memory)
		note "in use $used_before KiB before, $used KiB after; by the kernel itself $kernel_before KiB before, $kernel KiB after"
		# KASAN keeps what was freed for a while, and the stacks of who did it.
		room=$((1024 * ${NETGPU_TEST_SLOW:-1} * ${NETGPU_TEST_SLOW:-1}))
		at_most "KiB in use" "$used" $((used_before + room))
		at_most "KiB used by the kernel itself" "$kernel" $((kernel_before + room))
	fi
	check_log
}

# The module does not go while it is in use, and comes to no harm from being asked.
unload_in_use() {
	local from
	modprobe netgpu
	receiver "$(address ours 4 7003)" --memory 8M
	from=$(rx_bytes)
	peer_sender plain "$(address ours 4 7003)" --bytes 100000000000
	until_true 20 grown 2000000 "$from" rx_bytes
	rmmod netgpu 2>"$work/rmmod" && fail "the module went while its queue was open"
	grep -q "in use" "$work/rmmod" || fail "rmmod: $(cat "$work/rmmod")"
	from=$(rx_bytes)
	until_true 20 grown 2000000 "$from" rx_bytes
	kill -INT "$receiver"
	until_true 10 gone "$receiver"
	until_true 10 pinned_is "$pinned_at_first"
}

device_there() {
	[ -n "$(ls "/sys/bus/pci/devices/$1/net" 2>/dev/null)" ]
}

# The driver takes the device of PCI address $1 again, which may get another name.
bind_again() {
	device_there "$1" || echo "$1" >/sys/bus/pci/drivers/mlx5_core/bind
	until_true 60 device_there "$1"
	NETGPU_DEV=$(basename "/sys/bus/pci/devices/$1/net/"*)
	nic_configure
}

# The device goes while it receives or sends: the program is told, ends by itself, and the device comes back.
unbind() {
	local direction="$1" from pci
	modprobe netgpu
	NETGPU_DEV=$(nic_devices | sed -n 1p)
	pci=$(basename "$(readlink "/sys/class/net/$NETGPU_DEV/device")")
	defer bind_again "$pci"
	if [ "$direction" = receiving ]; then
		receiver "$(address ours 4 7004)" --memory 8M
		from=$(rx_bytes)
		peer_sender plain "$(address ours 4 7004)" --bytes 100000000000
		until_true 20 grown 2000000 "$from" rx_bytes
	else
		peer_receiver "$(address peer 4 7005)"
		netgpu send --dev "$NETGPU_DEV" --memory 8M "$(address peer 4 7005)" /dev/zero >"$work/recv.out" 2>"$work/recv.err" &
		receiver=$!
		defer reap "$receiver"
		from=$(tx_bytes)
		until_true 20 grown 2000000 "$from" tx_bytes
	fi
	echo "$pci" >/sys/bus/pci/drivers/mlx5_core/unbind
	until_true 20 gone "$receiver"
	grep -q "^netgpu: " "$work/recv.err" || fail "the program did not say why it ended"
	reap "$peer"
	until_true 10 pinned_is "$pinned_at_first"
	until_true 10 module_unload
	bind_again "$pci"
}

# With the device's name, which unbinding may have changed.
still_works() {
	local line
	modprobe netgpu
	NETGPU_DEV=$(nic_devices | sed -n 1p)
	receiver "$(address ours 4 7006)"
	peer_sender padded "$(address ours 4 7006)" --bytes 16777216
	finished "$receiver" 60 "$work/recv.err"
	finished "$peer" 10 "$work/peer.err"
	line=$(cat "$work/recv.out")
	note "$line"
	equal "bytes" "$(field "$line" rx)" 16777216
	equal "copied" "$(field "$line" copied)" 0
	equal "sha256" "$(field "$line" sha256)" "$(field "$(cat "$work/peer.out")" sha256)"
}

# The driver can be unloaded when netgpu is gone.
nothing_is_left() {
	until_true 10 pinned_is "$pinned_at_first"
	until_true 10 module_unload
	nic_ping
	kmemleak_check
	check_log
}

plan 7
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
kmemleak_clear
program orders ./orders
run unload_in_use
run kill_and_unload
run unbind receiving
run unbind sending
run still_works
run nothing_is_left
finish
