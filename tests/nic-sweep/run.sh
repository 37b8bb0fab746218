#!/bin/sh
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
plan 1
nic_up
t() {
	out=$("$@" 2>&1); rc=$?
	echo "# [$rc] $*"
	echo "$out" | head -${L:-3} | sed 's/^/#     /'
	dmesg -c | grep -iE "mlx5.*(err|fail|bad|not|unsupp|cmd)" | head -3 | sed 's/^/#   dmesg: /'
}
D=$NETGPU_DEV
dmesg -c >/dev/null
t ethtool $D
t ethtool -a $D
t ethtool -A $D autoneg on
t ethtool -c $D
t ethtool -C $D rx-usecs 50 tx-usecs 50
t ethtool -C $D cqe-mode-rx on
t ethtool -C $D cqe-mode-rx off cqe-mode-tx on
t ethtool -Q $D queue_mask 0x1 --show-coalesce
t ethtool -Q $D queue_mask 0x1 --coalesce rx-usecs 20
t ethtool -g $D
t ethtool -G $D rx 4096 tx 4096
t ethtool -G $D rx-buf-len 4096
t ethtool -G $D tcp-data-split on
t ethtool -k $D
for f in lro rx-all loopback rx-gro-hw hw-tc-offload rx-udp-gro-forwarding tx-gso-partial rx-fcs ntuple rxhash tx-nocache-copy tls-hw-tx-offload tls-hw-rx-offload rx-udp_tunnel-port-offload tx-udp-segmentation; do t ethtool -K $D $f on; t ethtool -K $D $f off; done
t ethtool -K $D ntuple on
t ethtool -K $D rxhash on
t ethtool -i $D
t ethtool -d $D
t ethtool -e $D length 16
t ethtool -r $D
t ethtool -p $D 1
t ethtool -t $D offline
t ethtool -t $D online
t ethtool -s $D wol g
t ethtool -s $D msglvl 7
t ethtool -s $D mdix auto
t ethtool -l $D
t ethtool -L $D combined 1
t ethtool -L $D combined 2
t ethtool -x $D
t ethtool -X $D equal 2
t ethtool -X $D default
t ethtool -X $D weight 3 1
t ethtool -X $D default
t ethtool -X $D xfrm symmetric-xor
t ethtool -X $D xfrm symmetric-or-xor
t ethtool -X $D xfrm none
for p in tcp4 udp4 tcp6 udp6 ah4 esp4 ah6 esp6 sctp4 ip4 ether; do t ethtool -n $D rx-flow-hash $p; done
t ethtool -N $D rx-flow-hash udp4 sdfn
t ethtool -T $D
t ethtool --show-priv-flags $D
for f in rx_cqe_moder tx_cqe_moder rx_cqe_compress rx_striding_rq rx_no_csum_complete xdp_tx_mpwqe skb_tx_mpwqe tx_port_ts; do t ethtool --set-priv-flags $D $f on; t ethtool --set-priv-flags $D $f off; done
t ethtool -m $D
t ethtool -m $D hex on length 16
t ethtool --show-eee $D
t ethtool --set-eee $D eee on
t ethtool --show-fec $D
t ethtool --show-tunnels $D
t ethtool --show-module $D
t ethtool --set-module $D power-mode-policy auto
t ethtool --show-pse $D
t ethtool --get-plca-cfg $D
t ethtool --show-mm $D
t ethtool --phy-statistics $D
t ethtool --get-phy-tunable $D downshift
t ethtool --get-tunable $D rx-copybreak
t ethtool --get-tunable $D tx-copybreak
t ethtool --get-tunable $D pfc-prevention-tout
t ethtool --set-tunable $D pfc-prevention-tout 100
t ethtool --get-tunable $D rx-buf-len
t ethtool --reset $D all
t ethtool -f $D nothing
t ethtool -w $D
t ethtool --cable-test $D
t ethtool --get-dump $D
t devlink dev info
t devlink dev eswitch show pci/$(basename $(readlink /sys/class/net/$D/device))
t devlink dev param show
L=30 t devlink port show
t devlink dev flash pci/0000:01:00.0 file nothing
t devlink health
t devlink resource show pci/$(basename $(readlink /sys/class/net/$D/device))
t devlink region show
t devlink trap show
t ip link set $D vf 0 mac 02:00:00:00:00:09
t sh -c "echo 1 > /sys/class/net/$D/device/sriov_numvfs"
t ip link set $D txqueuelen 500
t ip link set $D mtu 68
t ip link set $D mtu 1500
t ip link set $D gso_max_segs 10
t ip link set $D protodown on
t ip link set $D protodown off
t ip -s -s link show $D
t tc qdisc add dev $D root mqprio num_tc 2 map 0 1 queues 1@0 1@1 hw 1
t tc qdisc add dev $D clsact
t tc filter add dev $D ingress protocol ip flower skip_sw ip_proto tcp action drop
t dcb ets show dev $D
t sh -c "echo 100 > /sys/class/net/$D/queues/tx-0/tx_maxrate"
t ethtool -S $D --all-groups
ok() { :; }
run ok
finish
