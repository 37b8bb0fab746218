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

static inline void stream_check(const void *data, size_t len, uint64_t pos)
{
	const uint8_t *bytes = data;

	for (size_t i = 0; i < len; i++)
		if (bytes[i] != stream_byte(pos + i))
			die("byte %llu of the stream is 0x%02x instead of 0x%02x", (unsigned long long)(pos + i), bytes[i],
			    stream_byte(pos + i));
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
