// SPDX-License-Identifier: MIT OR Apache-2.0
/* Regions of dma-bufs: of ordinary memory (udmabuf) and of the stand-in GPU. Needs the ports and the GPU. */
#include "helpers.h"
#include "kselftest_harness.h"
#include "standin_gpu.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/udmabuf.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>

/* Bytes of what the cases export: as much as struct receiver takes. */
#define LEN	(BUFFERS * buffer_size())
/* Locations of steering rules. */
#define RULE	7

static int udmabuf(size_t len, char **mem)
{
	int memfd = memfd_create("udmabuf", MFD_CLOEXEC | MFD_ALLOW_SEALING), dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), fd;
	struct udmabuf_create create = { .memfd = memfd, .flags = UDMABUF_FLAGS_CLOEXEC, .size = len };

	if (memfd < 0 || dev < 0 || ftruncate(memfd, len) || fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		abort();
	fd = ioctl(dev, UDMABUF_CREATE, &create);
	if (fd < 0)
		abort();
	*mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	close(dev);
	close(memfd);
	return fd;
}

static int gpu = -1;
static char *bar;
static uint64_t bar_len;

static void gpu_open(void)
{
	if (gpu >= 0)
		return;
	gpu = open(STANDIN_GPU_PATH, O_RDWR | O_CLOEXEC);
	if (gpu < 0 || ioctl(gpu, STANDIN_SIZE, &bar_len))
		abort();
	bar = mmap(NULL, bar_len, PROT_READ | PROT_WRITE, MAP_SHARED, gpu, 0);
	if (bar == MAP_FAILED)
		abort();
}

/* A dma-buf of the GPU's memory from @offset on, or -errno. */
static int gpu_export(uint64_t offset, uint64_t len, unsigned int flags)
{
	struct standin_export export = { .offset = offset, .len = len, .flags = flags };

	gpu_open();
	return ioctl(gpu, STANDIN_EXPORT, &export) ? -errno : export.fd;
}

static int gpu_revoke(int fd)
{
	return ioctl(gpu, STANDIN_REVOKE, &fd) ? -errno : 0;
}

static struct standin_state gpu_state(int fd)
{
	struct standin_state state = { .fd = fd };

	if (ioctl(gpu, STANDIN_STATE, &state))
		abort();
	return state;
}

static bool gpu_unused(int fd)
{
	struct standin_state state = gpu_state(fd);

	return !state.mappings && !state.pins;
}

/* Adding. */

FIXTURE(add)
{
	int area;
	size_t unit;
	int fd;
	char *mem;
};

FIXTURE_SETUP(add)
{
	self->area = ng_open();
	ASSERT_LE(0, self->area);
	self->unit = buffer_size();
	self->fd = gpu_export(0, 16 * self->unit, 0);
	ASSERT_LE(0, self->fd);
	self->mem = hole(16 * self->unit);
}

FIXTURE_TEARDOWN(add)
{
	close(self->area);
	close(self->fd);
}

TEST_F(add, told_by_info)
{
	struct netgpu_info info;

	ASSERT_EQ(0, ng_info(self->area, &info));
	EXPECT_NE(0U, info.region_types & (1ULL << NETGPU_REGION_DMABUF));
}

TEST_F(add, parts_of_one)
{
	size_t unit = self->unit;

	EXPECT_EQ(1, ng_add_dmabuf(self->area, self->mem, 4 * unit, self->fd, 0));
	EXPECT_EQ(2, ng_add_dmabuf(self->area, self->mem + 4 * unit, 12 * unit, self->fd, 4 * unit));
	EXPECT_EQ(-EEXIST, ng_add_dmabuf(self->area, self->mem + 15 * unit, unit, self->fd, 0));
	/* The same bytes at other addresses: that is up to the user. */
	EXPECT_EQ(3, ng_add_dmabuf(self->area, self->mem + 16 * unit, 16 * unit, self->fd, 0));
}

TEST_F(add, bad_descriptors)
{
	int memfd = memfd_create("no dma-buf", MFD_CLOEXEC), ro = gpu_export(0, self->unit, STANDIN_READ_ONLY);

	EXPECT_EQ(-EBADF, ng_add_dmabuf(self->area, self->mem, self->unit, -1, 0));
	EXPECT_EQ(-EBADF, ng_add_dmabuf(self->area, self->mem, self->unit, 9999, 0));
	EXPECT_EQ(-EINVAL, ng_add_dmabuf(self->area, self->mem, self->unit, memfd, 0));
	EXPECT_EQ(-EACCES, ng_add_dmabuf(self->area, self->mem, self->unit, ro, 0));
	EXPECT_EQ(1, ng_add_dmabuf(self->area, self->mem, self->unit, self->fd, 0));
	close(memfd);
	close(ro);
}

TEST_F(add, bad_places)
{
	size_t unit = self->unit;

	EXPECT_EQ(-EINVAL, ng_add_dmabuf(self->area, self->mem, 0, self->fd, 0));
	EXPECT_EQ(-EINVAL, ng_add_dmabuf(self->area, self->mem + 1, unit, self->fd, 0));
	EXPECT_EQ(-EINVAL, ng_add_dmabuf(self->area, self->mem, unit + 1, self->fd, 0));
	EXPECT_EQ(-EINVAL, ng_add_dmabuf(self->area, self->mem, unit, self->fd, 1));
	EXPECT_EQ(-EINVAL, ng_add_dmabuf(self->area, self->mem, unit, self->fd, unit / 2));
	EXPECT_EQ(-EINVAL, ng_add_dmabuf(self->area, NULL, unit, self->fd, 0));
	EXPECT_EQ(-ERANGE, ng_add_dmabuf(self->area, self->mem, 17 * unit, self->fd, 0));
	EXPECT_EQ(-ERANGE, ng_add_dmabuf(self->area, self->mem, 16 * unit, self->fd, unit));
	EXPECT_EQ(-ERANGE, ng_add_dmabuf(self->area, self->mem, unit, self->fd, 16 * unit));
	EXPECT_EQ(-ERANGE, ng_add_dmabuf(self->area, self->mem, unit, self->fd, 1ULL << 62));
	EXPECT_EQ(-EINVAL, ng_add_dmabuf(self->area, self->mem, unit, self->fd, -(uint64_t)unit));
	EXPECT_EQ(1, ng_add_dmabuf(self->area, self->mem, unit, self->fd, 15 * unit));
}

/* More than the GPU has, and more than its BAR shows. */
TEST_F(add, larger_than_the_bar)
{
	EXPECT_EQ(-EINVAL, gpu_export(0, bar_len + self->unit, 0));
	EXPECT_EQ(-ERANGE, ng_add_dmabuf(self->area, self->mem, bar_len + self->unit, self->fd, 0));
}

/* It is nobody's locked memory. */
TEST_F(add, not_charged)
{
	int other = ng_open();

	ASSERT_EQ(0, limit_memlock(0));
	ASSERT_EQ(0, become_nobody());
	EXPECT_EQ(1, ng_add_dmabuf(self->area, self->mem, 16 * self->unit, self->fd, 0));
	/* What is allocated now may lie where the hole is. */
	EXPECT_EQ(-ENOMEM, ng_add_region(other, memory(self->unit), self->unit));
	close(other);
}

/* Attaching. */

TEST(attach_maps_and_lets_go)
{
	int area = ng_open(), fd = ng_open(), other = ng_open(), buf = gpu_export(0, LEN, 0);
	char *mem = hole(LEN);

	ASSERT_EQ(1, ng_add_dmabuf(area, mem, LEN / 2, buf, LEN / 2));
	EXPECT_TRUE(gpu_unused(buf));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	ASSERT_EQ(0, ng_bind(other, nic_index()));
	ASSERT_EQ(0, ng_attach_region(fd, area, 1));
	EXPECT_EQ(1U, gpu_state(buf).mappings);
	EXPECT_EQ(1U, gpu_state(buf).pins);
	EXPECT_EQ(-EEXIST, ng_attach_region(fd, area, 1));
	/* For each context of its own. */
	ASSERT_EQ(0, ng_attach_region(other, area, 1));
	EXPECT_EQ(2U, gpu_state(buf).mappings);
	close(fd);
	EXPECT_TRUE(WAIT_FOR(gpu_state(buf).mappings == 1, 5000));
	close(area);
	close(other);
	EXPECT_TRUE(WAIT_FOR(gpu_unused(buf), 5000));
	close(buf);
}

FIXTURE(many)
{
	int unused;
};

FIXTURE_SETUP(many)
{
}

FIXTURE_TEARDOWN(many)
{
}

TEST_F_TIMEOUT(many, attach, 180)
{
	int area = ng_open(), fd = ng_open(), buf = gpu_export(0, LEN, 0), i;
	size_t unit = buffer_size();
	char *mem = hole(LEN);

	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(i + 1, ng_add_dmabuf(area, mem + 2 * i * unit, unit, buf, i * unit));
		ASSERT_EQ(0, ng_attach_region(fd, area, i + 1));
	}
	EXPECT_EQ(100U, gpu_state(buf).mappings);
	/* All of them at once. */
	EXPECT_EQ(0, gpu_revoke(buf));
	EXPECT_TRUE(gpu_unused(buf));
	close(fd);
	close(area);
	close(buf);
}

TEST(attach_what_was_taken_back)
{
	int area = ng_open(), fd = ng_open(), buf = gpu_export(0, LEN, 0);

	ASSERT_EQ(1, ng_add_dmabuf(area, hole(LEN), LEN, buf, 0));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	ASSERT_EQ(0, gpu_revoke(buf));
	EXPECT_EQ(-ENODEV, ng_attach_region(fd, area, 1));
	EXPECT_TRUE(gpu_unused(buf));
	close(fd);
	close(area);
	close(buf);
}

/* Data. */

FIXTURE(data)
{
	int queue;
	int fd;
	char *mem;
	struct receiver r;
};

FIXTURE_VARIANT(data)
{
	bool gpu;
};

FIXTURE_VARIANT_ADD(data, udmabuf)
{
	.gpu = false,
};

FIXTURE_VARIANT_ADD(data, gpu)
{
	.gpu = true,
};

FIXTURE_SETUP(data)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	if (variant->gpu) {
		/* Not from the start of the memory. */
		self->fd = gpu_export(LEN, LEN, 0);
		self->mem = bar + LEN;
	} else {
		self->fd = udmabuf(LEN, &self->mem);
	}
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, receiver_open_on(&self->r, self->queue, RULE, self->mem, self->fd));
}

FIXTURE_TEARDOWN(data)
{
	receiver_close(&self->r);
	close(self->fd);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

/* Many times through all buffers. Our packets have timestamps as their only option: the rest of the header's room is payload. */
TEST_F_TIMEOUT(data, receive, 120)
{
	struct netgpu_socket_stats stats;
	size_t total = 4 << 20;

	ASSERT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	EXPECT_EQ(total, stats.rx_zerocopy + stats.rx_copied);
	EXPECT_LE(stats.rx_copied, total / 20);
}

/* Through a queue that is not ours: all of it has to be copied, also to where the GPU has it. */
TEST_F(data, receive_by_copy)
{
	struct netgpu_socket_stats stats;
	size_t total = 1 << 20;

	ASSERT_EQ(0, sh("ethtool -N %s delete %d", nic_name(), RULE));
	self->r.rule = 0;
	ASSERT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	EXPECT_EQ(total, stats.rx_copied);
}

/* Sends @len bytes at @mem; false when an error comes first. */
static bool send_all(int fd, const char *mem, size_t len)
{
	while (len) {
		ssize_t n = send(fd, mem, len, MSG_ZEROCOPY | MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		mem += n;
		len -= n;
	}
	return true;
}

static size_t receive_pattern(int fd, size_t len)
{
	static char chunk[1 << 16];
	size_t got = 0;

	while (got < len) {
		ssize_t n = recv(fd, chunk, sizeof(chunk), 0), i;

		if (n <= 0)
			return got;
		for (i = 0; i < n; i++)
			if (chunk[i] != pattern(got + i))
				return got + i;
		got += n;
	}
	return got;
}

TEST_F(data, send)
{
	struct timeval patience = { .tv_sec = 10 };
	struct netgpu_socket_stats stats;
	int pair[2], area = ng_open(), fd = ng_open();
	struct netgpu_attach_socket a;
	/* As much as fits in the buffers of both ends. */
	size_t len = 1 << 16, i;

	/* A context that only sends. */
	ASSERT_EQ(1, ng_add_dmabuf(area, self->mem, LEN, self->fd, 0));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	ASSERT_EQ(0, ng_attach_region(fd, area, 1));
	ASSERT_EQ(0, tcp_pair(AF_INET6, pair));
	ASSERT_EQ(0, setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	ASSERT_EQ(0, ng_attach_socket(fd, pair[0], 0, 256, &a));
	for (i = 0; i < len; i++)
		((volatile char *)self->mem)[4097 + i] = pattern(i);
	ASSERT_TRUE(send_all(pair[0], self->mem + 4097, len));
	EXPECT_EQ(len, receive_pattern(pair[1], len));
	EXPECT_TRUE(WAIT_FOR(!ng_socket_stats(fd, a.id, &stats) && !stats.tx_pending, 5000));
	EXPECT_EQ(len, stats.tx_zerocopy);
	EXPECT_EQ(0U, stats.tx_copied);
	/* A byte outside. */
	EXPECT_EQ(-1, send(pair[0], self->mem + LEN - 1, 2, MSG_ZEROCOPY | MSG_NOSIGNAL));
	EXPECT_EQ(EFAULT, errno);
	close(pair[0]);
	close(pair[1]);
	close(fd);
	close(area);
}

/* Memory that the CPU cannot reach. */

/* One byte fits next to the header, so it has to be copied; and there is nowhere to copy it to, until there is. */
TEST(no_cpu)
{
	int queue = nic_queues() - 1, buf = gpu_export(0, LEN, STANDIN_NO_CPU), area = ng_open();
	struct netgpu_rx_entry e;
	struct receiver r;
	char *host, byte;
	size_t i;

	ASSERT_EQ(0, nic_prepare(queue));
	ASSERT_EQ(0, receiver_open_on(&r, queue, RULE, bar, buf));
	ASSERT_EQ(1, send(r.pair[1], "x", 1, MSG_NOSIGNAL));
	EXPECT_TRUE(WAIT_FOR(recv(r.pair[0], &byte, 1, MSG_DONTWAIT) == -1 && errno == EOPNOTSUPP, 5000));
	/* Memory to copy to. */
	host = memory(16 * buffer_size());
	ASSERT_EQ(1, ng_add_region(area, host, 16 * buffer_size()));
	ASSERT_EQ(0, ng_attach_region(r.fd, area, 1));
	for (i = 0; i < 16; i++)
		ASSERT_TRUE(give(&r.fill, (uintptr_t)host + i * buffer_size()));
	EXPECT_TRUE(WAIT_FOR((recv(r.pair[0], &byte, 1, MSG_DONTWAIT), take(&r.rx, &e)), 5000));
	EXPECT_EQ(1U, e.len);
	EXPECT_TRUE(e.addr >= (uintptr_t)host && e.addr < (uintptr_t)host + 16 * buffer_size());
	EXPECT_EQ('x', *(char *)(uintptr_t)e.addr);
	receiver_close(&r);
	close(area);
	close(buf);
	nic_restore();
}

/* Taking back. */

FIXTURE(revoke)
{
	int queue;
	int fd;
	struct receiver r;
};

FIXTURE_SETUP(revoke)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	self->fd = gpu_export(0, LEN, 0);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, receiver_open_on(&self->r, self->queue, RULE, bar, self->fd));
}

FIXTURE_TEARDOWN(revoke)
{
	receiver_close(&self->r);
	EXPECT_TRUE(WAIT_FOR(gpu_unused(self->fd), 5000));
	close(self->fd);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

/* The error of recv(2), or 0. */
static int recv_error(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 ? errno : 0;
}

TEST_F(revoke, at_rest)
{
	size_t total = 1 << 16;

	ASSERT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	EXPECT_EQ(0, gpu_revoke(self->fd));
	EXPECT_TRUE(gpu_unused(self->fd));
	/* There was no other region: no byte could come in any more. */
	EXPECT_TRUE(WAIT_FOR(recv_error(self->r.pair[0]) == ECONNABORTED, 5000));
	/* The socket is an ordinary one again, without a connection. */
	EXPECT_TRUE(WAIT_FOR(recv_error(self->r.pair[0]) == ENOTCONN, 5000));
}

/* From the moment that the exporter has it back, the device does not write to it. */
TEST_F_TIMEOUT(revoke, under_traffic, 60)
{
	size_t got = 0, i, changed = 0;
	struct netgpu_rx_entry e;
	struct traffic t;
	long long end;
	char byte;

	traffic_start(&t, self->r.pair[1]);
	for (end = now_ms() + 10000; got < 1 << 16 && now_ms() < end;) {
		while (take(&self->r.rx, &e)) {
			got += e.len;
			give(&self->r.fill, e.addr);
		}
		recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT);
	}
	EXPECT_LE(1U << 16, got);
	EXPECT_EQ(0, gpu_revoke(self->fd));
	EXPECT_TRUE(gpu_unused(self->fd));
	memset(bar, 0xa5, LEN);
	usleep(200000);
	for (i = 0; i < LEN; i++)
		changed += ((volatile unsigned char *)bar)[i] != 0xa5;
	EXPECT_EQ(0U, changed);
	EXPECT_TRUE(WAIT_FOR(recv_error(self->r.pair[0]) == ECONNABORTED, 5000));
	traffic_stop(&t);
}

/* Another region of the context goes on, and so does a connection that has nothing in the one that went. */
TEST_F_TIMEOUT(revoke, others_go_on, 120)
{
	size_t total = 1 << 16, unit = buffer_size(), i;
	int area = ng_open(), other = ng_open(), again = gpu_export(0, LEN, 0);
	char *host = memory(LEN);

	ASSERT_EQ(1, ng_add_region(area, host, LEN));
	ASSERT_EQ(0, ng_attach_region(self->r.fd, area, 1));
	for (i = 0; i < BUFFERS; i++)
		ASSERT_TRUE(give(&self->r.fill, (uintptr_t)host + i * unit));
	ASSERT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	EXPECT_EQ(0, gpu_revoke(self->fd));
	EXPECT_TRUE(gpu_unused(self->fd));
	memset(bar, 0xa5, LEN);
	total = 1 << 20;
	EXPECT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	for (i = 0; i < LEN; i++)
		if (((volatile unsigned char *)bar)[i] != 0xa5)
			break;
	EXPECT_EQ(LEN, i);
	/* The addresses are free again. */
	ASSERT_LE(0, again);
	ASSERT_EQ(1, ng_add_dmabuf(other, bar, LEN, again, 0));
	EXPECT_TRUE(WAIT_FOR(!ng_attach_region(self->r.fd, other, 1), 5000));
	close(area);
	close(other);
	close(again);
}

/* Bytes that have arrived and were not delivered are gone with the memory: the reader is told. */
TEST_F(revoke, undelivered)
{
	size_t unit = buffer_size(), i, total = 0;
	struct netgpu_rx_entry e;
	int area = ng_open();
	struct traffic t;

	/* So that it is not for want of any region. */
	ASSERT_EQ(1, ng_add_region(area, memory(16 * unit), 16 * unit));
	ASSERT_EQ(0, ng_attach_region(self->r.fd, area, 1));
	traffic_start(&t, self->r.pair[1]);
	/* The ring is full, and more waits. */
	EXPECT_TRUE(WAIT_FOR(load(&self->r.rx.head->flags) & NETGPU_RING_STALLED, 5000));
	EXPECT_EQ(0, gpu_revoke(self->fd));
	EXPECT_TRUE(gpu_unused(self->fd));
	for (i = 0; take(&self->r.rx, &e); i++)
		total += e.len;
	EXPECT_NE(0U, total);
	EXPECT_TRUE(WAIT_FOR(recv_error(self->r.pair[0]) == ECONNABORTED, 5000));
	EXPECT_EQ(ECONNABORTED, recv_error(self->r.pair[0]));
	traffic_stop(&t);
	close(area);
}

/* Sends that the peer has not acknowledged fail with their connection; one from other memory goes on. */
TEST_F(revoke, unfinished_sends)
{
	struct netgpu_attach_socket a, b;
	size_t unit = buffer_size(), n;
	int first[2], second[2], err = 0, area = ng_open();
	struct netgpu_socket_stats stats;
	char *host = memory(16 * unit), *buf = malloc(16 * unit);
	socklen_t len = sizeof(err);

	ASSERT_EQ(1, ng_add_region(area, host, 16 * unit));
	ASSERT_EQ(0, ng_attach_region(self->r.fd, area, 1));
	ASSERT_EQ(0, tcp_pair(AF_INET, first));
	ASSERT_EQ(0, tcp_pair(AF_INET, second));
	ASSERT_EQ(0, ng_attach_socket(self->r.fd, first[0], 0, 64, &a));
	ASSERT_EQ(0, ng_attach_socket(self->r.fd, second[0], 0, 64, &b));
	/* More than the peer takes, as it does not read. */
	while (send(first[0], bar, LEN / 2, MSG_ZEROCOPY | MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
		;
	EXPECT_TRUE(errno == EAGAIN || errno == ENOBUFS) TH_LOG("%s", strerror(errno));
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, a.id, &stats));
	EXPECT_NE(0U, stats.tx_pending);
	EXPECT_EQ(0, gpu_revoke(self->fd));
	EXPECT_TRUE(gpu_unused(self->fd));
	/* Detached. */
	EXPECT_TRUE(WAIT_FOR(ng_socket_stats(self->r.fd, a.id, &stats) == -ENOENT, 5000));
	EXPECT_TRUE(WAIT_FOR(!getsockopt(first[0], SOL_SOCKET, SO_ERROR, &err, &len) && err, 5000));
	EXPECT_EQ(ECONNABORTED, err);
	EXPECT_EQ(-1, send(second[0], bar, unit, MSG_ZEROCOPY | MSG_NOSIGNAL));
	EXPECT_EQ(EFAULT, errno);
	memset(host, 'h', 16 * unit);
	ASSERT_TRUE(send_all(second[0], host, 16 * unit));
	for (n = 0; n < 16 * unit;) {
		ssize_t got = recv(second[1], buf + n, 16 * unit - n, 0);

		ASSERT_LT(0, got);
		n += got;
	}
	EXPECT_EQ(0, memcmp(buf, host, n));
	free(buf);
	close(first[0]);
	close(first[1]);
	close(second[0]);
	close(second[1]);
	close(area);
}

static void *revoke_faulted(void *fd)
{
	return (void *)(intptr_t)(ioctl(gpu, STANDIN_REVOKE_FAULTED, fd) ? -errno : 0);
}

/*
 * A thread that holds the socket's lock faults on a mapping of the very dma-buf, and so waits for the exporter, which waits for us:
 * with sends of the socket under way.
 */
TEST_F_TIMEOUT(revoke, while_a_sender_faults, 90)
{
	int pair[2], room = 4 << 20, pages = LEN / 4096, err = 0, i;
	struct netgpu_socket_stats stats;
	struct netgpu_attach_socket a;
	pthread_t thread;
	void *result;
	char *lazy;

	lazy = mmap(NULL, LEN, PROT_READ, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, lazy);
	ASSERT_EQ(0, tcp_pair(AF_INET, pair));
	ASSERT_EQ(0, setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)));
	ASSERT_EQ(0, ng_attach_socket(self->r.fd, pair[0], 0, 64, &a));
	/* More than the peer takes, as it does not read, and less than the socket does. */
	ASSERT_EQ(LEN, send(pair[0], bar, LEN, MSG_ZEROCOPY | MSG_NOSIGNAL));
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, a.id, &stats));
	ASSERT_NE(0U, stats.tx_pending);
	ASSERT_EQ(0, pthread_create(&thread, NULL, revoke_faulted, &self->fd));
	/* Copied, a byte of a page that nobody has touched each. One of them finds the lock taken, and then there is no memory. */
	for (i = 0; i < pages && !err; i++) {
		if (send(pair[0], lazy + i * 4096, 1, MSG_NOSIGNAL) < 0)
			err = errno;
		usleep(1000);
	}
	EXPECT_EQ(EFAULT, err) TH_LOG("%s", strerror(err));
	pthread_join(thread, &result);
	EXPECT_EQ(0, (intptr_t)result) TH_LOG("%s", strerror(-(intptr_t)result));
	EXPECT_TRUE(WAIT_FOR(recv_error(pair[0]) == ECONNABORTED, 5000));
	munmap(lazy, LEN);
	close(pair[0]);
	close(pair[1]);
}

/* What was received and is forwarded from where it is. */

#define ELSEWHERE	"192.0.2.1"
#define DATAGRAM	1400

FIXTURE(forward)
{
	int out, in;	/* of the peer */
	atomic_bool stop;
	pthread_t thread;
};

static void *send_datagrams(void *arg)
{
	FIXTURE_DATA(forward) *self = arg;
	static char data[DATAGRAM];

	memset(data, 0x5a, sizeof(data));
	while (!atomic_load(&self->stop))
		if (send(self->out, data, sizeof(data), MSG_DONTWAIT) < 0)
			usleep(200);
	return NULL;
}

FIXTURE_SETUP(forward)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };
	struct timeval patience = { .tv_sec = 2 };
	int room = 8 << 20;

	/*
	 * To an address behind the peer by way of us. Not on the queue for sending that belongs to the queue for receiving: mlx5
	 * restarts the two together, and what is on the first is gone then.
	 */
	ASSERT_EQ(0, sh("cd /sys/class/net/$NETGPU_DEV/queues && echo 3 >tx-0/xps_cpus && echo 0 >tx-%d/xps_cpus", nic_queues() - 1));
	ASSERT_EQ(0, sh("ip route add " ELSEWHERE " via $NETGPU_PEER_ADDR4 dev $NETGPU_DEV"));
	ASSERT_EQ(0, sh("ip netns exec peer ip route add " ELSEWHERE " via $NETGPU_ADDR4"));
	ASSERT_EQ(0, sh("cd /proc/sys/net/ipv4; echo 1 >ip_forward; echo 0 >conf/all/rp_filter; echo 0 >conf/$NETGPU_DEV/rp_filter; "
			"echo 0 >conf/all/send_redirects; echo 0 >conf/$NETGPU_DEV/send_redirects"));
	ASSERT_EQ(1, inet_pton(AF_INET, ELSEWHERE, &to.sin_addr));
	self->out = peer_socket(AF_INET, SOCK_DGRAM, 0);
	ASSERT_EQ(0, connect(self->out, (struct sockaddr *)&to, sizeof(to)));
	/* Only what arrives. */
	self->in = peer_socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP));
	ASSERT_EQ(0, setsockopt(self->in, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	ASSERT_EQ(0, setsockopt(self->in, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)));
	ASSERT_EQ(0, pthread_create(&self->thread, NULL, send_datagrams, self));
}

FIXTURE_TEARDOWN(forward)
{
	atomic_store(&self->stop, true);
	pthread_join(self->thread, NULL);
	close(self->out);
	close(self->in);
	sh("echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/sys/class/net/$NETGPU_DEV/queues/tx-0/xps_cpus");
	sh("ip route del " ELSEWHERE);
	sh("ip netns exec peer ip route del " ELSEWHERE);
}

/* Counts the datagrams that come back, until @max or none comes; a wrong byte ends it with -1. */
static int come_back(int in, int max)
{
	unsigned char packet[2048];
	int count = 0;
	ssize_t n, i;

	while (count < max && (n = recv(in, packet, sizeof(packet), 0)) > 0) {
		if (n != 28 + DATAGRAM || packet[9] != IPPROTO_UDP)
			continue;
		for (i = 28; i < n; i++)
			if (packet[i] != 0x5a) {
				fprintf(stderr, "# byte %zd of datagram %d is %#x\n", i - 28, count, packet[i]);
				return -1;
			}
		count++;
	}
	return count;
}

static bool impair(const char *fields)
{
	return !sh(". ../lib/nic.sh; impair 0 '%s'", fields);
}

/*
 * The cable is so slow that the device has yet to read most of what is to be forwarded when the memory is taken back: it must have, or
 * never do it.
 */
TEST_F_TIMEOUT(forward, taken_back, 90)
{
	int queue = nic_queues() - 1, buf = gpu_export(0, LEN, 0);
	struct netgpu_queue_stats stats;
	struct receiver r;

	ASSERT_EQ(0, nic_prepare(queue));
	ASSERT_EQ(0, receiver_open_on(&r, queue, RULE, bar, buf));
	ASSERT_EQ(0, sh("ethtool -N %s flow-type udp4 dst-port 9 action %d loc %d", nic_name(), queue, RULE + 1));
	EXPECT_EQ(500, come_back(self->in, 500));
	ASSERT_EQ(0, ng_queue_stats(r.fd, r.queue_id, &stats));
	EXPECT_NE(0U, stats.filled);
	EXPECT_TRUE(impair("\"rate-mbit\":2"));
	/* Longer than it takes to fill the buffer of the port. */
	usleep(400000);
	EXPECT_EQ(0, gpu_revoke(buf));
	EXPECT_TRUE(gpu_unused(buf));
	memset(bar, 0xa5, LEN);
	EXPECT_TRUE(impair(""));
	/* Those that were on the cable, and those that the device had yet to read. */
	EXPECT_LE(0, come_back(self->in, INT_MAX));
	ASSERT_EQ(0, sh("ethtool -N %s delete %d", nic_name(), RULE + 1));
	receiver_close(&r);
	close(buf);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

FIXTURE(storm)
{
	int queue;
};

FIXTURE_SETUP(storm)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
}

FIXTURE_TEARDOWN(storm)
{
	nic_restore();
	EXPECT_TRUE(nic_works());
}

/* At any moment. NETGPU_TEST_REVOKES: how often. */
TEST_F_TIMEOUT(storm, revoke, 900)
{
	int rounds = getenv("NETGPU_TEST_REVOKES") ? atoi(getenv("NETGPU_TEST_REVOKES")) : 30, n;

	srand(1);
	for (n = 0; n < rounds; n++) {
		int buf = gpu_export(0, LEN, 0);
		struct netgpu_rx_entry e;
		struct receiver r;
		struct traffic t;
		long long end;
		char byte;

		ASSERT_EQ(0, receiver_open_on(&r, self->queue, RULE, bar, buf)) TH_LOG("round %d", n);
		traffic_start(&t, r.pair[1]);
		end = now_ms() + rand() % 50;
		while (now_ms() < end) {
			while (take(&r.rx, &e))
				give(&r.fill, e.addr);
			recv(r.pair[0], &byte, 1, MSG_DONTWAIT);
		}
		/* Some of them with the context on its way out. */
		if (n % 3 == 1)
			close(r.fd);
		if (n % 3 == 2)
			close(r.pair[0]);
		ASSERT_EQ(0, gpu_revoke(buf)) TH_LOG("round %d", n);
		ASSERT_TRUE(gpu_unused(buf)) TH_LOG("round %d", n);
		traffic_stop(&t);
		if (n % 3 == 1)
			r.fd = -1;
		if (n % 3 == 2)
			r.pair[0] = -1;
		receiver_close(&r);
		close(buf);
	}
}

TEST_HARNESS_MAIN
