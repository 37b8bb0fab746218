// SPDX-License-Identifier: MIT OR Apache-2.0
/* Regions of dma-bufs, of the stand-in GPU: what is told of them, and how they are taken back. Needs the ports and the GPU. */
#include "helpers.h"
#include "kselftest_harness.h"
#include "memory.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>

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

/* All of it is exported, but other devices can be shown less. */
TEST_F(add, larger_than_is_shown)
{
	int fd = ng_open();

	ASSERT_EQ(1, ng_add_dmabuf(self->area, self->mem, 16 * self->unit, self->fd, 0));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	set("/sys/module/standin_gpu/parameters/shown", "32768");
	EXPECT_EQ(-ENOMEM, ng_attach_region(fd, self->area, 1));
	EXPECT_TRUE(gpu_unused(self->fd));
	set("/sys/module/standin_gpu/parameters/shown", "18446744073709551615");
	EXPECT_EQ(0, ng_attach_region(fd, self->area, 1));
	close(fd);
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

/* Sends that the peer has not acknowledged fail with their connection; one from other memory goes on. */
TEST_F(revoke, unfinished_sends)
{
	struct netgpu_attach_socket a, b;
	size_t unit = buffer_size(), n;
	int first[2], second[2], err = 0, room = 1 << 20, small = 4096, area = ng_open();
	struct netgpu_socket_stats stats;
	char *host = memory(16 * unit), *buf = malloc(16 * unit);
	socklen_t len = sizeof(err);

	ASSERT_EQ(1, ng_add_region(area, host, 16 * unit));
	ASSERT_EQ(0, ng_attach_region(self->r.fd, area, 1));
	ASSERT_EQ(0, tcp_pair(AF_INET, first));
	ASSERT_EQ(0, tcp_pair(AF_INET, second));
	ASSERT_EQ(0, ng_attach_socket(self->r.fd, first[0], 0, 64, &a));
	ASSERT_EQ(0, ng_attach_socket(self->r.fd, second[0], 0, 64, &b));
	/* More than the peer takes, as it does not read: what is over stays, however long it may take until it is seen. */
	ASSERT_EQ(0, setsockopt(first[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)));
	ASSERT_EQ(0, setsockopt(first[1], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)));
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

TEST_HARNESS_MAIN
