// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Fills the TCP header of every segment of a cgroup's sockets up to its full 60 bytes.
 *
 * A receiver whose NIC splits packets at a fixed offset then finds the payload exactly there. The kernel accounts the
 * reserved bytes in the MSS and fills what nobody writes with NOPs (bpf_skops_write_hdr_opt() in
 * net/ipv4/tcp_output.c), so reserving is all there is to do.
 */
#include <linux/bpf.h>

#define SECTION(name) __attribute__((section(name), used))

/* Numbers of helpers, from ___BPF_FUNC_MAPPER in linux/bpf.h. */
static long (*const set_callback_flags)(struct bpf_sock_ops *, int) = (void *)BPF_FUNC_sock_ops_cb_flags_set;
static long (*const reserve_options)(struct bpf_sock_ops *, __u32, __u64) = (void *)BPF_FUNC_reserve_hdr_opt;

/* The option space of a TCP header: 60 bytes at most, 20 of which are fixed. */
#define OPTION_SPACE 40

SECTION("sockops") int pad(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		set_callback_flags(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		/* What is left is not told, but it is a multiple of four, and more than is left is refused. */
#pragma unroll
		for (int space = OPTION_SPACE; space > 0; space -= 4)
			if (!reserve_options(ops, space, 0))
				break;
		break;
	}
	return 1;
}

char license_of_program[] SECTION("license") = "MIT OR Apache-2.0";
