// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Receives one TCP connection in registered memory and writes what came to stdout:
 *
 *	receive [-4c] [-q QUEUE] [-m PAGES] [-b BYTES] DEVICE PORT >FILE
 *
 *	-4	over IPv4 only
 *	-c	in a GPU's memory
 *	-q	on this receive queue, instead of the last one that is free
 *	-m	pages of memory to donate
 *	-b	bytes of a buffer, for a NIC that packs payload into larger ones than a page; memory is in huge pages then
 *
 * The connection is to be steered to that queue, for example, with 2 queues in use:
 *
 *	ethtool -G DEVICE tcp-data-split on
 *	ethtool -X DEVICE equal 1
 *	ethtool -N DEVICE flow-type tcp4 dst-port PORT action 1
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <netgpu.h>

#include "gpu.h"

#define PAGE	4096
#define BATCH	64
#define LARGEST	(128 << 10)

static const char *device;
static enum netgpu_memtype type = MEMTYPE_HOST;
static int family = AF_INET6, queue = -1, pages = 4096, unit = PAGE;

static struct netgpu_ctx *ctx;
static struct netgpu_ifq *ifq;
static char *memory;

static void check(int ret, const char *what)
{
	if (ret < 0)
		errx(1, "%s: %s", what, netgpu_last_error());
}

/* Allocates so many pages, registers them and gives them to the queue. */
static void *donate(int count, enum netgpu_memtype of)
{
	size_t size = (size_t)count * PAGE;
	void *start = netgpu_alloc_memory(size, of);

	if (!start)
		errx(1, "%s", netgpu_last_error());
	check(netgpu_register_memory(ctx, start, size, of), "cannot register memory");
	netgpu_populate_ring(ifq, (uintptr_t)start, size / unit);
	return start;
}

static int accept_one(int port)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct sockaddr *address = family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
	int fd = socket(family, SOCK_STREAM, 0), on = 1, conn;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
	    bind(fd, address, family == AF_INET ? sizeof(v4) : sizeof(v6)) || listen(fd, 1))
		err(1, "cannot listen on port %d", port);
	fprintf(stderr, "listening on port %d, receive queue %d of %s\n", port, netgpu_ifq_id(ifq), device);
	conn = accept(fd, NULL, NULL);
	if (conn < 0)
		err(1, "cannot accept");
	close(fd);
	return conn;
}

static void consume(const struct iovec *piece)
{
	const char *start = piece->iov_base;
	static char copy[LARGEST];

	/* What is copied is in host memory, see main(). */
	if (type == MEMTYPE_CUDA && start >= memory && start < memory + (size_t)pages * PAGE) {
		gpu_read(copy, start, piece->iov_len);
		start = copy;
	}
	if (fwrite(start, 1, piece->iov_len, stdout) != piece->iov_len)
		err(1, "cannot write");
}

/* Whether the stream has ended; else waits for more of it. */
static bool ended(int fd)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };
	char nothing;

	/* No bytes come this way, but the end does. */
	if (recv(fd, &nothing, 1, MSG_DONTWAIT) == 0)
		return true;
	if (errno != EAGAIN)
		err(1, "cannot receive");
	poll(&poller, 1, -1);
	return false;
}

int main(int argc, char **argv)
{
	struct netgpu_skq *skq;
	struct netgpu_skq_stats stats;
	struct iovec *pieces[BATCH];
	unsigned long long bytes = 0;
	int option, fd, count;

	while ((option = getopt(argc, argv, "4cq:m:b:")) != -1) {
		switch (option) {
		case '4': family = AF_INET; break;
		case 'c': type = MEMTYPE_CUDA; break;
		case 'q': queue = atoi(optarg); break;
		case 'm': pages = atoi(optarg); break;
		case 'b': unit = atoi(optarg); break;
		default: return 2;
		}
	}
	if (argc - optind != 2)
		errx(2, "usage: receive [-4c] [-q QUEUE] [-m PAGES] [-b BYTES] DEVICE PORT >FILE");
	device = argv[optind];
	if (type == MEMTYPE_CUDA)
		gpu_open();
	else if (unit > PAGE)
		type = MEMTYPE_HUGE;

	check(netgpu_open_ctx_buffers(&ctx, device, unit), "cannot open a context");
	/* Shorter headers than of IPv6 leave less to be copied where the device does not find their end by itself. */
	if (family == AF_INET)
		check(netgpu_open_ifq_hds(&ifq, ctx, queue, pages, 14 + 20 + 60), "cannot take a receive queue");
	else
		check(netgpu_open_ifq(&ifq, ctx, queue, pages), "cannot take a receive queue");
	memory = donate(pages, type);
	/* Bytes that came with their header, or past the queue, are copied by the CPU, for which a GPU's memory is a bad place. */
	if (type == MEMTYPE_CUDA)
		donate(512, unit > PAGE ? MEMTYPE_HUGE : MEMTYPE_HOST);

	fd = accept_one(atoi(argv[optind + 1]));
	check(netgpu_attach_socket(&skq, ctx, fd, 1024), "cannot attach the socket");
	for (;;) {
		count = netgpu_get_rx_batch(skq, pieces, BATCH);
		check(count, "cannot receive");
		if (count == 0) {
			if (ended(fd))
				break;
			continue;
		}
		for (int i = 0; i < count; i++) {
			consume(pieces[i]);
			bytes += pieces[i]->iov_len;
		}
		if (!netgpu_recycle_batch(ifq, pieces, count))
			for (int i = 0; i < count; i++)
				netgpu_recycle_buffer(ifq, pieces[i]->iov_base);
		netgpu_recycle_complete(ifq);
	}
	if (fflush(stdout))
		err(1, "cannot write");
	check(netgpu_get_skq_stats(skq, &stats, sizeof(stats)), "cannot read the counters");
	fprintf(stderr, "rx %llu bytes  zero-copy %llu  copied %llu\n", bytes, (unsigned long long)stats.rx_zerocopy,
		(unsigned long long)stats.rx_copied);

	close(fd);
	netgpu_detach_socket(&skq);
	netgpu_close_ifq(&ifq);
	netgpu_close_ctx(&ctx);
	netgpu_free_memory(memory, (size_t)pages * PAGE, type);
	return 0;
}
