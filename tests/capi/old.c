// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A program as they were written for the library of 2020: nothing but netgpu_lib.h and the system's headers. Receives one connection
 * and writes it to stdout:
 *
 *	old DEVICE PORT
 */
#include <error.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "netgpu_lib.h"

#define CHECK(cond) do {							\
	if (!(cond))								\
		error_at_line(1, errno, __FILE__, __LINE__, "%s", #cond);	\
} while (0)

#define FILL		1024
#define NENTRIES	1024
#define BATCH		32

static void memarea(const char *ifname, enum netgpu_memtype type)
{
	struct netgpu_mem *mem = NULL, *mem2 = NULL;
	struct netgpu_ctx *ctx = NULL;
	size_t sz = 64 * 1024;
	void *ptr[8];
	int i;

	CHECK(netgpu_open_memarea(&mem) == 0);
	CHECK(netgpu_open_memarea(&mem2) == 0);
	for (i = 0; i < 8; i++) {
		ptr[i] = netgpu_alloc_memory(sz, type);
		CHECK(ptr[i]);
		CHECK(netgpu_add_memarea(mem, ptr[i], sz, type) == i + 1);
	}
	CHECK(netgpu_add_memarea(mem, ptr[0], sz, type) == -EEXIST);
	CHECK(netgpu_add_memarea(mem2, ptr[1], sz, type) == -EEXIST);
	CHECK(netgpu_open_ctx(&ctx, ifname) == 0);
	CHECK(netgpu_attach_region(ctx, mem, 3) == 0);
	netgpu_close_memarea(&mem2);
	netgpu_close_memarea(&mem);
	netgpu_close_ctx(&ctx);
	for (i = 0; i < 8; i++)
		netgpu_free_memory(ptr[i], sz, type);
}

static void ordering(const char *ifname)
{
	struct netgpu_ctx *ctx = NULL;
	struct netgpu_ifq *ifq = NULL;
	struct netgpu_skq *skq = NULL;
	size_t sz = 64 * 1024;
	void *ptr;
	int fd;

	CHECK(netgpu_open_ctx(&ctx, ifname) == 0);
	ptr = netgpu_alloc_memory(sz, MEMTYPE_HOST);
	CHECK(netgpu_register_memory(ctx, ptr, sz, MEMTYPE_HOST) == 0);
	CHECK(netgpu_open_ifq(&ifq, ctx, -1, FILL) == 0);
	fd = socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP);
	CHECK(netgpu_attach_socket(&skq, ctx, fd, NENTRIES) == 0);

	netgpu_close_ctx(&ctx);
	netgpu_free_memory(ptr, sz, MEMTYPE_HOST);
	netgpu_close_ifq(&ifq);
	close(fd);
	netgpu_detach_socket(&skq);
	CHECK(!ctx && !ifq && !skq);
}

static bool handle_read(struct netgpu_skq *skq, struct netgpu_ifq *ifq)
{
	struct iovec *iov[BATCH];
	int i, count;

	count = netgpu_get_rx_batch(skq, iov, BATCH);
	if (!count)
		return true;
	for (i = 0; i < count; i++) {
		CHECK(fwrite(iov[i]->iov_base, 1, iov[i]->iov_len, stdout) == iov[i]->iov_len);
		netgpu_recycle_buffer(ifq, iov[i]->iov_base);
	}
	netgpu_recycle_complete(ifq);
	return count != BATCH;
}

static void receive(const char *ifname, int port)
{
	struct sockaddr_in6 addr = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct netgpu_ctx *ctx = NULL;
	struct netgpu_ifq *ifq = NULL;
	struct netgpu_skq *skq = NULL;
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP };
	size_t sz = FILL * 4096;
	int fd, conn, ep;
	bool done;
	void *ptr;

	CHECK(netgpu_open_ctx(&ctx, ifname) == 0);
	ptr = netgpu_alloc_memory(sz, MEMTYPE_HOST);
	CHECK(netgpu_register_memory(ctx, ptr, sz, MEMTYPE_HOST) == 0);
	CHECK(netgpu_open_ifq(&ifq, ctx, -1, FILL) == 0);
	netgpu_populate_ring(ifq, (uint64_t)ptr, FILL);

	CHECK((fd = socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP)) >= 0);
	CHECK(bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	CHECK(listen(fd, 1) == 0);
	fprintf(stderr, "listening on port %d, queue %d\n", port, netgpu_ifq_id(ifq));
	CHECK((conn = accept(fd, NULL, NULL)) >= 0);
	CHECK(netgpu_attach_socket(&skq, ctx, conn, NENTRIES) == 0);

	CHECK((ep = epoll_create(1)) >= 0);
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, conn, &ev) == 0);
	for (;;) {
		CHECK(epoll_wait(ep, &ev, 1, -1) == 1);
		done = true;
		if (ev.events & EPOLLIN)
			done = handle_read(skq, ifq);
		/* handle data before exiting */
		if (done && ev.events & EPOLLRDHUP && handle_read(skq, ifq))
			break;
	}
	CHECK(fflush(stdout) == 0);

	netgpu_close_ifq(&ifq);
	netgpu_close_ctx(&ctx);
	netgpu_free_memory(ptr, sz, MEMTYPE_HOST);
	close(conn);
	netgpu_detach_socket(&skq);
}

int main(int argc, char **argv)
{
	CHECK(argc == 3);
	CHECK(MSG_NETDMA == MSG_ZEROCOPY);
	memarea(argv[1], MEMTYPE_HOST);
	ordering(argv[1]);
	receive(argv[1], atoi(argv[2]));
	return 0;
}
