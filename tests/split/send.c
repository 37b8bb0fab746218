// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * send ADDRESS PORT BYTES [CHUNK [OPTIONS]]: sends so much of the stream, in writes of CHUNK bytes, over IPv6 with so many bytes of
 * destination options in each packet.
 */
#include <netinet/tcp.h>

#include "stream.h"

/* A destination options header of @len bytes, a multiple of 8 of at least 16, full of padding. */
static void add_options(int fd, size_t len)
{
	uint8_t header[256] = { 0, len / 8 - 1, 1 /* PadN */, len - 4 };

	if (len % 8 || len < 16 || len > sizeof(header))
		die("OPTIONS must be a multiple of 8 in 16..%zu", sizeof(header));
	sys(setsockopt(fd, IPPROTO_IPV6, IPV6_DSTOPTS, header, len));
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 addr6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in addr4 = { .sin_family = AF_INET };
	uint64_t bytes, chunk = 65536, pos = 0;
	static uint8_t buf[1 << 20];
	int fd, one = 1;

	if (argc < 4)
		die("usage: send ADDRESS PORT BYTES [CHUNK [OPTIONS]]");
	bytes = strtoull(argv[3], NULL, 0);
	if (argc > 4)
		chunk = strtoull(argv[4], NULL, 0);
	if (!chunk || chunk > sizeof(buf))
		die("CHUNK must be in 1..%zu", sizeof(buf));

	addr4.sin_port = addr6.sin6_port = htons(atoi(argv[2]));
	if (inet_pton(AF_INET, argv[1], &addr4.sin_addr) == 1) {
		fd = sys(socket(AF_INET, SOCK_STREAM, 0));
		sys(connect(fd, (void *)&addr4, sizeof(addr4)));
	} else if (inet_pton(AF_INET6, argv[1], &addr6.sin6_addr) == 1) {
		fd = sys(socket(AF_INET6, SOCK_STREAM, 0));
		if (argc > 5)
			add_options(fd, strtoul(argv[5], NULL, 0));
		sys(connect(fd, (void *)&addr6, sizeof(addr6)));
	} else {
		die("%s is no address", argv[1]);
	}
	/* Small writes shall become small packets. */
	sys(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));

	while (pos < bytes) {
		size_t len = bytes - pos < chunk ? bytes - pos : chunk;

		stream_fill(buf, len, pos);
		for (size_t sent = 0; sent < len;)
			sent += sys(write(fd, buf + sent, len - sent));
		pos += len;
	}

	/* The other end closes when it has everything. */
	sys(shutdown(fd, SHUT_WR));
	if (sys(read(fd, buf, 1)) != 0)
		die("the receiver sent something");
	return 0;
}
