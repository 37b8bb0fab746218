#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# The documentation: that it renders and no link is dead, in it and beside it, that each of its commands is run by some test or says why not, and those commands
# that build something. The area manual runs those of a user.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
top=$(realpath ../..)
cd "$top" || exit 1
# pkg-config as if the library were installed.
export PKG_CONFIG_PATH="$top/build/lib/pkgconfig"

pages() {
	git -c safe.directory="$top" ls-files -co --exclude-standard '*.md'
}

# blocks AREA: those that it runs, in $ktap_tmp/blocks; leaves their list in $ktap_tmp/list.
blocks() {
	rm -rf "$ktap_tmp/blocks"
	mkdir "$ktap_tmp/blocks"
	# shellcheck disable=SC2046
	awk -v area="$1" -v out="$ktap_tmp/blocks" -f tests/lib/blocks.awk $(pages) >"$ktap_tmp/list"
	[ -s "$ktap_tmp/list" ] || fail "no block says that it is run by $1"
}

renders() {
	scripts/docs "$ktap_tmp/html" >"$ktap_tmp/log" 2>&1 || fail "$(cat "$ktap_tmp/log")"
	note "$(tail -n 1 "$ktap_tmp/log")"
	# Of the library, of what it uses for CUDA, of the command.
	for message in 'cannot take receive queue N of DEVICE' 'there is no GPU ORDINAL' 'netgpu restore DEVICE'; do
		grep -q "$message" "$ktap_tmp/html/errors.html" || fail "$message is not among the messages"
	done
	for name in $(sed -n 's/^struct \(netgpu_[a-z_]*\) {/\1/p' include/uapi/linux/netgpu.h); do
		grep -q "id=\"struct-$name\"" "$ktap_tmp/html/uapi.html" || fail "struct $name is not in the reference"
	done
	for name in $(sed -n 's/^\(netgpu_[a-z_]*\)@@.*/\1/p' crates/netgpu-c/libnetgpu.symbols); do
		grep -q "id=\"$name\"" "$ktap_tmp/html/c-reference.html" || fail "$name() is not in the reference"
	done
}

# page TEXT: makes a page of it, and renders all of them.
page() {
	mkdir -p "$ktap_tmp/page"
	printf '<!DOCTYPE html>\n%s\n' "$1" >"$ktap_tmp/page/a.html"
	echo '<p id="there">' >"$ktap_tmp/page/b.html"
	scripts/docs-links "$ktap_tmp/page" >"$ktap_tmp/links"
}

dead_links_are_found() {
	page '<a href="b.html#there">' || fail "$(cat "$ktap_tmp/links")"
	! page '<a href="c.html">' || fail "a page that is not there"
	! page '<a href="b.html#here">' || fail "a place that is not there"
	! page '<img src="b.svg">' || fail "a picture that is not there"
}

# dead_links PAGE...: of pages that are read where they lie, to other files; and to places in pages of the book.
dead_links() {
	local page link file
	for page in "$@"; do
		sed 's/](/\n&/g' "$page" | sed -n 's/^](\([^)]*\)).*/\1/p' | grep -vE '^(https?:|#)' | while read -r link; do
			file=$(dirname "$page")/${link%%#*}
			[ -e "$file" ] || echo "$page: $link"
			case $link in
			docs/*.md#*) grep -q "id=\"${link#*#}\"" "$ktap_tmp/html/$(basename "$file" .md).html" || echo "$page: $link" ;;
			esac
		done
	done
}

pages_beside_the_book_lead_somewhere() {
	# shellcheck disable=SC2046
	dead_links $(pages | grep -v ^docs/) >"$ktap_tmp/dead"
	[ ! -s "$ktap_tmp/dead" ] || fail "$(cat "$ktap_tmp/dead")"
	ln -sfn "$top/docs" "$ktap_tmp/docs"
	printf '[a](docs/start.md#receive) [b](docs/start.md#nowhere)\n[c](docs/none.md)\n' >"$ktap_tmp/page.md"
	dead_links "$ktap_tmp/page.md" >"$ktap_tmp/dead"
	[ "$(wc -l <"$ktap_tmp/dead")" = 2 ] || fail "of two dead links: $(cat "$ktap_tmp/dead")"
}

every_command_says_where_it_runs() {
	local known
	# shellcheck disable=SC2046
	awk -f tests/lib/blocks.awk $(pages) >"$ktap_tmp/bad"
	[ ! -s "$ktap_tmp/bad" ] || fail "$(cat "$ktap_tmp/bad")"
	for known in $(pages | xargs sed -n 's/^ *```sh runs=\([a-z]*\).*/\1/p' | sort -u); do
		grep -q "blocks.* $known\|area=$known" "tests/$known"/*.sh || fail "the area $known runs no blocks"
	done
}

# What is wrong with PAGE in a line, for each block.
marks_are_looked_at() {
	printf '```sh\na\n```\n```\nb\n```\n```sh not-run:\nc\n```\n```sh not-run: why\nd\n```\ntext\n\n    e\n' >"$ktap_tmp/page.md"
	awk -f tests/lib/blocks.awk "$ktap_tmp/page.md" >"$ktap_tmp/bad"
	[ "$(wc -l <"$ktap_tmp/bad")" = 4 ] || fail "$(cat "$ktap_tmp/bad")"
}

commands() {
	blocks docs
	while read -r number place _; do
		sh -eu "$ktap_tmp/blocks/$number" >"$ktap_tmp/log" 2>&1 || fail "$place: $(cat "$ktap_tmp/log")"
		note "$place"
	done <"$ktap_tmp/list"
	[ -e build/receive ] || fail "the commands of docs/c.md have built nothing"
}

# The pieces of C are one function, one after the other.
c_compiles() {
	blocks c
	{
		printf '#include <netgpu.h>\nvoid consume(void *, size_t);\nvoid all(int fd, size_t len);\nvoid all(int fd, size_t len)\n{\n'
		while read -r number place _; do
			printf '#line 1 "%s"\n' "$place"
			cat "$ktap_tmp/blocks/$number"
		done <"$ktap_tmp/list"
		echo '}'
	} >"$ktap_tmp/all.c"
	# shellcheck disable=SC2046
	cc -std=gnu11 -Wall -Wextra -Werror -Wno-unused-variable -fsyntax-only $(pkg-config --cflags netgpu) "$ktap_tmp/all.c" 2>"$ktap_tmp/log" ||
		fail "$(cat "$ktap_tmp/log")"
}

# What pip would install is what `make python` has left beside the wheel, with its types.
wheel_is_whole() {
	rm -rf "$ktap_tmp/site"
	python3 -m zipfile -e build/python/netgpu-*-cp311-abi3-*.whl "$ktap_tmp/site"
	cmp "$ktap_tmp/site/netgpu/netgpu.abi3.so" build/python/netgpu.abi3.so
	cmp "$ktap_tmp/site/netgpu/__init__.pyi" build/python/netgpu.pyi
	[ -e "$ktap_tmp/site/netgpu/py.typed" ] || fail "type checkers would not look at it"
	for where in "$ktap_tmp/site" build/python; do
		# There is no netgpu on this machine.
		PYTHONPATH=$where python3 -c 'import netgpu; netgpu.Region(4096)' 2>"$ktap_tmp/log" && fail "$where: there is a region"
		grep -q '^FileNotFoundError: .*cannot open /dev/netgpu: .*modprobe netgpu' "$ktap_tmp/log" || fail "$where: $(cat "$ktap_tmp/log")"
	done
}

plan 8
run renders
run dead_links_are_found
run pages_beside_the_book_lead_somewhere
run every_command_says_where_it_runs
run marks_are_looked_at
run commands
run wheel_is_whole
run c_compiles
finish
