# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# Streams between `netgpu` on our port and `plain-peer` in the namespace `peer`. Files go to $work. Descriptor 9 is the
# caller's own, programs do not inherit it: for holding a pipe open.

work=$ktap_tmp/transfer
mkdir -p "$work"

# field LINE WORD: the word after WORD in a line of results.
field() {
	local word="$2"
	# shellcheck disable=SC2086 # its words
	set -- $1
	while [ $# -gt 1 ]; do
		[ "$1" != "$word" ] || {
			echo "$2"
			return
		}
		shift
	done
}

# equal WHAT A B
equal() {
	[ "$2" = "$3" ] || fail "$1: $2, expected $3"
}

# at_most WHAT A B
at_most() {
	[ "$2" -le "$3" ] || fail "$1: $2, expected at most $3"
}

# address SIDE FAMILY PORT: SIDE is ours or peer, FAMILY 4 or 6.
address() {
	case $1$2 in
	ours4) echo "$NETGPU_ADDR4:$3" ;;
	ours6) echo "[$NETGPU_ADDR6]:$3" ;;
	peer4) echo "$NETGPU_PEER_ADDR4:$3" ;;
	peer6) echo "[$NETGPU_PEER_ADDR6]:$3" ;;
	esac
}

# with_library: programs find the shared library that is beside them, and nothing else that is.
with_library() {
	mkdir "$ktap_tmp/lib"
	ln -s "$PWD/libnetgpu.so.1" "$ktap_tmp/lib/"
	export LD_LIBRARY_PATH="$ktap_tmp/lib"
}

# nothing_yet FILE: what the last program said there is gone, before the one that is started next has opened it: see is_listening.
nothing_yet() {
	: >"$1"
}

is_listening() {
	grep -q "listening on" "$1" || gone "$2"
}

gone() {
	! kill -0 "$1" 2>/dev/null
}

alive() {
	kill -0 "$1" 2>/dev/null
}

# Ends a process of ours that is still there.
reap() {
	kill -9 "$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

# finished PID WITHIN LOG: waits for its end, which must come in time and be a success.
finished() {
	until_true "$2" gone "$1"
	wait "$1" || {
		sed 's/^/# /' "$3"
		fail "it ended with status $?"
	}
}

# receiver ADDRESS ARGS...: `netgpu recv`, listening when this returns. Leaves $receiver, $work/recv.{out,err}.
receiver() {
	local where="$1"
	shift
	nothing_yet "$work/recv.err"
	netgpu recv --dev "$NETGPU_DEV" --listen "$where" --sha256 "$@" >"$work/recv.out" 2>"$work/recv.err" 9>&- &
	receiver=$!
	defer reap "$receiver"
	until_true 20 is_listening "$work/recv.err" "$receiver"
	alive "$receiver" || {
		sed 's/^/# /' "$work/recv.err"
		fail "netgpu recv did not start"
	}
}

# sender ADDRESS FILE ARGS...: `netgpu send` in the background. Leaves $sender, $work/send.{out,err}.
sender() {
	netgpu send --dev "$NETGPU_DEV" --sha256 "$@" >"$work/send.out" 2>"$work/send.err" 9>&- &
	sender=$!
	defer reap "$sender"
}

# peer_receiver ADDRESS ARGS...: `plain-peer recv` on the other machine. Leaves $peer, $work/peer.{out,err}.
peer_receiver() {
	nothing_yet "$work/peer.err"
	ip netns exec peer plain-peer recv "$@" >"$work/peer.out" 2>"$work/peer.err" 9>&- &
	peer=$!
	defer reap "$peer"
	until_true 20 is_listening "$work/peer.err" "$peer"
	alive "$peer" || {
		sed 's/^/# /' "$work/peer.err"
		fail "plain-peer recv did not start"
	}
}

# peer_sender PADDED ADDRESS ARGS...: `plain-peer send` on the other machine. Leaves $peer.
peer_sender() {
	local padded="$1"
	shift
	if [ "$padded" = padded ]; then
		# Outside: in the namespace, cgroups are not mounted.
		netgpu pad ip netns exec peer plain-peer send "$@" >"$work/peer.out" 2>"$work/peer.err" 9>&- &
	else
		ip netns exec peer plain-peer send "$@" >"$work/peer.out" 2>"$work/peer.err" 9>&- &
	fi
	peer=$!
	defer reap "$peer"
}

# drain COMMAND...: it reads the pipe $work/pipe in the background, up to its end: that descriptor 9 held it open is over. Leaves $reader.
drain() {
	# Here, so that it is not without reader until the command has opened it: whoever writes then would end.
	exec 7<"$work/pipe"
	"$@" <&7 7<&- 9>&- &
	reader=$!
	defer reap "$reader"
	exec 7<&- 9>&-
}

peer_connected() {
	[ -n "$(peer_acked)" ]
}

# not_taken COMMAND...: it sends $work/file to port 5002 of the other machine, which takes less of it than there is, and goes when all is
# queued. The command is to fail; what it says is in $work/ours.err.
not_taken() {
	local before
	before=$(in_peer cat /proc/sys/net/ipv4/tcp_rmem)
	defer in_peer sh -c "echo $before >/proc/sys/net/ipv4/tcp_rmem"
	in_peer sh -c 'echo 4096 4096 4096 >/proc/sys/net/ipv4/tcp_rmem'
	plain-peer make "$work/file" --bytes 4096
	peer_receiver "$(address peer 4 5002)" --output "$work/got"
	kill -STOP "$peer"
	"$@" <"$work/file" >"$work/out" 2>"$work/ours.err" 9>&- &
	ours=$!
	defer reap "$ours"
	until_true 20 ours_connected
	stalls ours_acked
	alive "$ours" || fail "it has not waited: $(cat "$work/ours.err")"
	reap "$peer"
	until_true 20 gone "$ours"
	! wait "$ours" || fail "it is content, and the peer has $stalled_at of 4096 bytes"
	sed 's/^/# /' "$work/ours.err"
}

ours_connected() {
	[ -n "$(ours_acked)" ]
}

# Bytes that the other machine has acknowledged of what we send to its port 5002.
ours_acked() {
	ss -tinH 'dport = :5002' | tr ' ' '\n' | sed -n 's/^bytes_acked://p'
}

# TCP segments that the other machine has sent, GSO ones counted as what they become on the wire.
peer_segments() {
	in_peer cat /proc/net/snmp | awk '$1 == "Tcp:" && $2 ~ /^[0-9]/ { print $12 }'
}

# Packets that our NIC had no buffer for.
lost_packets() {
	local count
	count=$(nic_counter rx_out_of_buffer)
	[ -n "$count" ] || fail "$NETGPU_DEV does not count rx_out_of_buffer"
	echo "$count"
}

# Bytes of the one connection on the other machine that our side has acknowledged.
peer_acked() {
	in_peer ss -tinH state established | tr ' ' '\n' | sed -n 's/^bytes_acked://p' | sort -n | tail -n 1
}

# stalls COMMAND...: waits until the number that COMMAND prints stays the same for two seconds. Leaves it in $stalled_at.
stalls() {
	local value end limit now
	now
	limit=$((now + 60))
	stalled_at=$("$@")
	now
	end=$((now + 2))
	while [ "$now" -le "$end" ]; do
		[ "$now" -lt "$limit" ] || fail "it goes on and on: $*"
		sleep 0.1
		value=$("$@")
		now
		[ "$value" = "$stalled_at" ] || {
			stalled_at=$value
			end=$((now + 2))
		}
	done
}
