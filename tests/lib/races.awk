# SPDX-License-Identifier: MIT OR Apache-2.0
#
# A kernel's log without the data races that are nothing to netgpu: of both accesses, neither the function that does it nor its caller
# is of our modules. A report of KCSAN stands between two lines of "=".

function flush(    i) {
	for (i = 1; i <= lines; i++) print line[i]
	lines = 0
}

/={60}/ {
	if (inside && race && !ours) lines = 0
	else flush()
	inside = !inside
	race = ours = 0
	frame = 9
	next
}

!inside { print; next }

{ line[++lines] = $0 }
/BUG: KCSAN:/ { race = 1 }
# "read to 0x… of 8 bytes by task 7 on cpu 1:", and the stack below it.
/(read|write|access).* (to|by) .*:$/ { frame = 0; next }
{ frame++ }
frame <= 2 && /\[netgpu/ { ours = 1 }

END { flush() }
