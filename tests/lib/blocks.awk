# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The commands of the documentation: awk -v area=AREA -v out=DIR -f blocks.awk FILE... copies the blocks that AREA runs to DIR/1, DIR/2, …,
# in order, and prints for each its number, its further marks, and FILE:LINE. Without an area it prints what is wrong with the marks of any block.
#
# With the area `c` it copies blocks of C, and with `python` those of Python but for `python not-run: REASON`. A block of commands begins, behind its three back quotes, with one of
#
#	sh runs=AREA MARK...
#	sh not-run: REASON
#
# Marks of blocks of the area manual: `peer`, run it on the other machine; `background`, do not wait for its end.
FNR == 1 { inside = 0 }

/^ *```/ && !inside {
	inside = 1
	indent = match($0, /`/) - 1
	mark = substr($0, indent + 4)
	place = FILENAME ":" FNR
	copy = 0
	if (area == "") {
		if (mark == "")
			print place ": a block without a language"
		else if (mark ~ /^(sh|bash|shell|console)/ && mark !~ /^sh (runs=[a-z]+( (peer|background))*|not-run: .+)$/)
			print place ": commands that neither say which area runs them nor why none does: " mark
	} else if (area == "c" || area == "python" ? mark == area : mark ~ "^sh runs=" area "( |$)") {
		copy = ++count
		sub(/^sh runs=[a-z]+ */, "", mark)
		print count, place, mark
	}
	next
}

/^ *```/ {
	inside = 0
	if (copy)
		close(out "/" copy)
	next
}

inside && copy { print substr($0, indent + 1) >(out "/" copy) }

# Four blanks at the beginning, behind an empty line, are a block, too, unless they belong to a list.
!inside && area == "" && /^    [^ ]/ && empty && !list { print FILENAME ":" FNR ": a block without a mark; put it between lines of three back quotes" }
{ empty = /^$/ }
/^ *([-*]|[0-9]+\.) / { list = 1 }
/^[^ ]/ && !/^([-*]|[0-9]+\.) / { list = 0 }
