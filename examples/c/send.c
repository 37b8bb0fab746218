// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Sends stdin over a TCP connection from registered memory:
 *
 *	send [-c] DEVICE ADDRESS PORT <FILE
 *
 *	-c	from a GPU's memory
 *
 * The memory is cut into slices. A slice is filled and sent, and can be filled again when all sends from it have finished.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <netgpu.h>

#include "gpu.h"

#define SLICES	8
#define SLICE	(256UL << 10)
/* Sends that are unfinished at a time, at most. */
#define SENDS	1024

static enum netgpu_memtype type = MEMTYPE_HOST;
static struct netgpu_ctx *ctx;
static struct netgpu_skq *skq;
static int fd;

/* Which slice a send was from, by the send's number, and how many are unfinished in each. */
static int slice_of[SENDS], unfinished[SLICES];
static uint64_t sends;

static void check(int ret, const char *what)
{
	if (ret < 0)
		errx(1, "%s: %s", what, netgpu_last_error());
}

/* Takes what has finished, after waiting for it if there is nothing to do else. */
static void finish(bool wait)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };
	uint64_t *numbers[64];
	int count;

	while ((count = netgpu_get_cq_batch(skq, numbers, 64)) == 0 && wait)
		poll(&poller, 1, -1);
	check(count, "cannot take finished sends");
	for (int i = 0; i < count; i++)
		unfinished[slice_of[*numbers[i] % SENDS]]--;
}

/* Sends all of it. */
static void send_slice(int slice, char *start, size_t len)
{
	struct pollfd poller = { .fd = fd, .events = POLLOUT };
	ssize_t sent;

	while (len > 0) {
		struct iovec part = { .iov_base = start, .iov_len = len };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

		sent = sendmsg(fd, &message, MSG_NETDMA | MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent > 0) {
			slice_of[sends++ % SENDS] = slice;
			unfinished[slice]++;
			start += sent;
			len -= sent;
		} else if (errno == EAGAIN) {
			poll(&poller, 1, -1);
		} else if (errno == ENOBUFS) {
			/* As many sends are unfinished as the ring has entries. */
			finish(true);
		} else {
			err(1, "cannot send");
		}
	}
}

/* Attached before it connects, so that it takes a route over the device. */
static void attach_and_connect(const char *address, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST }, *found;
	int ret = getaddrinfo(address, port, &hints, &found);

	if (ret)
		errx(1, "%s port %s: %s", address, port, gai_strerror(ret));
	fd = socket(found->ai_family, found->ai_socktype, 0);
	if (fd < 0)
		err(1, "cannot make a socket");
	check(netgpu_attach_socket(&skq, ctx, fd, SENDS), "cannot attach the socket");
	if (connect(fd, found->ai_addr, found->ai_addrlen))
		err(1, "cannot connect to %s port %s", address, port);
	freeaddrinfo(found);
}

int main(int argc, char **argv)
{
	struct netgpu_skq_stats stats;
	unsigned long long bytes = 0;
	char *memory, *copy = NULL;
	int option, failure, slice = 0;
	socklen_t failure_len = sizeof(failure);
	size_t len;

	while ((option = getopt(argc, argv, "c")) != -1) {
		if (option != 'c')
			return 2;
		type = MEMTYPE_CUDA;
	}
	if (argc - optind != 3)
		errx(2, "usage: send [-c] DEVICE ADDRESS PORT <FILE");
	if (type == MEMTYPE_CUDA) {
		gpu_open();
		copy = malloc(SLICE);
	}

	check(netgpu_open_ctx(&ctx, argv[optind]), "cannot open a context");
	memory = netgpu_alloc_memory(SLICES * SLICE, type);
	if (!memory)
		errx(1, "%s", netgpu_last_error());
	check(netgpu_register_memory(ctx, memory, SLICES * SLICE, type), "cannot register memory");
	attach_and_connect(argv[optind + 1], argv[optind + 2]);

	for (;; slice = (slice + 1) % SLICES) {
		char *start = memory + slice * SLICE;

		while (unfinished[slice] > 0)
			finish(true);
		len = fread(copy ? copy : start, 1, SLICE, stdin);
		if (len == 0)
			break;
		if (copy)
			gpu_write(start, copy, len);
		send_slice(slice, start, len);
		bytes += len;
		finish(false);
	}
	if (ferror(stdin))
		err(1, "cannot read");
	if (shutdown(fd, SHUT_WR))
		err(1, "cannot close the sending side");
	/* The device reads the memory until then. */
	for (slice = 0; slice < SLICES; slice++)
		while (unfinished[slice] > 0)
			finish(true);
	/* When a connection fails, its sends have finished, too. */
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &failure_len))
		err(1, "cannot ask for the end of the connection");
	if (failure)
		errx(1, "not all has arrived: %s", strerror(failure));
	check(netgpu_get_skq_stats(skq, &stats, sizeof(stats)), "cannot read the counters");
	fprintf(stderr, "tx %llu bytes  zero-copy %llu  copied %llu\n", bytes,
		(unsigned long long)(stats.tx_zerocopy - stats.tx_copied), (unsigned long long)stats.tx_copied);

	close(fd);
	netgpu_detach_socket(&skq);
	netgpu_close_ctx(&ctx);
	netgpu_free_memory(memory, SLICES * SLICE, type);
	free(copy);
	return 0;
}
