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

#define FILL		1024
#define NENTRIES	1024
#define BATCH		32

static void memarea(const char *ifname, enum netgpu_memtype type)
{
	struct netgpu_mem *mem = NULL, *mem2 = NULL;
	struct netgpu_ctx *ctx = NULL;
	size_t sz = 64 * 1024;
	void *ptr[8];
	int i, idx;

	CHK_ERR(netgpu_open_memarea(&mem));
	CHK_ERR(netgpu_open_memarea(&mem2));
	for (i = 0; i < (int)array_size(ptr); i++) {
		ptr[i] = netgpu_alloc_memory(sz, type);
		CHECK(ptr[i]);
		idx = netgpu_add_memarea(mem, ptr[i], sz, type);
		CHECK_MSG(idx == i + 1, "index %d", idx);
	}
	CHECK(netgpu_add_memarea(mem, ptr[0], sz, type) == -EEXIST);
	CHECK(netgpu_add_memarea(mem2, ptr[1], sz, type) == -EEXIST);
	CHK_ERR(netgpu_open_ctx(&ctx, ifname));
	CHK_ERR(netgpu_attach_region(ctx, mem, 3));
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

	CHK_ERR(netgpu_open_ctx(&ctx, ifname));
	ptr = netgpu_alloc_memory(sz, MEMTYPE_HOST);
	CHK_ERR(netgpu_register_memory(ctx, ptr, sz, MEMTYPE_HOST));
	CHK_ERR(netgpu_open_ifq(&ifq, ctx, -1, FILL));
	fd = socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP);
	CHK_ERR(netgpu_attach_socket(&skq, ctx, fd, NENTRIES));

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

	CHK_ERR(netgpu_open_ctx(&ctx, ifname));
	ptr = netgpu_alloc_memory(sz, MEMTYPE_HOST);
	CHK_ERR(netgpu_register_memory(ctx, ptr, sz, MEMTYPE_HOST));
	CHK_ERR(netgpu_open_ifq(&ifq, ctx, -1, FILL));
	netgpu_populate_ring(ifq, (uint64_t)ptr, FILL);

	CHK_SYS(fd = socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP));
	CHK_SYS(bind(fd, (struct sockaddr *)&addr, sizeof(addr)));
	CHK_SYS(listen(fd, 1));
	fprintf(stderr, "listening on port %d, queue %d\n", port, netgpu_ifq_id(ifq));
	CHK_SYS(conn = accept(fd, NULL, NULL));
	CHK_ERR(netgpu_attach_socket(&skq, ctx, conn, NENTRIES));

	CHK_SYS(ep = epoll_create(1));
	CHK_SYS(epoll_ctl(ep, EPOLL_CTL_ADD, conn, &ev));
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
