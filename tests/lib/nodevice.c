// SPDX-License-Identifier: MIT OR Apache-2.0
/* A program that says what the C library says of a device that is not there. */
#include <netgpu.h>
#include <stdio.h>

int main(void)
{
	struct netgpu_ctx *ctx;
	int ret = netgpu_open_ctx(&ctx, "no-such-device");

	puts(netgpu_last_error());
	return ret >= 0;
}
