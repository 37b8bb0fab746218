// SPDX-License-Identifier: MIT OR Apache-2.0
/* The XDP program that does nothing. */
#include <linux/bpf.h>

#define SECTION(name) __attribute__((section(name), used))

SECTION("xdp") int pass(struct xdp_md *packet)
{
	(void)packet;
	return XDP_PASS;
}

char license_of_program[] SECTION("license") = "MIT OR Apache-2.0";
