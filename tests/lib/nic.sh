# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The two cabled ports. `nic_up` loads the driver and leaves $NETGPU_DEV here, ready for netgpu, and the other port,
# $NETGPU_PEER_DEV, in the network namespace `peer`, which stands for another machine.

export NETGPU_ADDR4=10.9.0.1 NETGPU_PEER_ADDR4=10.9.0.2
export NETGPU_ADDR6=fd09::1 NETGPU_PEER_ADDR6=fd09::2
export NETGPU_PEER_NS=/run/netns/peer

# Names of the network devices of the real driver, in the order of their PCI addresses.
nic_devices() {
	local path
	for path in /sys/bus/pci/drivers/mlx5_core/*/net/*; do
		[ ! -e "$path" ] || basename "$path"
	done
}

nic_two_there() {
	[ "$(nic_devices | wc -l)" = 2 ]
}

nic_carrier() {
	[ "$(cat "/sys/class/net/$NETGPU_DEV/carrier" 2>/dev/null)" = 1 ]
}

in_peer() {
	ip netns exec peer "$@"
}

# both_ways ADDRESS ARGS...: iperf3 from the other machine to a server here that serves again, there and back. Not --bidir: when the machine
# is busy as it starts, iperf3 mixes up which stream is which, and waits for bytes until it gives up.
both_ways() {
	local way
	for way in '' --reverse; do
		in_peer iperf3 --client "$@" $way >"$ktap_tmp/iperf" 2>&1 || fail "$(cat "$ktap_tmp/iperf")"
	done
}

nic_ping() {
	in_peer ping -q -c 1 -W 1 "$NETGPU_ADDR4" >/dev/null && in_peer ping -q -c 1 -W 1 "$NETGPU_ADDR6" >/dev/null
}

# Packets in both directions, for the length of the case, whatever becomes of them. (Killing a function in the background would
# leave its program.)
nic_traffic() {
	ip netns exec peer ping -q -i 0.002 -s 1000 "$NETGPU_ADDR4" >/dev/null 2>&1 &
	defer quietly kill $!
	ping -q -i 0.002 -s 1000 "$NETGPU_PEER_ADDR4" >/dev/null 2>&1 &
	defer quietly kill $!
}

nic_is_there() {
	[ -e "/sys/class/net/$NETGPU_DEV" ]
}

# The name that PCI and devlink know our port by.
nic_pci() {
	basename "$(readlink "/sys/class/net/$NETGPU_DEV/device")"
}

nic_mtu() {
	ip link set "$NETGPU_DEV" mtu "$1"
	in_peer ip link set "$NETGPU_PEER_DEV" mtu "$1"
}

# Both ports, addresses, and a ping over the cable.
nic_up() {
	modprobe mlx5_core
	until_true 60 nic_two_there
	NETGPU_DEV=$(nic_devices | sed -n 1p)
	NETGPU_PEER_DEV=$(nic_devices | sed -n 2p)
	export NETGPU_DEV NETGPU_PEER_DEV

	ip netns add peer
	ip link set "$NETGPU_PEER_DEV" netns peer
	in_peer ip link set lo up
	in_peer ip address add "$NETGPU_PEER_ADDR4/24" dev "$NETGPU_PEER_DEV"
	in_peer ip -6 address add "$NETGPU_PEER_ADDR6/64" dev "$NETGPU_PEER_DEV" nodad
	in_peer ip link set "$NETGPU_PEER_DEV" up
	nic_configure
}

# The opposite of nic_up.
nic_gone() {
	ip netns del peer
	until_true 20 nic_two_there
	rmmod mlx5_core
}

# Our side, from nothing: after nic_up, and again when the device came back without its settings.
nic_configure() {
	ip link set lo up
	ip address replace "$NETGPU_ADDR4/24" dev "$NETGPU_DEV"
	ip -6 address replace "$NETGPU_ADDR6/64" dev "$NETGPU_DEV" nodad
	ip link set "$NETGPU_DEV" up
	until_true 30 nic_carrier
	until_true 30 nic_ping
}

# Everything that a program of ours changes on the device and must put back, as text to compare.
nic_settings() {
	nic_common_settings
	ethtool -n "$NETGPU_DEV" 2>&1
	ethtool -l "$NETGPU_DEV"
	ethtool -k "$NETGPU_DEV"
	ip -o link show "$NETGPU_DEV" | sed 's/qlen.*//'
}

# Those that receivers have in common.
nic_common_settings() {
	ethtool -g "$NETGPU_DEV"
	ethtool -x "$NETGPU_DEV"
}

# nic_steer QUEUE PORT: our device has two queues, of which QUEUE gets what is for PORT and nothing else.
nic_steer() {
	ethtool -L "$NETGPU_DEV" combined 2
	ethtool -X "$NETGPU_DEV" equal 1
	ethtool -K "$NETGPU_DEV" ntuple on
	ethtool -N "$NETGPU_DEV" flow-type tcp4 dst-port "$2" action "$1" loc 1 >/dev/null
	ethtool -N "$NETGPU_DEV" flow-type tcp6 dst-port "$2" action "$1" loc 2 >/dev/null
}

# Undoes nic_steer, but for the number of queues.
nic_unsteer() {
	ethtool -N "$NETGPU_DEV" delete 1
	ethtool -N "$NETGPU_DEV" delete 2
	ethtool -X "$NETGPU_DEV" default
}

nic_queues() {
	find "/sys/class/net/$NETGPU_DEV/queues" -maxdepth 1 -name 'rx-*' | wc -l
}

# counter NAME: one counter of `ethtool -S` of our device.
nic_counter() {
	ethtool -S "$NETGPU_DEV" | awk -v name="$1:" '$1 == name { print $2 }'
}

# connectx REQUEST: asks the software ConnectX under the guest for something, in JSON (see `connectx ctl --help`), and fails if
# it refuses. Leaves the answer in $answer.
connectx() {
	local port
	port=$(grep -lx connectx /sys/class/virtio-ports/*/name) || fail "this guest has no way to its software ConnectX"
	port=${port%/name}
	exec 8<>"/dev/${port##*/}"
	echo "$1" >&8
	read -r answer <&8
	exec 8>&-
	case $answer in
	'{"ok":true'*) ;;
	*) fail "connectx: $1: $answer" ;;
	esac
}

# impair FROM FIELDS...: what the cable does to frames of port FROM (0 is ours, 1 the peer's), for example '"drop":0.01'; nothing
# without FIELDS.
impair() {
	local from="$1"
	shift
	connectx "{\"do\":\"impair\",\"from\":$from,\"impairment\":{$*}}"
}

# fate NAME: how many frames of both directions had it.
fate() {
	connectx '{"do":"fates"}'
	echo "$answer" | tr ',{}' '\n\n\n' | awk -F: -v name="\"$1\"" '$1 == name { sum += $2 } END { print sum }'
}

# Undoes whatever was done to cable and ports by `connectx`.
nic_well() {
	connectx '{"do":"impair"}'
	connectx '{"do":"link","up":true}'
	connectx '{"do":"starve","port":0,"on":false}'
}

# Back to what nic_up left: a killed program could not put anything back.
nic_reset() {
	local rule
	ethtool -n "$NETGPU_DEV" 2>/dev/null | sed -n 's/^Filter: //p' | while read -r rule; do
		ethtool -N "$NETGPU_DEV" delete "$rule"
	done
	ethtool -X "$NETGPU_DEV" default
	ethtool -G "$NETGPU_DEV" tcp-data-split auto 2>/dev/null || ethtool -G "$NETGPU_DEV" tcp-data-split off
}
