/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A byte stream that both ends know: what the receivers check, and how they get at it.
 */
#ifndef STREAM_H
#define STREAM_H

#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define die(...) do { fprintf(stderr, __VA_ARGS__); fputc('\n', stderr); exit(1); } while (0)
#define sys(call) ({ long ret_ = (call); if (ret_ < 0) die("%s: %s", #call, strerror(errno)); ret_; })

/* The byte at @pos. No two pages of the stream are alike within what a test sends. */
static inline uint8_t stream_byte(uint64_t pos)
{
	return pos ^ (pos >> 8) ^ (pos >> 16) ^ (pos >> 24);
}

/* The @len bytes from @pos on, eight at a time where they can be: an emulated processor is slow with single ones. */
static inline void stream_fill(void *data, size_t len, uint64_t pos)
{
	uint8_t *bytes = data;
	uint64_t eight;
	size_t i = 0;

	for (; i < len && (pos + i) % 8; i++)
		bytes[i] = stream_byte(pos + i);
	for (; len - i >= 8; i += 8) {
		eight = 0x0706050403020100 ^ 0x0101010101010101 * stream_byte(pos + i);
		memcpy(bytes + i, &eight, 8);
	}
	for (; i < len; i++)
		bytes[i] = stream_byte(pos + i);
}

static inline void stream_check(const void *data, size_t len, uint64_t pos)
{
	const uint8_t *bytes = data;
	uint8_t right[4096];
	size_t done, part;

	for (done = 0; done < len; done += part) {
		part = len - done < sizeof(right) ? len - done : sizeof(right);
		stream_fill(right, part, pos + done);
		if (!memcmp(bytes + done, right, part))
			continue;
		for (size_t i = 0; i < part; i++)
			if (bytes[done + i] != right[i])
				die("byte %llu of the stream is 0x%02x instead of 0x%02x", (unsigned long long)(pos + done + i),
				    bytes[done + i], right[i]);
	}
}

/* Port @port of all addresses, IPv4 included. */
static inline int stream_listen(int port)
{
	struct sockaddr_in6 addr = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int one = 1, fd = sys(socket(AF_INET6, SOCK_STREAM, 0));

	sys(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	sys(bind(fd, (void *)&addr, sizeof(addr)));
	sys(listen(fd, 1));
	return fd;
}

#endif
