// SPDX-License-Identifier: MIT OR Apache-2.0
/* The C library by its contract: every call with good and bad arguments, and objects closed in every order. Needs the ports. */
#include "helpers.h"
#include "kselftest_harness.h"

#include <poll.h>

#include <netgpu.h>

#define PAGE	4096UL

/* Nothing that was wrong is silent. */
#define EXPECT_ERROR(errno_, call) do {					\
	EXPECT_EQ(-(errno_), (call));					\
	EXPECT_NE('\0', *netgpu_last_error());				\
} while (0)

/* What returns nothing has a text of its own all the same. */
#define EXPECT_TEXT(text, call) do {					\
	EXPECT_EQ(-EINVAL, netgpu_ifq_id(NULL));			\
	call;								\
	EXPECT_NE(NULL, strstr(netgpu_last_error(), text)) TH_LOG("%s", netgpu_last_error()); \
} while (0)

TEST(null_is_told_or_nothing)
{
	struct netgpu_ctx *ctx = NULL;
	struct netgpu_mem *mem = NULL;
	struct netgpu_ifq *ifq = NULL;
	struct netgpu_skq *skq = NULL;
	struct netgpu_skq_stats stats;
	struct iovec *iov[1];
	uint64_t *notify[1];
	void *va;

	EXPECT_ERROR(EINVAL, netgpu_open_ctx(NULL, nic_name()));
	EXPECT_ERROR(EINVAL, netgpu_open_ctx(&ctx, NULL));
	EXPECT_ERROR(EINVAL, netgpu_open_ctx_buffers(NULL, nic_name(), PAGE));
	EXPECT_ERROR(EINVAL, netgpu_open_ctx_buffers(&ctx, NULL, PAGE));
	EXPECT_ERROR(EINVAL, netgpu_open_memarea(NULL));
	EXPECT_ERROR(EINVAL, netgpu_add_memarea(NULL, iov, PAGE, MEMTYPE_HOST));
	EXPECT_ERROR(EINVAL, netgpu_add_dmabuf(NULL, 0, 0, PAGE, &va));
	EXPECT_ERROR(EINVAL, netgpu_attach_region(NULL, NULL, 1));
	EXPECT_ERROR(EINVAL, netgpu_register_memory(NULL, iov, PAGE, MEMTYPE_HOST));
	EXPECT_ERROR(EINVAL, netgpu_open_ifq(NULL, NULL, -1, 16));
	EXPECT_ERROR(EINVAL, netgpu_open_ifq(&ifq, NULL, -1, 16));
	EXPECT_ERROR(EINVAL, netgpu_open_ifq_hds(NULL, NULL, -1, 16, 94));
	EXPECT_ERROR(EINVAL, netgpu_open_ifq_hds(&ifq, NULL, -1, 16, 94));
	EXPECT_ERROR(EINVAL, netgpu_open_ifq_padded(NULL, NULL, -1, 16, 94));
	EXPECT_ERROR(EINVAL, netgpu_open_ifq_padded(&ifq, NULL, -1, 16, 94));
	EXPECT_ERROR(EINVAL, netgpu_ifq_id(NULL));
	EXPECT_ERROR(EINVAL, netgpu_attach_socket(NULL, NULL, 0, 16));
	EXPECT_ERROR(EINVAL, netgpu_attach_socket(&skq, NULL, 0, 16));
	EXPECT_ERROR(EINVAL, netgpu_get_rx_batch(NULL, iov, 1));
	EXPECT_ERROR(EINVAL, netgpu_get_cq_batch(NULL, notify, 1));
	EXPECT_ERROR(EINVAL, netgpu_get_skq_stats(NULL, &stats, sizeof(stats)));
	EXPECT_FALSE(netgpu_recycle_batch(NULL, iov, 1));
	netgpu_populate_ring(NULL, 0, 1);
	netgpu_recycle_buffer(NULL, iov);
	netgpu_recycle_complete(NULL);
	netgpu_free_memory(NULL, PAGE, MEMTYPE_HOST);
	netgpu_close_ctx(NULL);
	netgpu_close_memarea(NULL);
	netgpu_close_ifq(NULL);
	netgpu_detach_socket(NULL);
	netgpu_close_ctx(&ctx);
	netgpu_close_memarea(&mem);
	netgpu_close_ifq(&ifq);
	netgpu_detach_socket(&skq);
}

TEST(devices_that_are_none)
{
	struct netgpu_ctx *ctx = (void *)1;

	EXPECT_ERROR(ENODEV, netgpu_open_ctx(&ctx, "no-such-device"));
	EXPECT_EQ(NULL, ctx);
	EXPECT_NE(NULL, strstr(netgpu_last_error(), "no-such-device"));
	ctx = (void *)1;
	EXPECT_ERROR(EOPNOTSUPP, netgpu_open_ctx(&ctx, "lo"));
	EXPECT_EQ(NULL, ctx);
	EXPECT_GT(0, netgpu_open_ctx(&ctx, ""));
	EXPECT_GT(0, netgpu_open_ctx(&ctx, "a name that is longer than any that a device can have"));
}

TEST(sizes_of_buffers)
{
	static const size_t bad[] = { 0, 1, 2048, 12288, 1 << 18, SIZE_MAX, 1UL << 32 | PAGE };
	struct netgpu_ctx *ctx;
	struct netgpu_ifq *ifq;
	size_t size, i;
	char *host;

	for (i = 0; i < ARRAY_LEN(bad); i++) {
		ctx = (void *)1;
		EXPECT_ERROR(EINVAL, netgpu_open_ctx_buffers(&ctx, nic_name(), bad[i]));
		EXPECT_EQ(NULL, ctx);
	}
	if (!huge_pages(2))
		SKIP(return, "no huge pages");
	for (size = PAGE; size <= 1 << 17; size *= 2) {
		ASSERT_EQ(0, netgpu_open_ctx_buffers(&ctx, nic_name(), size));
		/* That of the round before goes some time after its context. */
		ASSERT_TRUE(WAIT_FOR((host = netgpu_alloc_memory(1, MEMTYPE_HUGE)), 5000)) TH_LOG("%s", netgpu_last_error());
		EXPECT_EQ(0, (uintptr_t)host % HUGE);
		host[HUGE - 1] = 1;
		if (size > PAGE)
			EXPECT_ERROR(EINVAL, netgpu_register_memory(ctx, host + PAGE, size, MEMTYPE_HUGE));
		EXPECT_EQ(0, netgpu_register_memory(ctx, host, HUGE, MEMTYPE_HUGE));
		EXPECT_EQ(0, netgpu_open_ifq(&ifq, ctx, -1, 512)) TH_LOG("%s", netgpu_last_error());
		netgpu_close_ifq(&ifq);
		netgpu_close_ctx(&ctx);
		netgpu_free_memory(host, 1, MEMTYPE_HUGE);
	}
	huge_pages(0);
	EXPECT_EQ(NULL, netgpu_alloc_memory(HUGE, MEMTYPE_HUGE));
	EXPECT_NE(NULL, strstr(netgpu_last_error(), "`echo 1 > /proc/sys/vm/nr_hugepages`")) TH_LOG("%s", netgpu_last_error());
}

static void *other_thread(void *text)
{
	*(const char **)text = netgpu_last_error();
	return NULL;
}

TEST(texts_are_of_a_thread)
{
	struct netgpu_ctx *ctx;
	const char *text;
	pthread_t thread;

	EXPECT_STREQ("", netgpu_last_error());
	EXPECT_ERROR(ENODEV, netgpu_open_ctx(&ctx, "no-such-device"));
	ASSERT_EQ(0, pthread_create(&thread, NULL, other_thread, &text));
	pthread_join(thread, NULL);
	EXPECT_STREQ("", text);
}

TEST(memory_is_allocated)
{
	char *host = netgpu_alloc_memory(PAGE + 1, MEMTYPE_HOST);

	ASSERT_NE(NULL, host);
	EXPECT_EQ(0, (uintptr_t)host % PAGE);
	for (size_t i = 0; i < 2 * PAGE; i++)
		ASSERT_EQ(0, host[i]);
	memset(host, 1, 2 * PAGE);
	netgpu_free_memory(host, PAGE + 1, MEMTYPE_HOST);
	EXPECT_EQ(NULL, netgpu_alloc_memory(0, MEMTYPE_HOST));
	EXPECT_EQ(NULL, netgpu_alloc_memory(SIZE_MAX, MEMTYPE_HOST));
	EXPECT_EQ(NULL, netgpu_alloc_memory(1UL << 46, MEMTYPE_HOST));
	EXPECT_NE(NULL, strstr(netgpu_last_error(), strerror(ENOMEM))) TH_LOG("%s", netgpu_last_error());
	EXPECT_EQ(NULL, netgpu_alloc_memory(PAGE, MEMTYPE_DMABUF));
	EXPECT_EQ(NULL, netgpu_alloc_memory(PAGE, 77));
}

FIXTURE(area)
{
	struct netgpu_mem *mem;
	struct netgpu_mem *other;
	char *host;
};

FIXTURE_SETUP(area)
{
	ASSERT_EQ(0, netgpu_open_memarea(&self->mem));
	ASSERT_EQ(0, netgpu_open_memarea(&self->other));
	self->host = netgpu_alloc_memory(16 * PAGE, MEMTYPE_HOST);
	ASSERT_NE(NULL, self->host);
}

FIXTURE_TEARDOWN(area)
{
	netgpu_close_memarea(&self->mem);
	EXPECT_EQ(NULL, self->mem);
	netgpu_close_memarea(&self->other);
	netgpu_free_memory(self->host, 16 * PAGE, MEMTYPE_HOST);
}

TEST_F(area, numbers_count_from_one)
{
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(i + 1, netgpu_add_memarea(self->mem, self->host + i * PAGE, PAGE, MEMTYPE_HOST));
	EXPECT_EQ(1, netgpu_add_memarea(self->other, self->host + 4 * PAGE, PAGE, MEMTYPE_HOST));
	EXPECT_EQ(5, netgpu_add_memarea(self->mem, self->host + 5 * PAGE, PAGE, MEMTYPE_HOST));
}

TEST_F(area, nothing_is_registered_twice)
{
	EXPECT_EQ(1, netgpu_add_memarea(self->mem, self->host + 4 * PAGE, 4 * PAGE, MEMTYPE_HOST));
	EXPECT_ERROR(EEXIST, netgpu_add_memarea(self->mem, self->host + 4 * PAGE, 4 * PAGE, MEMTYPE_HOST));
	EXPECT_ERROR(EEXIST, netgpu_add_memarea(self->other, self->host + 4 * PAGE, 4 * PAGE, MEMTYPE_HOST));
	EXPECT_ERROR(EEXIST, netgpu_add_memarea(self->other, self->host, 5 * PAGE, MEMTYPE_HOST));
	/* Rounded out, it overlaps. */
	EXPECT_ERROR(EEXIST, netgpu_add_memarea(self->other, self->host, 4 * PAGE + 1, MEMTYPE_HOST));
	EXPECT_ERROR(EEXIST, netgpu_add_memarea(self->other, self->host + 8 * PAGE - 1, 1, MEMTYPE_HOST));
	EXPECT_EQ(1, netgpu_add_memarea(self->other, self->host + 8 * PAGE, PAGE, MEMTYPE_HOST));
	EXPECT_EQ(2, netgpu_add_memarea(self->mem, self->host + 4 * PAGE - 1, 1, MEMTYPE_HOST));
	netgpu_close_memarea(&self->mem);
	EXPECT_EQ(2, netgpu_add_memarea(self->other, self->host + 4 * PAGE, 4 * PAGE, MEMTYPE_HOST));
}

TEST_F(area, spans_round_out)
{
	struct netgpu_ctx *ctx;

	ASSERT_EQ(0, netgpu_open_ctx(&ctx, nic_name()));
	EXPECT_EQ(1, netgpu_add_memarea(self->mem, self->host + PAGE + 100, 2 * PAGE, MEMTYPE_HOST));
	EXPECT_EQ(0, netgpu_attach_region(ctx, self->mem, 1));
	EXPECT_ERROR(EEXIST, netgpu_register_memory(ctx, self->host + 3 * PAGE, 1, MEMTYPE_HOST));
	EXPECT_EQ(0, netgpu_register_memory(ctx, self->host + 4 * PAGE, 1, MEMTYPE_HOST));
	netgpu_close_ctx(&ctx);
}

TEST_F(area, what_cannot_be_registered)
{
	char *nothing = hole(PAGE);
	char *constant = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *va;
	int file;

	EXPECT_ERROR(EINVAL, netgpu_add_memarea(self->mem, self->host, 0, MEMTYPE_HOST));
	EXPECT_ERROR(EINVAL, netgpu_add_memarea(self->mem, NULL, PAGE, MEMTYPE_HOST));
	EXPECT_ERROR(EINVAL, netgpu_add_memarea(self->mem, self->host, SIZE_MAX, MEMTYPE_HOST));
	EXPECT_ERROR(EINVAL, netgpu_add_memarea(self->mem, self->host, PAGE, MEMTYPE_DMABUF));
	EXPECT_ERROR(EINVAL, netgpu_add_memarea(self->mem, self->host, PAGE, 77));
	EXPECT_ERROR(EFAULT, netgpu_add_memarea(self->mem, nothing, PAGE, MEMTYPE_HOST));
	EXPECT_ERROR(EFAULT, netgpu_add_memarea(self->mem, constant, PAGE, MEMTYPE_HOST));
	/* There is no CUDA driver here. */
	EXPECT_ERROR(ENODEV, netgpu_add_memarea(self->mem, self->host, PAGE, MEMTYPE_CUDA));
	EXPECT_NE(NULL, strstr(netgpu_last_error(), "libcuda.so.1"));
	EXPECT_EQ(NULL, netgpu_alloc_memory(PAGE, MEMTYPE_CUDA));
	EXPECT_ERROR(EBADF, netgpu_add_dmabuf(self->mem, -1, 0, PAGE, &va));
	EXPECT_ERROR(EBADF, netgpu_add_dmabuf(self->mem, 1000, 0, PAGE, &va));
	file = open("/dev/null", O_RDWR);
	EXPECT_ERROR(EINVAL, netgpu_add_dmabuf(self->mem, file, 0, PAGE, &va));
	EXPECT_ERROR(EINVAL, netgpu_add_dmabuf(self->mem, file, 0, PAGE, NULL));
	/* None of these has a number. */
	EXPECT_EQ(1, netgpu_add_memarea(self->mem, self->host, PAGE, MEMTYPE_HOST));
}

FIXTURE(context)
{
	struct netgpu_ctx *ctx;
	struct netgpu_mem *mem;
	char *host;
	long long pinned;
};

FIXTURE_SETUP(context)
{
	self->pinned = pinned_pages();
	ASSERT_EQ(0, netgpu_open_ctx(&self->ctx, nic_name()));
	ASSERT_EQ(0, netgpu_open_memarea(&self->mem));
	self->host = netgpu_alloc_memory(256 * PAGE, MEMTYPE_HOST);
	ASSERT_EQ(1, netgpu_add_memarea(self->mem, self->host, 256 * PAGE, MEMTYPE_HOST));
}

FIXTURE_TEARDOWN(context)
{
	netgpu_close_ctx(&self->ctx);
	EXPECT_EQ(NULL, self->ctx);
	netgpu_close_memarea(&self->mem);
	netgpu_free_memory(self->host, 256 * PAGE, MEMTYPE_HOST);
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
}

TEST_F(context, attaches_once_what_there_is)
{
	struct netgpu_ctx *second;

	EXPECT_ERROR(ENOENT, netgpu_attach_region(self->ctx, self->mem, 0));
	EXPECT_ERROR(ENOENT, netgpu_attach_region(self->ctx, self->mem, -1));
	EXPECT_ERROR(ENOENT, netgpu_attach_region(self->ctx, self->mem, 2));
	EXPECT_ERROR(ENOENT, netgpu_attach_region(self->ctx, self->mem, INT_MIN));
	EXPECT_ERROR(EINVAL, netgpu_attach_region(self->ctx, NULL, 1));
	EXPECT_EQ(0, netgpu_attach_region(self->ctx, self->mem, 1));
	EXPECT_ERROR(EEXIST, netgpu_attach_region(self->ctx, self->mem, 1));
	ASSERT_EQ(0, netgpu_open_ctx(&second, nic_name()));
	EXPECT_EQ(0, netgpu_attach_region(second, self->mem, 1));
	netgpu_close_ctx(&second);
}

TEST_F(context, keeps_what_it_has)
{
	struct netgpu_mem *other;

	ASSERT_EQ(0, netgpu_attach_region(self->ctx, self->mem, 1));
	netgpu_close_memarea(&self->mem);
	/* It is registered as long as it is pinned, mapped or not. */
	EXPECT_EQ(self->pinned + 256, pinned_pages());
	ASSERT_EQ(0, netgpu_open_memarea(&other));
	EXPECT_ERROR(EEXIST, netgpu_add_memarea(other, self->host, PAGE, MEMTYPE_HOST));
	netgpu_close_ctx(&self->ctx);
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
	EXPECT_EQ(1, netgpu_add_memarea(other, self->host, PAGE, MEMTYPE_HOST));
	netgpu_close_memarea(&other);
}

TEST_F(context, memory_can_be_freed_first)
{
	char *host = netgpu_alloc_memory(4 * PAGE, MEMTYPE_HOST);

	ASSERT_EQ(0, netgpu_register_memory(self->ctx, host, 4 * PAGE, MEMTYPE_HOST));
	netgpu_free_memory(host, 4 * PAGE, MEMTYPE_HOST);
	EXPECT_EQ(self->pinned + 256 + 4, pinned_pages());
}

TEST_F(context, queues)
{
	int count = nic_queues();
	struct netgpu_ifq *ifq[2], *none = (void *)1;

	ASSERT_LE(2, count);
	EXPECT_ERROR(EINVAL, netgpu_open_ifq(&none, self->ctx, -2, 64));
	EXPECT_EQ(NULL, none);
	EXPECT_ERROR(EINVAL, netgpu_open_ifq(&none, self->ctx, -1, 0));
	EXPECT_ERROR(EINVAL, netgpu_open_ifq(&none, self->ctx, -1, -5));
	EXPECT_ERROR(EINVAL, netgpu_open_ifq_hds(&none, self->ctx, -1, 64, -1));
	EXPECT_ERROR(EINVAL, netgpu_open_ifq_hds(&none, self->ctx, -1, 64, 65536));
	EXPECT_ERROR(EINVAL, netgpu_open_ifq_padded(&none, self->ctx, -1, 64, -1));
	ASSERT_EQ(0, netgpu_open_ifq_padded(&none, self->ctx, -1, 64, 94));
	netgpu_close_ifq(&none);
	EXPECT_ERROR(ERANGE, netgpu_open_ifq(&none, self->ctx, count, 64));

	ASSERT_EQ(0, netgpu_open_ifq(&ifq[0], self->ctx, -1, 17));
	EXPECT_EQ(count - 1, netgpu_ifq_id(ifq[0]));
	EXPECT_ERROR(EBUSY, netgpu_open_ifq(&none, self->ctx, count - 1, 64));
	ASSERT_EQ(0, netgpu_open_ifq(&ifq[1], self->ctx, -1, 64));
	EXPECT_EQ(count - 2, netgpu_ifq_id(ifq[1]));
	if (count == 2)
		EXPECT_ERROR(EBUSY, netgpu_open_ifq(&none, self->ctx, -1, 64));
	netgpu_close_ifq(&ifq[0]);
	EXPECT_EQ(NULL, ifq[0]);
	ASSERT_EQ(0, netgpu_open_ifq(&ifq[0], self->ctx, -1, 64));
	EXPECT_EQ(count - 1, netgpu_ifq_id(ifq[0]));
	netgpu_close_ifq(&ifq[1]);
	netgpu_close_ifq(&ifq[0]);
}

TEST_F(context, a_full_ring_is_told)
{
	struct iovec piece[32], *pieces[32];
	struct netgpu_ifq *ifq;
	int count = 0;

	ASSERT_EQ(0, netgpu_attach_region(self->ctx, self->mem, 1));
	ASSERT_EQ(0, netgpu_open_ifq(&ifq, self->ctx, -1, 16));
	for (int i = 0; i < 32; i++) {
		piece[i] = (struct iovec){ self->host + i * PAGE, 1 };
		pieces[i] = &piece[i];
	}
	EXPECT_FALSE(netgpu_recycle_batch(ifq, pieces, 17));
	EXPECT_FALSE(netgpu_recycle_batch(ifq, pieces, -1));
	EXPECT_FALSE(netgpu_recycle_batch(ifq, NULL, 1));
	pieces[3] = NULL;
	EXPECT_FALSE(netgpu_recycle_batch(ifq, pieces, 4));
	pieces[3] = &piece[3];
	EXPECT_TRUE(netgpu_recycle_batch(ifq, pieces, 0));
	EXPECT_TRUE(netgpu_recycle_batch(ifq, pieces, 16));
	/* The kernel has not seen these: where it takes some, there is room again. */
	while (count < 16 && netgpu_recycle_batch(ifq, &pieces[16 + count], 1))
		count++;
	/* What has no room is not lost, and not more than it was. */
	netgpu_populate_ring(ifq, (uintptr_t)self->host + 32 * PAGE, 200);
	EXPECT_TEXT("negative", netgpu_populate_ring(ifq, (uintptr_t)self->host, -1));
	netgpu_recycle_complete(ifq);
	netgpu_close_ifq(&ifq);
}

TEST_F(context, sockets_that_cannot_be_attached)
{
	struct netgpu_skq *skq = (void *)1, *again;
	int fd = open("/dev/null", O_RDWR), on = 0;
	socklen_t len = sizeof(on);

	EXPECT_ERROR(EBADF, netgpu_attach_socket(&skq, self->ctx, -1, 64));
	EXPECT_EQ(NULL, skq);
	EXPECT_ERROR(EBADF, netgpu_attach_socket(&skq, self->ctx, 1000, 64));
	EXPECT_ERROR(ENOTSOCK, netgpu_attach_socket(&skq, self->ctx, fd, 64));
	close(fd);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	EXPECT_ERROR(EOPNOTSUPP, netgpu_attach_socket(&skq, self->ctx, fd, 64));
	close(fd);
	fd = socket(AF_INET6, SOCK_STREAM, 0);
	ASSERT_EQ(0, listen(fd, 1));
	EXPECT_ERROR(EINVAL, netgpu_attach_socket(&skq, self->ctx, fd, 64));
	close(fd);
	fd = socket(AF_INET6, SOCK_STREAM, 0);
	EXPECT_ERROR(EINVAL, netgpu_attach_socket(&skq, self->ctx, fd, 0));
	EXPECT_ERROR(EINVAL, netgpu_attach_socket(&skq, self->ctx, fd, -1));
	ASSERT_EQ(0, netgpu_attach_socket(&skq, self->ctx, fd, 65));
	EXPECT_EQ(0, getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, &len));
	EXPECT_EQ(1, on);
	EXPECT_ERROR(EEXIST, netgpu_attach_socket(&again, self->ctx, fd, 64));
	netgpu_detach_socket(&skq);
	EXPECT_EQ(NULL, skq);
	close(fd);
}

TEST_F(context, a_socket_without_a_connection)
{
	struct netgpu_skq_stats stats = { .rx_copied = 1 };
	struct netgpu_skq *skq;
	struct iovec *iov[4];
	uint64_t *notify[4];
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	ASSERT_EQ(0, netgpu_attach_socket(&skq, self->ctx, fd, 16));
	EXPECT_EQ(0, netgpu_get_rx_batch(skq, iov, 4));
	EXPECT_EQ(0, netgpu_get_rx_batch(skq, iov, 0));
	EXPECT_EQ(0, netgpu_get_rx_batch(skq, NULL, 0));
	EXPECT_ERROR(EINVAL, netgpu_get_rx_batch(skq, NULL, 1));
	EXPECT_ERROR(EINVAL, netgpu_get_rx_batch(skq, iov, -1));
	EXPECT_EQ(0, netgpu_get_cq_batch(skq, notify, 4));
	EXPECT_ERROR(EINVAL, netgpu_get_cq_batch(skq, NULL, 1));
	EXPECT_ERROR(EINVAL, netgpu_get_cq_batch(skq, notify, -1));
	EXPECT_EQ(0, netgpu_get_skq_stats(skq, &stats, sizeof(stats)));
	EXPECT_EQ(0, stats.rx_copied);
	EXPECT_ERROR(EINVAL, netgpu_get_skq_stats(skq, NULL, sizeof(stats)));
	EXPECT_ERROR(EOPNOTSUPP, netgpu_add_meta(skq, fd, self->host, PAGE, 16, 64));
	EXPECT_TEXT("metadata", netgpu_populate_meta(skq, 0, 1, 1));
	EXPECT_TEXT("metadata", netgpu_recycle_meta(skq, self->host));
	EXPECT_TEXT("metadata", netgpu_submit_meta(skq));
	close(fd);
	EXPECT_ERROR(EBADF, netgpu_get_rx_batch(skq, iov, 4));
	EXPECT_NE(NULL, strstr(netgpu_last_error(), "descriptor")) TH_LOG("%s", netgpu_last_error());
	EXPECT_ERROR(ENOENT, netgpu_get_skq_stats(skq, &stats, sizeof(stats)));
	netgpu_detach_socket(&skq);
}

/* The kernel gives the number of a closed socket to the next one. */
TEST_F(context, a_closed_socket_is_not_another_one)
{
	struct netgpu_skq *old, *new;
	struct netgpu_skq_stats stats;
	struct iovec *iov[1];
	int pair[2], fd = socket(AF_INET, SOCK_STREAM, 0);

	ASSERT_EQ(0, netgpu_attach_socket(&old, self->ctx, fd, 16));
	close(fd);
	ASSERT_EQ(0, tcp_pair(AF_INET, pair));
	ASSERT_EQ(0, netgpu_attach_socket(&new, self->ctx, pair[0], 16));
	EXPECT_ERROR(ENOENT, netgpu_get_skq_stats(old, &stats, sizeof(stats)));
	netgpu_detach_socket(&old);
	EXPECT_EQ(0, netgpu_get_skq_stats(new, &stats, sizeof(stats)));
	EXPECT_EQ(0, netgpu_get_rx_batch(new, iov, 1));
	netgpu_detach_socket(&new);
	close(pair[0]);
	close(pair[1]);
}

/* The end of a connection comes after what was received before, and once. */
TEST_F(context, a_connection_that_fails)
{
	struct linger reset = { .l_onoff = 1 };
	struct pollfd poller = { .events = POLLIN };
	struct netgpu_ifq *ifq;
	struct netgpu_skq *skq;
	struct iovec *iov[4];
	int pair[2], count = 0;

	ASSERT_EQ(0, netgpu_attach_region(self->ctx, self->mem, 1));
	ASSERT_EQ(0, netgpu_open_ifq(&ifq, self->ctx, -1, 256));
	netgpu_populate_ring(ifq, (uintptr_t)self->host, 256);
	ASSERT_EQ(0, tcp_pair(AF_INET6, pair));
	ASSERT_EQ(0, netgpu_attach_socket(&skq, self->ctx, pair[0], 16));
	EXPECT_EQ(0, netgpu_get_rx_batch(skq, iov, 4));
	ASSERT_EQ(5, send(pair[1], "hello", 5, 0));
	poller.fd = pair[0];
	ASSERT_EQ(1, poll(&poller, 1, 10000));
	setsockopt(pair[1], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(pair[1]);
	ASSERT_TRUE(WAIT_FOR(poll(&poller, 1, 100) == 1 && poller.revents & POLLHUP, 10000));
	EXPECT_EQ(1, netgpu_get_rx_batch(skq, iov, 4));
	EXPECT_EQ(5, iov[0]->iov_len);
	EXPECT_EQ(0, memcmp(iov[0]->iov_base, "hello", 5));
	EXPECT_TRUE(netgpu_recycle_batch(ifq, iov, 1));
	netgpu_recycle_complete(ifq);
	while (count == 0 && WAIT_FOR((count = netgpu_get_rx_batch(skq, iov, 4)) != 0, 5000))
		;
	EXPECT_EQ(-ECONNRESET, count);
	EXPECT_NE(NULL, strstr(netgpu_last_error(), "the peer has reset")) TH_LOG("%s", netgpu_last_error());
	EXPECT_EQ(0, netgpu_get_rx_batch(skq, iov, 4));
	netgpu_detach_socket(&skq);
	netgpu_close_ifq(&ifq);
	close(pair[0]);
}

/* Closes one of what there is. */
struct objects {
	struct netgpu_ctx *ctx;
	struct netgpu_mem *mem;
	struct netgpu_ifq *ifq;
	struct netgpu_skq *skq;
	int fd;
};

static void close_one(struct objects *o, int which)
{
	switch (which) {
	case 0: netgpu_close_ctx(&o->ctx); break;
	case 1: netgpu_close_memarea(&o->mem); break;
	case 2: netgpu_close_ifq(&o->ifq); break;
	case 3: netgpu_detach_socket(&o->skq); break;
	case 4: close(o->fd); break;
	}
}

/* All orders of five. What is not closed yet can be used. */
TEST_F_TIMEOUT(context, any_order_of_closing, 600)
{
	struct iovec *iov[1];
	int order[5], rounds = 0;

	netgpu_close_memarea(&self->mem);
	for (int n = 0; n < 5 * 5 * 5 * 5 * 5; n++) {
		struct objects o;
		unsigned int seen = 0;

		for (int i = 0, rest = n; i < 5; i++, rest /= 5)
			seen |= 1U << (order[i] = rest % 5);
		/* A queue takes a moment to open: where it stands among the others is what matters, so a part of the orders. */
		if (seen != 0x1f || ++rounds % 3)
			continue;
		ASSERT_EQ(0, netgpu_open_memarea(&o.mem));
		ASSERT_EQ(1, netgpu_add_memarea(o.mem, self->host, 256 * PAGE, MEMTYPE_HOST));
		ASSERT_EQ(0, netgpu_open_ctx(&o.ctx, nic_name()));
		ASSERT_EQ(0, netgpu_attach_region(o.ctx, o.mem, 1));
		ASSERT_EQ(0, netgpu_open_ifq(&o.ifq, o.ctx, -1, 256));
		netgpu_populate_ring(o.ifq, (uintptr_t)self->host, 256);
		o.fd = socket(AF_INET6, SOCK_STREAM, 0);
		ASSERT_EQ(0, netgpu_attach_socket(&o.skq, o.ctx, o.fd, 64));
		for (int i = 0; i < 5; i++) {
			close_one(&o, order[i]);
			if (o.ifq)
				netgpu_recycle_complete(o.ifq);
			if (o.skq)
				netgpu_get_rx_batch(o.skq, iov, 1);
		}
	}
	EXPECT_EQ(120, rounds);
}

TEST_HARNESS_MAIN
