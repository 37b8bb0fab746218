#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The `netgpu` command beside recv and send: doctor, setup, restore, show, bench, pad on and off, and its documents; and what it shows on a
# terminal.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh
. ../lib/transfer.sh

escape=$(printf '\033')

# says STATUS CHECK [PATTERN]: a line of the last doctor's report.
says() {
	grep -qE "^$1 +$2 .*${3-}" "$work/doctor" || {
		sed 's/^/# /' "$work/doctor"
		fail "no line: $*"
	}
}

# mend CHECK: the command that the last doctor has for it.
mend() {
	awk -v check="$1" '$2 == check { getline; if (/^  /) print }' "$work/doctor"
}

# doctor [ARGS...]: leaves the report in $work/doctor and the status in $rc.
doctor() {
	rc=0
	netgpu doctor "$NETGPU_DEV" "$@" >"$work/doctor" || rc=$?
}

# has FILE TEXT: as it stands.
has() {
	grep -qF -- "$2" "$1" || {
		sed 's/^/# /' "$1"
		fail "$1 lacks $2"
	}
}

same_settings() {
	nic_settings >"$work/after"
	diff "$work/before" "$work/after" >"$work/diff" || {
		sed 's/^/# /' "$work/diff"
		fail "the settings differ by the above"
	}
}

doctor_without_the_module() {
	doctor
	equal "status" "$rc" 1
	says ok kernel
	says fail module 'netgpu is not loaded'
	says skip device
	equal "what mends it" "$(mend module | xargs)" "modprobe netgpu"
	modprobe netgpu
	doctor
	says ok module
	says ok device
}

# The commands that it prints, and nothing else, make it content.
doctor_mends() {
	local last check
	last=$(($(nic_queues) - 1))
	nic_settings >"$work/before"
	doctor
	equal "status" "$rc" 1
	says ok driver 'mlx5_core, firmware [0-9.]+'
	says ok link
	says ok channels "queues, $last is for netgpu"
	says ok xdp
	says ok queue
	says ok iommu
	says skip gpu
	says warn ntuple
	says fail hds
	says fail rss
	equal "what mends hds" "$(mend hds | xargs)" "ethtool -G $NETGPU_DEV tcp-data-split on"
	equal "what mends rss" "$(mend rss | xargs)" "ethtool -X $NETGPU_DEV equal $last"
	has "$work/doctor" "netgpu setup $NETGPU_DEV"
	for check in hds rss ntuple; do
		mend $check >"$work/mend"
		sh "$work/mend"
	done
	doctor
	sed 's/^/# /' "$work/doctor"
	equal "status" "$rc" 0
	grep -qE '^(warn|fail)' "$work/doctor" && fail "it is not content"
	ethtool -X "$NETGPU_DEV" default
	ethtool -G "$NETGPU_DEV" tcp-data-split auto
	ethtool -K "$NETGPU_DEV" ntuple off
	same_settings
}

doctor_as_json() {
	doctor --json
	equal "status" "$rc" 1
	equal "lines" "$(wc -l <"$work/doctor")" 1
	has "$work/doctor" '{"works":false,"findings":[{"check":"kernel","status":"ok","text":'
	has "$work/doctor" "\"mend\":\"ethtool -G $NETGPU_DEV tcp-data-split on\""
	# All devices that may do, without a name.
	netgpu doctor >"$work/doctor" && fail "it is content"
	says fail hds "$NETGPU_DEV"
}

doctor_sees_xdp() {
	ip link set "$NETGPU_DEV" xdpgeneric obj pass.bpf.o sec xdp
	defer quietly ip link set "$NETGPU_DEV" xdpgeneric off
	doctor
	says fail xdp
	equal "what mends it" "$(mend xdp | xargs)" "ip link set dev $NETGPU_DEV xdp off"
	ip link set "$NETGPU_DEV" xdpgeneric off
	doctor
	says ok xdp
}

doctor_of_what_is_no_nic() {
	netgpu doctor lo >"$work/doctor" && fail "lo is well"
	says fail driver 'lo is no hardware'
	netgpu doctor nosuch0 >"$work/doctor" && fail "nosuch0 is well"
	says fail driver nosuch0
}

setup_and_restore() {
	local last
	last=$(($(nic_queues) - 1))
	nic_settings >"$work/before"
	defer eval 'netgpu restore "$NETGPU_DEV" >/dev/null'
	netgpu setup "$NETGPU_DEV" >"$work/setup"
	sed 's/^/# /' "$work/setup"
	has "$work/setup" "$NETGPU_DEV: tcp-data-split on (was auto)"
	has "$work/setup" "ethtool -N $NETGPU_DEV flow-type tcp4 dst-port 5000 action $last"
	doctor
	equal "status of the doctor" "$rc" 0
	grep -qE '^(warn|fail)' "$work/doctor" && fail "the doctor is not content: $(cat "$work/doctor")"
	nic_settings >"$work/set"
	netgpu setup "$NETGPU_DEV" --json >"$work/setup"
	equal "the second time" "$(cat "$work/setup")" "{\"device\":\"$NETGPU_DEV\",\"queue\":$last,\"changes\":[]}"
	nic_settings | cmp -s - "$work/set" || fail "the second time changed something"
	netgpu setup "$NETGPU_DEV" --queue 0 2>"$work/error" && fail "two queues"
	has "$work/error" "netgpu restore $NETGPU_DEV"

	# A receiver, which leaves it as it finds it.
	receiver "$(address ours 4 5101)"
	netgpu restore "$NETGPU_DEV" 2>"$work/error" && fail "restored under a receiver"
	has "$work/error" "in use by \`netgpu recv\`"
	peer_sender padded "$(address ours 4 5101)" --bytes 1000000
	finished "$receiver" 20 "$work/recv.err"
	equal "copied" "$(field "$(cat "$work/recv.out")" copied)" 0
	nic_settings | cmp -s - "$work/set" || fail "the receiver changed something"

	netgpu restore "$NETGPU_DEV" >"$work/restore"
	has "$work/restore" "$NETGPU_DEV: tcp-data-split"
	same_settings
	equal "again" "$(netgpu restore "$NETGPU_DEV" --json)" "{\"device\":\"$NETGPU_DEV\",\"changes\":[]}"
	same_settings
}

# All that it can change: one channel only, and LRO, which goes with striding and not with the split.
setup_of_the_worst() {
	local channels
	channels=$(nic_queues)
	ethtool -L "$NETGPU_DEV" combined 1
	defer ethtool -L "$NETGPU_DEV" combined "$channels"
	ethtool --set-priv-flags "$NETGPU_DEV" rx_striding_rq on
	defer ethtool --set-priv-flags "$NETGPU_DEV" rx_striding_rq off
	ethtool -K "$NETGPU_DEV" lro on
	defer ethtool -K "$NETGPU_DEV" lro off
	nic_settings >"$work/before"
	doctor
	says fail channels
	defer eval 'netgpu restore "$NETGPU_DEV" >/dev/null'
	equal "what mends channels" "$(mend channels | xargs)" "ethtool -L $NETGPU_DEV combined 2"
	equal "what mends hds" "$(mend hds | xargs)" "ethtool -K $NETGPU_DEV lro off; ethtool -G $NETGPU_DEV tcp-data-split on"
	netgpu setup "$NETGPU_DEV" >"$work/setup"
	sed 's/^/# /' "$work/setup"
	has "$work/setup" "$NETGPU_DEV: channels 2 (was 1)"
	has "$work/setup" "$NETGPU_DEV: rx-lro off (was on)"
	doctor
	equal "status of the doctor" "$rc" 0
	netgpu restore "$NETGPU_DEV" >"$work/restore"
	same_settings
}

setup_begun() {
	[ -e "$(echo /run/netgpu/net-*-dev-"$index"/setup.json)" ] || gone "$1"
}

# Wherever it was when it was killed.
setup_killed() {
	local index setup
	index=$(cat "/sys/class/net/$NETGPU_DEV/ifindex")
	nic_settings >"$work/before"
	netgpu setup "$NETGPU_DEV" >/dev/null &
	setup=$!
	until_true 20 setup_begun "$setup"
	reap "$setup"
	netgpu restore "$NETGPU_DEV" | sed 's/^/# /'
	same_settings
}

# What was done is done, and what is wrong with the rest is said.
setup_without_a_reader() {
	nic_settings >"$work/before"
	defer eval 'netgpu restore "$NETGPU_DEV" >/dev/null'
	netgpu setup "$NETGPU_DEV" --json >/dev/full 2>"$work/error" && fail "there was no room for the result"
	has "$work/error" "cannot print the result: No space left on device"
	netgpu restore "$NETGPU_DEV" >/dev/null
	same_settings
}

setup_refused() {
	nic_settings >"$work/before"
	netgpu setup nosuch0 2>"$work/error" && fail "nosuch0 was set up"
	has "$work/error" "there is no network device nosuch0"
	netgpu setup lo 2>"$work/error" && fail "lo was set up"
	grep -q . "$work/error" || fail "no reason given"
	netgpu setup "$NETGPU_DEV" --queue 4000 2>"$work/error" && fail "there is no queue 4000"
	has "$work/error" 4000
	same_settings
}

bytes_are_shown() {
	[ "$(field "$(grep -h '^context ' /sys/kernel/debug/netgpu/* 2>/dev/null)" rx_zerocopy)" -gt 1000000 ] 2>/dev/null
}

contexts_are_gone() {
	[ -z "$(ls /sys/kernel/debug/netgpu)" ]
}

shows() {
	local field id owner theirs shown=/sys/kernel/debug/netgpu
	equal "with no context" "$(netgpu show)" "no contexts"
	equal "the same in JSON" "$(netgpu show --json)" '{"contexts":[]}'
	# Nobody reads: the stream comes to rest, and leaves the processors to what is tested.
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	exec 9<>"$work/pipe"
	receiver "$(address ours 4 5102)" --memory 16M --output "$work/pipe"
	peer_sender plain "$(address ours 4 5102)" --bytes 100000000000
	until_true 20 bytes_are_shown

	netgpu show >"$work/show"
	sed 's/^/# /' "$work/show"
	id=$(basename "$shown"/*)
	owner="netgpu (pid $receiver, root)"
	equal "the title" "$(sed -n 1p "$work/show")" "context $id  $NETGPU_DEV  $owner"
	for field in REGION QUEUE SOCKET; do
		grep -q "^ *$field " "$work/show" || fail "no table of $field"
	done
	# No colours for a file.
	! grep -q "$escape" "$work/show" || fail "there are escape sequences"

	netgpu show --json >"$work/show"
	has "$work/show" "{\"contexts\":[{\"id\":$id,\"ifindex\":$(cat "/sys/class/net/$NETGPU_DEV/ifindex"),\"device\":\"$NETGPU_DEV\""
	has "$work/show" "\"owners\":[{\"pid\":$receiver,\"comm\":\"netgpu\",\"uid\":0,\"user\":\"root\"}]"
	# Each counter that the module has; and a sample for each in the other format.
	netgpu show --prometheus >"$work/metrics"
	sed 's/^[a-z]* [0-9a-fx]*//' "$shown/$id" | tr ' ' '\n' | grep -E '^[a-z_]+$' | grep -vE '^(ifindex|index|inode)$' | sort -u >"$work/fields"
	while read -r field; do
		has "$work/show" "\"$field\":"
	done <"$work/fields"
	equal "samples" "$(grep -c '^netgpu_[a-z]*_' "$work/metrics")" \
		"$((1 + $(sed 's/^[a-z]* [0-9a-fx]*//; s/ifindex [0-9]*//; s/index [0-9]*//; s/inode [0-9]*//' "$shown/$id" | wc -w) / 2))"
	has "$work/metrics" '# TYPE netgpu_context_rx_copied_bytes_total counter'
	has "$work/metrics" "netgpu_context_info{context=\"$id\",device=\"$NETGPU_DEV\",pid=\"$receiver\",comm=\"netgpu\",user=\"root\"} 1"
	grep -vE '^(# (HELP|TYPE) netgpu_[a-z_]+ |netgpu_[a-z_]+(\{[^}]*\})? [0-9]+$)' "$work/metrics" >"$work/odd" &&
		fail "not in the format: $(head -n 1 "$work/odd")"

	equal "of this device" "$(netgpu show "$NETGPU_DEV" --json | grep -c '"id"')" 1
	equal "of another" "$(netgpu show lo --json)" '{"contexts":[]}'
	netgpu show nosuch0 2>"$work/error" && fail "there is no nosuch0"
	has "$work/error" "there is no network device nosuch0; \`ip link\` lists"
	equal "watched" "$(netgpu show --watch --json | head -n 2 | grep -c "\"id\":$id")" 2
	netgpu show --watch | grep -m 1 'Gbit/s' >"$work/rate"
	note "$(cat "$work/rate")"

	# What ss knows of the same connection.
	ss -tienH state established "( sport = :5102 )" >"$work/ss"
	has "$work/ss" tcp-ulp-netgpu
	# The receiver has bound it to the device, which ss tells with our address.
	read -r _ _ _ theirs _ <"$work/ss"
	has "$work/show" "\"sockets\":[{\"id\":0,\"inode\":$(sed -n 's/.* ino:\([0-9]*\).*/\1/p' "$work/ss"),\"local\":\"$NETGPU_ADDR4:5102\",\"peer\":\"$theirs\",\"state\":\"estab\""
	netgpu show | grep -q "^ *0 *$NETGPU_ADDR4:5102 *$theirs *estab " || fail "the table does not tell of the connection"
	kill -INT "$receiver"
	until_true 10 gone "$receiver"
	exec 9>&-
	until_true 10 contexts_are_gone
	# Whoever reads has seen enough.
	netgpu show --watch --json 2>"$work/error" | head -n 1 >/dev/null
	[ ! -s "$work/error" ] || fail "it complains: $(cat "$work/error")"
}

show_says_why_not() {
	umount /sys/kernel/debug
	defer mount -t debugfs debugfs /sys/kernel/debug
	netgpu show 2>"$work/error" && fail "there is nothing to show"
	has "$work/error" "mount -t debugfs"
}

recv_verifies() {
	local sum bytes=3000000
	plain-peer make "$work/sent" --bytes $bytes
	sum=$(sha256sum <"$work/sent" | cut -d' ' -f1)
	for wanted in "$sum" "$(echo "$sum" | tr 0-9a-f 1-9a-f0)"; do
		receiver "$(address ours 4 5103)" --memory 4M --json --verify "$wanted" --output "$work/received" --verbose
		in_peer plain-peer send "$(address ours 4 5103)" --file "$work/sent" >"$work/peer.out"
		until_true 20 gone "$receiver"
		rc=0
		wait "$receiver" || rc=$?
		cmp "$work/sent" "$work/received"
		has "$work/recv.out" "{\"direction\":\"rx\",\"bytes\":$bytes,"
		has "$work/recv.out" "\"sha256\":\"$sum\"}"
		! grep -q "$escape" "$work/recv.err" || fail "there are escape sequences"
		if [ "$wanted" = "$sum" ]; then
			equal "status" "$rc" 0
		else
			equal "status" "$rc" 1
			has "$work/recv.err" "and --verify wants $wanted"
		fi
	done
}

send_from_a_pipe_as_json() {
	local bytes=2000000 wanted port=5104
	for wanted in "$(head -c $bytes "$work/sent" | sha256sum | cut -d' ' -f1)" "$(printf %064d 0)"; do
		peer_receiver "$(address peer 4 $port)"
		rc=0
		head -c $bytes "$work/sent" | netgpu send --dev "$NETGPU_DEV" --verify "$wanted" --json "$(address peer 4 $port)" - >"$work/send.out" \
			2>"$work/send.err" || rc=$?
		finished "$peer" 10 "$work/peer.err"
		has "$work/send.out" "{\"direction\":\"tx\",\"bytes\":$bytes,\"zero_copy\":$bytes,\"copied\":0,"
		has "$work/send.out" "\"sha256\":\"$(field "$(cat "$work/peer.out")" sha256)\"}"
		if [ "$wanted" = "$(field "$(cat "$work/peer.out")" sha256)" ]; then
			equal "status" "$rc" 0
		else
			equal "status" "$rc" 1
			has "$work/send.err" "and --verify wants $wanted"
		fi
		port=$((port + 1))
	done
}

# on_a_terminal COMMAND...: as a user types it, on a terminal of 80 columns. Its keys are written to descriptor 8, what it shows goes to
# $work/screen; the status, and whether the terminal is as it was, come after it. Leaves $terminal.
on_a_terminal() {
	local quoted
	ktap_quote "$@"
	cat >"$work/session" <<-END
		stty rows 24 cols 80
		stty -g >"$work/terminal.before"
		# The shell outlives Ctrl-C.
		trap : INT
		$quoted
		echo "status \$?"
		stty -g >"$work/terminal.after"
	END
	mkfifo "$work/keys"
	defer rm "$work/keys"
	exec 8<>"$work/keys"
	nothing_yet "$work/screen"
	# What runs in the background has SIGINT ignored, and so would what it starts.
	script -qefc "env --default-signal=INT sh $work/session" /dev/null <&8 >"$work/screen" 2>&1 8>&- 9>&- &
	terminal=$!
	defer reap "$terminal"
}

# erased TEXT: it came where a bar was, of which nothing stays; keys and cursor are as they were.
erased() {
	tr '\r' '\n' <"$work/screen" | grep -q "^$escape\\[2K$1" || fail "$(cat "$work/screen")"
	! grep -q "$escape\\[?" "$work/screen" || fail "it has changed the terminal's modes: $(cat "$work/screen")"
	cmp "$work/terminal.before" "$work/terminal.after"
}

# bar_shows PATTERN
bar_shows() {
	tr '\r' '\n' <"$work/screen" | grep -qE "^($escape\\[2K)?$1 *$"
}

# rests_here ARGS...: `netgpu recv` on a terminal has got 3000000 bytes, and the peer sends more when somebody writes to descriptor 9.
rests_here() {
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	exec 9<>"$work/pipe"
	on_a_terminal netgpu recv --dev "$NETGPU_DEV" --listen "$(address ours 4 5120)" --memory 4M "$@"
	until_true 20 grep -q "listening on" "$work/screen"
	peer_sender plain "$(address ours 4 5120)" --file "$work/pipe"
	head -c 3000000 /dev/zero >&9
}

# The bar has all of what came, and Ctrl-C leaves nothing of it.
bar_of_a_receiver() {
	rests_here
	until_true 20 bar_shows 'rx [^ ]+ 2\.86 MiB [0-9.]+ [KMi]*B/s [0-9]+[smh]'
	printf '\003' >&8
	until_true 20 gone "$terminal"
	exec 9>&-
	erased "status 130"
}

# The other machine does not read: then the bar is somewhere between start and end.
bar_of_a_sender() {
	plain-peer make "$work/file" --bytes 3000000
	peer_receiver "$(address peer 4 5121)"
	kill -STOP "$peer"
	on_a_terminal netgpu send --dev "$NETGPU_DEV" "$(address peer 4 5121)" "$work/file"
	until_true 20 bar_shows 'tx [█░]+ [1-9][0-9.]* [KM]iB/2\.86 MiB [0-9.]+ [KMi]*B/s [0-9]+[smh]'
	! bar_shows 'tx [█░]+ 2\.86 MiB/.*' || fail "the bar is at its end: $(cat "$work/screen")"
	kill -CONT "$peer"
	finished "$peer" 20 "$work/peer.err"
	until_true 20 gone "$terminal"
	erased "tx 3000000 bytes  zero-copy 3000000 "
	grep -q "^status 0" "$work/screen" || fail "$(cat "$work/screen")"
}

# A benchmark has a bar, too, of what the kernel says that has come.
bar_of_a_benchmark() {
	mkfifo "$work/pipe"
	defer rm "$work/pipe"
	exec 9<>"$work/pipe"
	on_a_terminal netgpu bench recv read "$(address ours 4 5123)"
	until_true 20 grep -q "listening on" "$work/screen"
	peer_sender plain "$(address ours 4 5123)" --file "$work/pipe"
	head -c 8388608 /dev/zero >&9
	until_true 20 bar_shows 'read rx [^ ]+ 8\.00 MiB [0-9.]+ Gbit/s [0-9]+[smh]'
	exec 9>&-
	until_true 20 gone "$terminal"
	erased "read rx host: "
}

# A file, and whoever wants JSON, gets text only.
no_bar() {
	rests_here --json
	exec 9>&-
	until_true 20 gone "$terminal"
	has "$work/screen" '{"direction":"rx","bytes":3000000,'
	equal "lines" "$(wc -l <"$work/screen")" 3
	! grep -q "$escape" "$work/screen" || fail "there are escape sequences: $(cat "$work/screen")"

	receiver "$(address ours 4 5122)" --memory 4M
	peer_sender plain "$(address ours 4 5122)" --bytes 3000000
	finished "$receiver" 20 "$work/recv.err"
	! grep -vE '^netgpu: (listening on .*|rx [0-9]+ bytes so far, .*)$' "$work/recv.err" || fail "the above is no line of it"
}

# from_cgroup PADDED: what is copied of a stream whose sender is in the cgroup.
from_cgroup() {
	receiver "$(address ours 4 5106)" --memory 4M
	sh -c "echo 0 >$group/cgroup.procs; exec ip netns exec peer plain-peer send $(address ours 4 5106) --bytes 3000000" >"$work/peer.out"
	finished "$receiver" 20 "$work/recv.err"
	copied=$(field "$(cat "$work/recv.out")" copied)
}

pad_a_cgroup() {
	local group=/sys/fs/cgroup/padded copied
	mkdir "$group"
	defer rmdir "$group"
	# `ip` mounts it when it loads a program.
	quietly umount /sys/fs/bpf
	netgpu pad on "$group" 2>"$work/error" && fail "there is nowhere to keep it"
	has "$work/error" "mount -t bpf"
	mount -t bpf bpf /sys/fs/bpf
	defer umount /sys/fs/bpf
	from_cgroup
	[ "$copied" -gt 0 ] || fail "nothing was copied before: this test cannot tell"
	netgpu pad on "$group" >"$work/pad"
	has "$work/pad" "$group: connections that are made from now on"
	equal "again" "$(netgpu pad on padded --json)" "{\"cgroup\":\"$group\",\"on\":true,\"changed\":false}"
	from_cgroup
	equal "copied" "$copied" 0
	equal "off" "$(netgpu pad off "$group" --json)" "{\"cgroup\":\"$group\",\"on\":false,\"changed\":true}"
	equal "off again" "$(netgpu pad off padded)" "$group: is off already"
	from_cgroup
	[ "$copied" -gt 0 ] || fail "nothing was copied after it was off"
	netgpu pad on /proc 2>"$work/error" && fail "/proc is a cgroup"
	has "$work/error" "no cgroup of version 2"
	equal "a command" "$(netgpu pad run sh -c 'cat /proc/self/cgroup' | sed 's/-[0-9]*$//')" "0::/netgpu-pad"
}

# tidies: a program that writes the signals that come to $work/tidied, and ends with 3 a moment after the first.
tidies() {
	cat >"$work/tidies" <<-END
		for signal in INT TERM HUP USR1; do trap "echo \$signal >>$work/tidied" \$signal; done
		echo ready >"$work/ready"
		until [ -e "$work/tidied" ]; do sleep 0.1; done
		sleep 0.5
		exit 3
	END
	rm -f "$work/tidied" "$work/ready"
}

no_group_is_left() {
	! find /sys/fs/cgroup -name 'netgpu-pad-*' | grep .
}

# Ctrl-C at a terminal goes to the command as well; it need not be told.
pad_on_a_terminal() {
	tidies
	on_a_terminal netgpu pad sh "$work/tidies"
	until_true 20 [ -e "$work/ready" ]
	printf '\003' >&8
	until_true 20 gone "$terminal"
	has "$work/screen" "status 3"
	equal "signals" "$(cat "$work/tidied")" INT
	until_true 2 no_group_is_left
}

# A terminal that hangs up tells only who has it.
pad_of_a_terminal_that_hangs_up() {
	local terminal
	tidies
	script -qefc "exec netgpu pad sh $work/tidies" /dev/null >"$work/screen" 2>&1 8>&- 9>&- &
	terminal=$!
	defer reap "$terminal"
	until_true 20 [ -e "$work/ready" ]
	reap "$terminal"
	until_true 20 [ -e "$work/tidied" ]
	equal "signals" "$(cat "$work/tidied")" HUP
	until_true 20 no_group_is_left
}

# What somebody sends to `netgpu pad` is for the command.
pad_passes_signals_on() {
	local signal pad rc
	for signal in INT TERM HUP USR1; do
		tidies
		# Without job control a shell has programs in the background ignore SIGINT, and a trap cannot change that.
		netgpu pad env --default-signal=INT sh "$work/tidies" &
		pad=$!
		defer reap "$pad"
		until_true 20 [ -e "$work/ready" ]
		kill "-$signal" "$pad"
		until_true 20 gone "$pad"
		rc=0
		wait "$pad" || rc=$?
		equal "status after $signal" "$rc" 3
		equal "signals" "$(cat "$work/tidied")" "$signal"
		until_true 2 no_group_is_left
	done
}

bench_listens() {
	[ -n "$(ss -Htln "sport = :$port")" ] || gone "$bench"
}

# By netgpu, on a queue that `setup` has made ready, and by read(2).
benches() {
	local path port=5110 bench last
	last=$(($(nic_queues) - 1))
	netgpu setup "$NETGPU_DEV" >"$work/setup"
	defer eval 'netgpu restore "$NETGPU_DEV" >/dev/null'
	ethtool -N "$NETGPU_DEV" flow-type tcp4 dst-port $port action $last loc 1 >/dev/null
	defer ethtool -N "$NETGPU_DEV" delete 1
	for path in netgpu read; do
		netgpu bench recv $path "$(address ours 4 $port)" --dev "$NETGPU_DEV" --queue $last --json >>"$work/rows" 2>"$work/error" &
		bench=$!
		defer reap "$bench"
		until_true 20 bench_listens
		in_peer netgpu bench send write "$(address ours 4 $port)" --bytes 16M --peer
		finished "$bench" 20 "$work/error"
		port=$((port + 1))
	done
	sed 's/^/# /' "$work/rows"
	for metric in Mbit/s cpu-us/MiB copied-bytes/byte; do
		has "$work/rows" "{\"path\":\"netgpu\",\"direction\":\"rx\",\"memory\":\"host\",\"mtu\":1500,\"metric\":\"$metric\",\"value\":"
	done
	mkdir "$work/report"
	netgpu bench report "$work/report" "$work/rows" >"$work/table"
	grep -q '^rx *1500 *speed/read *netgpu *host ' "$work/table" || fail "$(cat "$work/table")"
	has "$work/report/results.json" '{"path":"netgpu","direction":"rx","memory":"host","mtu":1500,"metric":"speed/read","median":'
	netgpu bench register host --mib 16 --dev "$NETGPU_DEV" >"$work/registered"
	grep -qE '^netgpu reg host: [0-9.]+ register-ms/GiB$' "$work/registered" || fail "$(cat "$work/registered")"
}

documents() {
	local shell command
	for shell in bash zsh fish; do
		netgpu completions $shell >"$work/completions"
		for command in doctor setup restore show recv send bench pad; do
			grep -q "$command" "$work/completions" || fail "$shell: no $command"
		done
	done
	netgpu man "$work/man"
	for command in netgpu netgpu-doctor netgpu-setup netgpu-restore netgpu-show netgpu-recv netgpu-send netgpu-bench-recv netgpu-pad netgpu-pad-on; do
		grep -q '^\.SH SYNOPSIS' "$work/man/$command.1" || fail "no page of $command"
	done
}

plan 25
nic_up
pinned_at_first=$(pinned_pages)
run doctor_without_the_module
run doctor_mends
run doctor_as_json
run doctor_sees_xdp
run doctor_of_what_is_no_nic
run setup_and_restore
run setup_of_the_worst
run setup_killed
run setup_without_a_reader
run setup_refused
run shows
run show_says_why_not
run recv_verifies
run send_from_a_pipe_as_json
run bar_of_a_receiver
run bar_of_a_sender
run bar_of_a_benchmark
run no_bar
run benches
run pad_a_cgroup
run pad_on_a_terminal
run pad_of_a_terminal_that_hangs_up
run pad_passes_signals_on
run documents
run nothing_is_left
finish
