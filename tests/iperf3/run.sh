#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# iperf3 with the patches of contrib/iperf3 against stock iperf3, both ways, as server and as client, with memory of the host and of the
# stand-in for a GPU.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

bytes=16777216

with_library

ours() {
	./iperf3-netgpu --json "$@"
}

# server COMMAND...: listens when this returns, for one test. Leaves $server, and its output in $work/server.
server() {
	"$@" -s -1 >"$work/server" 2>&1 &
	server=$!
	defer reap "$server"
	until_true 20 listens
	alive "$server" || fail "$(cat "$work/server")"
}

listens() {
	[ -n "$(ss -Htln 'sport = :5201')$(in_peer ss -Htln 'sport = :5201')" ] || gone "$server"
}

# client COMMAND...: to its end; its output is in $work/client.
client() {
	"$@" -n $bytes >"$work/client" 2>&1 &
	defer reap $!
	finished $! 60 "$work/client"
	finished "$server" 20 "$work/server"
}

# number FILE NAME: the first number of that name in JSON.
number() {
	sed -n "s/.*\"$2\":[[:space:]]*\([0-9.]*\),*$/\1/p" "$1" | sed -n 1p
}

# went FILE [COPIED]: what our iperf3 says of how the bytes went, of which there are at least as many as the test wanted.
went() {
	local zerocopy copied
	zerocopy=$(number "$1" zerocopy_bytes)
	copied=$(number "$1" copied_bytes)
	note "zero-copy $zerocopy copied $copied"
	[ -n "$zerocopy" ] && [ "$((zerocopy + copied))" -ge $bytes ] || fail "$(cat "$1")"
	[ "$zerocopy" -ge $((bytes / 10 * 9)) ] || fail "most of it was copied"
	[ -z "${2-}" ] || equal "copied" "$copied" "$2"
}

# steer FIELD: packets whose FIELD is $data come to our queue, while the case lasts: the port of data connections. Control connections have
# another one. Each case has its own, as connections of the last one wait for their end.
steer() {
	data=$((8888 + ktap_number))
	ethtool -N "$NETGPU_DEV" flow-type tcp4 "$1" $data action 1 loc 1 >/dev/null
	defer ethtool -N "$NETGPU_DEV" delete 1
	ethtool -N "$NETGPU_DEV" flow-type tcp6 "$1" $data action 1 loc 2 >/dev/null
	defer ethtool -N "$NETGPU_DEV" delete 2
}

# memory host|gpu: leaves the options for it in $with.
memory() {
	[ "$1" = host ] || {
		export LD_LIBRARY_PATH="$ktap_tmp/lib:$PWD"
		with="--gpu"
	}
}

server_receives() {
	local with=''
	memory "$1"
	steer src-port
	server ours -z --zc-dev "$NETGPU_DEV" --zc-queue 1 $with
	client in_peer iperf3 -c "$2" --cport $data
	went "$work/server"
}

# The sender's headers have their full length: nothing is copied, the cookie included.
server_receives_padded() {
	steer src-port
	server ours -z --zc-dev "$NETGPU_DEV"
	client netgpu pad ip netns exec peer iperf3 -c "$NETGPU_ADDR6" --cport $data
	went "$work/server" 0
}

server_sends() {
	local with=''
	memory "$1"
	server ours -z --zc-dev "$NETGPU_DEV" $with
	client in_peer iperf3 -c "$2" -R
	went "$work/server" 0
}

client_sends() {
	local with=''
	memory "$1"
	server ip netns exec peer iperf3
	client ours -c "$2" -z --zc-dev "$NETGPU_DEV" $with
	went "$work/client" 0
}

client_receives() {
	local with=''
	memory "$1"
	steer dst-port
	server ip netns exec peer iperf3
	client ours -c "$2" -z --zc-dev "$NETGPU_DEV" $with -R --cport $data
	went "$work/client"
}

several_streams() {
	server ip netns exec peer iperf3
	client ours -c "$NETGPU_PEER_ADDR4" -z --zc-dev "$NETGPU_DEV" -P 4
	[ "$(grep -c zerocopy_bytes "$work/client")" = 4 ] || fail "$(cat "$work/client")"
}

# Both ends know of the port.
data_port() {
	steer dst-port
	# As it was typed in 2020: there is one NIC.
	server ours -z --dport $data
	client ip netns exec peer env LD_LIBRARY_PATH="$LD_LIBRARY_PATH" ./iperf3-netgpu -c "$NETGPU_ADDR4" --dport $data
	went "$work/server"
}

# refused TEXT ARGS...
refused() {
	local text="$1"
	shift
	! ./iperf3-netgpu "$@" >"$work/refused" 2>&1 || fail "it is not refused: $*"
	grep -q -e "$text" "$work/refused" || fail "$*: $(cat "$work/refused")"
}

says_why() {
	refused 'need -z' -s --gpu
	ip netns add bare
	defer ip netns del bare
	! ip netns exec bare env LD_LIBRARY_PATH="$LD_LIBRARY_PATH" ./iperf3-netgpu -s -z >"$work/refused" 2>&1 || fail "there is no NIC"
	grep -q 'there are 0 NICs here' "$work/refused" || fail "$(cat "$work/refused")"
	refused 'is for TCP' -c "$NETGPU_PEER_ADDR4" -u -z --zc-dev "$NETGPU_DEV"
	refused 'no network device "none"' -s -z --zc-dev none
	refused 'libcuda.so.1' -s -z --zc-dev "$NETGPU_DEV" --gpu
}

[ ! -e without ] || {
	plan 1
	run skip "$(cat without)"
	finish
}

plan 13
nic_up
ethtool -L "$NETGPU_DEV" combined 2
ethtool -X "$NETGPU_DEV" equal 1
ethtool -K "$NETGPU_DEV" ntuple on
ethtool -G "$NETGPU_DEV" tcp-data-split on
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
run server_receives host "$NETGPU_ADDR4"
run server_receives_padded
run server_sends host "$NETGPU_ADDR6"
run client_sends host "$NETGPU_PEER_ADDR4"
run client_receives host "$NETGPU_PEER_ADDR6"
run several_streams
run data_port
run says_why
modprobe standin_gpu
modprobe standin_nvidia
run server_receives gpu "$NETGPU_ADDR6"
run server_sends gpu "$NETGPU_ADDR4"
run client_sends gpu "$NETGPU_PEER_ADDR6"
run client_receives gpu "$NETGPU_PEER_ADDR4"
run nothing_is_left standin_nvidia standin_gpu
finish
