#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Everything that ethtool, ip and devlink can ask of a ConnectX or set: what it can do, it does, what it cannot, the driver knows from its
# capabilities and says so. A command that the card refuses is a capability that lied.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

# takes COMMAND...
takes() {
	"$@" >"$ktap_tmp/out" 2>&1 || fail "$*: $(cat "$ktap_tmp/out")"
}

# tells TEXT COMMAND...
tells() {
	local text="$1"
	shift
	takes "$@"
	grep -q -e "$text" "$ktap_tmp/out" || fail "$*: no $text in: $(cat "$ktap_tmp/out")"
}

# refuses TEXT COMMAND...: for this reason.
refuses() {
	local text="$1"
	shift
	! "$@" >"$ktap_tmp/out" 2>&1 || fail "$*: it was accepted"
	grep -q -e "$text" "$ktap_tmp/out" || fail "$*: not for the reason $text: $(cat "$ktap_tmp/out")"
}

# sweep GROUP: one group, and what it has left.
sweep() {
	dmesg -c >/dev/null
	"$1"
	dmesg >"$ktap_tmp/log"
	! grep -E 'cmd_out_err|cmd_work_handler|CQE|WARNING|BUG' "$ktap_tmp/log" || fail "the card refused a command of its driver"
	until_true 20 nic_carrier
	nic_ping
}

queues() {
	takes ethtool -g "$D"
	takes ethtool -G "$D" rx 4096 tx 4096
	takes ethtool -G "$D" rx 1024 tx 1024
	refuses 'exceeds maximum\|Invalid argument' ethtool -G "$D" rx 16384
	refuses 'rx buf len not supported' ethtool -G "$D" rx-buf-len 4096
	takes ethtool -l "$D"
	takes ethtool -L "$D" combined 1
	takes ethtool -L "$D" combined 2
	refuses 'exceeds maximum\|Invalid argument' ethtool -L "$D" combined 3
	takes ethtool -c "$D"
	takes ethtool -C "$D" adaptive-rx off rx-usecs 50 tx-usecs 50
	takes ethtool -Q "$D" queue_mask 0x1 --show-coalesce
	takes ethtool -Q "$D" queue_mask 0x1 --coalesce rx-usecs 20
	refuses 'Numerical result out of range\|maximum' ethtool -C "$D" rx-usecs 5000
	takes ethtool -C "$D" cqe-mode-rx off cqe-mode-tx on
	takes ethtool -C "$D" cqe-mode-rx on cqe-mode-tx off
	takes ethtool -C "$D" adaptive-rx on
	refuses 'I/O error\|not supported' sh -c "echo 100 >/sys/class/net/$D/queues/tx-0/tx_maxrate"
}

features() {
	local feature
	for feature in tx rx sg tso gso gro rxvlan txvlan rxhash rx-vlan-filter tx-gso-partial tx-udp-segmentation rx-udp_tunnel-port-offload; do
		takes ethtool -K "$D" $feature off
		takes ethtool -K "$D" $feature on
	done
	for feature in rx-fcs rx-udp-gro-forwarding rx-gro-list tx-nocache-copy; do
		takes ethtool -K "$D" $feature on
		takes ethtool -K "$D" $feature off
	done
	takes ethtool -K "$D" ntuple on
	takes ethtool -K "$D" ntuple off
	for feature in rx-all loopback rx-gro-hw hw-tc-offload tls-hw-tx-offload tls-hw-rx-offload esp-hw-offload macsec-hw-offload; do
		refuses 'Could not change any device features' ethtool -K "$D" $feature on
	done
}

hashing() {
	local kind
	takes ethtool -X "$D" equal 2
	takes ethtool -X "$D" weight 3 1
	takes ethtool -X "$D" default
	takes ethtool -X "$D" hfunc xor
	takes ethtool -X "$D" hfunc toeplitz
	refuses 'not supported' ethtool -X "$D" xfrm symmetric-xor
	takes ethtool -X "$D" xfrm none
	for kind in tcp4 tcp6 udp4 udp6; do
		tells 'IP SA' ethtool -n "$D" rx-flow-hash $kind
		takes ethtool -N "$D" rx-flow-hash $kind sd
		takes ethtool -N "$D" rx-flow-hash $kind sdfn
	done
	for kind in ah4 esp4 ah6 esp6 sctp4 ether; do
		refuses 'Invalid argument' ethtool -n "$D" rx-flow-hash $kind
	done
}

private_flags() {
	local flag
	for flag in rx_no_csum_complete tx_cqe_moder; do
		takes ethtool --set-priv-flags "$D" $flag on
		takes ethtool --set-priv-flags "$D" $flag off
	done
	takes ethtool --set-priv-flags "$D" rx_cqe_moder off
	takes ethtool --set-priv-flags "$D" rx_cqe_moder on
	refuses 'Could not change any device features' ethtool -K "$D" lro on
	takes ethtool --set-priv-flags "$D" rx_striding_rq on
	takes ethtool -K "$D" lro on
	takes ethtool -K "$D" lro off
	takes ethtool --set-priv-flags "$D" rx_striding_rq off
	for flag in rx_cqe_compress xdp_tx_mpwqe skb_tx_mpwqe tx_port_ts; do
		refuses 'not supported' ethtool --set-priv-flags "$D" $flag on
		takes ethtool --set-priv-flags "$D" $flag off
	done
}

physical_port() {
	tells 'Link detected: yes' ethtool "$D"
	tells 'RX:.*on' ethtool -a "$D"
	refuses 'Invalid argument' ethtool -A "$D" autoneg on
	tells 'Active FEC encoding: RS' ethtool --show-fec "$D"
	tells 'QSFP28' ethtool -m "$D"
	takes ethtool -m "$D" hex on length 16
	takes ethtool --show-module "$D"
	refuses 'not supported' ethtool --set-module "$D" power-mode-policy auto
	tells 'vxlan' ethtool --show-tunnels "$D"
	takes ethtool -p "$D" 1
	refuses 'not supported' ethtool --show-eee "$D"
	refuses 'not supported' ethtool -r "$D"
	refuses 'unsupported WoL mode' ethtool -s "$D" wol g
	refuses 'no stats available' ethtool --phy-statistics "$D"
	refuses 'not supported' ethtool --cable-test "$D"
	refuses 'Cannot get tunable' ethtool --get-tunable "$D" pfc-prevention-tout
	refuses 'not supported' ethtool --reset "$D" all
}

tells_of_itself() {
	tells 'driver: mlx5_core' ethtool -i "$D"
	tells 'software-receive' ethtool -T "$D"
	tells 'result is PASS' ethtool -t "$D" online
	tells 'result is PASS' ethtool -t "$D" offline
	tells 'rx_packets_phy' ethtool -S "$D"
	tells 'FramesTransmittedOK' ethtool -S "$D" --all-groups
	refuses 'not supported' ethtool -d "$D"
	refuses 'not supported' ethtool -e "$D" length 16
	refuses 'not supported' ethtool -w "$D"
	refuses 'No such file' ethtool -f "$D" nothing
}

link_settings() {
	takes ip link set "$D" txqueuelen 500
	takes ip link set "$D" mtu 68
	takes ip link set "$D" mtu 1500
	takes ip link set "$D" gso_max_segs 10
	takes ip link set "$D" gso_max_segs 65535
	takes ip link set "$D" promisc on
	takes ip link set "$D" allmulticast on
	takes ip link set "$D" promisc off allmulticast off
	takes ip -s -s link show "$D"
	refuses 'not supported' ip link set "$D" vf 0 mac 02:00:00:00:00:09
	refuses 'not supported' ip link set "$D" protodown on
	nic_configure
}

devlink_asks() {
	tells 'fw.psid NGP0000000005' devlink dev info "$pci"
	takes devlink dev eswitch show "$pci"
	tells 'netdev' devlink port show
	tells 'reporter fw_fatal' devlink health show "$pci"
	takes devlink region show
	tells 'dmac_filter' devlink trap show
	refuses 'not supported' devlink resource show "$pci"
	refuses 'requested firmware file' devlink dev flash "$pci" file nothing
	tells 'enable_rdma\|enable_eth' devlink dev param show "$pci" name enable_eth
}

# The card keeps no settings of its own over a loss of power. There is no capability for that: the driver asks, and the card refuses.
no_lasting_settings() {
	dmesg -c >/dev/null
	devlink dev param show "$pci" >"$ktap_tmp/out" 2>&1
	! grep -q 'total_vfs\|cqe_compress_type' "$ktap_tmp/out" || fail "$(cat "$ktap_tmp/out")"
	dmesg | grep -q 'Failed to read mnvda reg' || fail "nothing was refused"
	[ "$(dmesg | grep cmd_out_err | grep -vc 'ACCESS_REG(0x805) op_mod(0x1)')" = 0 ] || fail "something else was refused"
}

plan 9
nic_up
D=$NETGPU_DEV
pci=pci/$(nic_pci)
for group in queues features hashing private_flags physical_port tells_of_itself link_settings devlink_asks; do
	run sweep $group
done
run no_lasting_settings
finish
