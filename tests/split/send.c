// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * send ADDRESS PORT BYTES [CHUNK]: sends so much of the stream, in writes of CHUNK bytes.
 */
#include <netinet/tcp.h>

#include "stream.h"

int main(int argc, char **argv)
{
	struct sockaddr_in6 addr6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in addr4 = { .sin_family = AF_INET };
	uint64_t bytes, chunk = 65536, pos = 0;
	static uint8_t buf[1 << 20];
	int fd, one = 1;

	if (argc < 4)
		die("usage: send ADDRESS PORT BYTES [CHUNK]");
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
		sys(connect(fd, (void *)&addr6, sizeof(addr6)));
	} else {
		die("%s is no address", argv[1]);
	}
	/* Small writes shall become small packets. */
	sys(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));

	while (pos < bytes) {
		size_t len = bytes - pos < chunk ? bytes - pos : chunk;

		for (size_t i = 0; i < len; i++)
			buf[i] = stream_byte(pos + i);
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
