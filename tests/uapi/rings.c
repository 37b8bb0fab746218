// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Rings with data on them, filled and read as the contract says, and as it does not. Needs the ports. The other machine's
 * end of each connection is in this process too.
 */
#include "helpers.h"
#include "kselftest_harness.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define BUFFERS	256
#define FILL	512
#define RING	64

struct view {
	struct netgpu_ring *head;
	size_t len;
	uint32_t entries;
	uint32_t next;	/* our index */
};

FIXTURE(rings)
{
	int fd;
	int area;
	size_t unit;
	char *mem;
	int queue;
	uint32_t queue_id;
	uint32_t socket_id;
	int pair[2];
	struct view fill;
	struct view rx;
};

static void map(struct view *v, int fd, uint64_t offset, uint64_t len, uint32_t entries)
{
	*v = (struct view){ .len = len, .entries = entries };
	v->head = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
	if (v->head == MAP_FAILED) {
		perror("mmap of a ring");
		abort();
	}
}

static uint32_t load(const uint32_t *word)
{
	return atomic_load_explicit((const _Atomic uint32_t *)word, memory_order_acquire);
}

static void store(uint32_t *word, uint32_t value)
{
	atomic_store_explicit((_Atomic uint32_t *)word, value, memory_order_release);
}

/* Puts one address on the fill ring. False: no room. */
static bool give(struct view *v, uint64_t addr)
{
	struct netgpu_fill_entry *entries = (void *)((char *)v->head + NETGPU_RING_ENTRIES);

	if (v->next - load(&v->head->consumer) >= v->entries)
		return false;
	entries[v->next & (v->entries - 1)].addr = addr;
	store(&v->head->producer, ++v->next);
	return true;
}

/* Takes one entry off the rx ring. False: it is empty. */
static bool take(struct view *v, struct netgpu_rx_entry *entry)
{
	struct netgpu_rx_entry *entries = (void *)((char *)v->head + NETGPU_RING_ENTRIES);

	if (v->next == load(&v->head->producer))
		return false;
	*entry = entries[v->next & (v->entries - 1)];
	store(&v->head->consumer, ++v->next);
	return true;
}

FIXTURE_SETUP(rings)
{
	struct netgpu_open_queue q;
	struct netgpu_attach_socket a;
	struct sockaddr_in local;
	socklen_t len = sizeof(local);
	unsigned int i;

	self->unit = buffer_size();
	self->mem = memory(BUFFERS * self->unit);
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, sh("ethtool -G %s tcp-data-split on", nic_name()));
	ASSERT_EQ(0, sh("ethtool -X %s equal %d", nic_name(), self->queue));
	self->area = ng_open();
	self->fd = ng_open();
	ASSERT_EQ(1, ng_add_region(self->area, self->mem, BUFFERS * self->unit));
	ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
	ASSERT_EQ(0, ng_attach_region(self->fd, self->area, 1));
	ASSERT_EQ(0, ng_open_queue(self->fd, self->queue, FILL, &q));
	self->queue_id = q.id;
	map(&self->fill, self->fd, q.mmap_offset, q.mmap_len, FILL);
	for (i = 0; i < BUFFERS; i++)
		ASSERT_TRUE(give(&self->fill, (uintptr_t)self->mem + i * self->unit));
	ASSERT_EQ(0, tcp_pair(AF_INET, self->pair));
	ASSERT_EQ(0, getsockname(self->pair[0], (struct sockaddr *)&local, &len));
	ASSERT_EQ(0, sh("ethtool -N %s flow-type tcp4 dst-port %u action %d loc 7", nic_name(), ntohs(local.sin_port), self->queue));
	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	self->socket_id = a.id;
	map(&self->rx, self->fd, a.rx_mmap_offset, a.rx_mmap_len, RING);
}

FIXTURE_TEARDOWN(rings)
{
	close(self->pair[0]);
	close(self->pair[1]);
	close(self->fd);
	close(self->area);
	sh("ethtool -N %s delete 7", nic_name());
	sh("ethtool -X %s default", nic_name());
	EXPECT_TRUE(WAIT_FOR(!sh("ping -q -c 1 -W 1 \"$NETGPU_PEER_ADDR4\""), 10000)) TH_LOG("the port does not work any more");
}

static char pattern(size_t i)
{
	return i * 31 + (i >> 8) * 7 + (i >> 16) * 3;
}

/*
 * Sends @total bytes of the pattern from the other machine and receives them, giving every buffer back. The number of
 * bytes that arrived right: less than @total when something is wrong, or nothing came for five seconds.
 */
static size_t transfer(int ours, int theirs, struct view *fill, struct view *rx, size_t total)
{
	size_t sent = 0, got = 0;
	long long end = now_ms() + 5000;
	static char chunk[1 << 16];

	while (got < total && now_ms() < end) {
		struct netgpu_rx_entry e;
		char byte;

		if (sent < total) {
			size_t n = total - sent < sizeof(chunk) ? total - sent : sizeof(chunk), i;
			ssize_t done;

			for (i = 0; i < n; i++)
				chunk[i] = pattern(sent + i);
			done = send(theirs, chunk, n, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (done > 0)
				sent += done;
		}
		while (take(rx, &e)) {
			uint64_t i;

			for (i = 0; i < e.len; i++)
				if (((volatile char *)(uintptr_t)e.addr)[i] != pattern(got + i)) {
					fprintf(stderr, "# byte %zu is wrong\n", got + (size_t)i);
					return got + i;
				}
			got += e.len;
			end = now_ms() + 5000;
			give(fill, e.addr);
		}
		/* Moves what waits in the socket; the answer is for other cases. */
		recv(ours, &byte, 1, MSG_DONTWAIT);
	}
	return got;
}

TEST_F(rings, receive)
{
	struct netgpu_socket_stats stats;
	size_t total = 4 << 20;

	EXPECT_EQ(total, transfer(self->pair[0], self->pair[1], &self->fill, &self->rx, total));
	ASSERT_EQ(0, ng_socket_stats(self->fd, self->socket_id, &stats));
	EXPECT_EQ(total, stats.rx_zerocopy + stats.rx_copied);
	EXPECT_LT(0U, stats.rx_zerocopy);
}

/* Entries lie in the region, each in one buffer, none empty. */
TEST_F(rings, entries_lie_in_buffers)
{
	struct netgpu_rx_entry e;
	size_t got = 0, total = 100000, unit = self->unit;
	char *data = memory(total), byte;

	ASSERT_EQ((ssize_t)total, send(self->pair[1], data, total, 0));
	while (got < total) {
		ASSERT_TRUE(WAIT_FOR((recv(self->pair[0], &byte, 1, MSG_DONTWAIT), take(&self->rx, &e)), 5000)) TH_LOG("after %zu bytes", got);
		EXPECT_LT(0U, e.len);
		EXPECT_LE((uintptr_t)self->mem, e.addr);
		EXPECT_GE((uintptr_t)self->mem + BUFFERS * unit, e.addr + e.len);
		EXPECT_EQ(e.addr / unit, (e.addr + e.len - 1) / unit);
		got += e.len;
		give(&self->fill, e.addr);
	}
	EXPECT_EQ(total, got);
}

TEST_F(rings, poll_and_end_of_stream)
{
	struct pollfd p = { .fd = self->pair[0], .events = POLLIN };
	struct netgpu_rx_entry e;
	char byte;

	EXPECT_EQ(-1, recv(self->pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(0, poll(&p, 1, 0));
	ASSERT_EQ(5, send(self->pair[1], "hello", 5, 0));
	EXPECT_EQ(1, poll(&p, 1, 5000));
	EXPECT_EQ(POLLIN, p.revents & (POLLIN | POLLERR | POLLHUP));
	EXPECT_EQ(-1, recv(self->pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	ASSERT_TRUE(take(&self->rx, &e));
	ASSERT_EQ(5U, e.len);
	EXPECT_EQ(0, memcmp((void *)(uintptr_t)e.addr, "hello", 5));
	EXPECT_EQ(0, poll(&p, 1, 0));
	shutdown(self->pair[1], SHUT_WR);
	EXPECT_EQ(1, poll(&p, 1, 5000));
	EXPECT_EQ(0, recv(self->pair[0], &byte, 1, MSG_DONTWAIT));
}

TEST_F(rings, reset_is_reported)
{
	struct linger now = { 1, 0 };
	struct pollfd p = { .fd = self->pair[0], .events = POLLIN };
	char byte;

	ASSERT_EQ(0, setsockopt(self->pair[1], SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
	close(self->pair[1]);
	self->pair[1] = -1;
	EXPECT_EQ(1, poll(&p, 1, 5000));
	EXPECT_EQ(-1, recv(self->pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(ECONNRESET, errno);
}

/* A reader that takes nothing: the ring fills, the sender stops, nothing is lost. */
TEST_F(rings, full_ring_stops_the_sender)
{
	struct netgpu_socket_stats stats;
	size_t sent = 0, got = 0, i;
	struct netgpu_rx_entry e;
	static char chunk[1 << 16];
	long long quiet = now_ms() + 1000;
	char byte;

	while (now_ms() < quiet) {
		ssize_t n;

		for (i = 0; i < sizeof(chunk); i++)
			chunk[i] = pattern(sent + i);
		n = send(self->pair[1], chunk, sizeof(chunk), MSG_DONTWAIT);
		if (n > 0) {
			sent += n;
			quiet = now_ms() + 1000;
		}
		ASSERT_GT(256U << 20, sent) TH_LOG("the sender never stops");
	}
	EXPECT_GE((uint32_t)RING, load(&self->rx.head->producer));
	EXPECT_NE(0U, load(&self->rx.head->flags) & NETGPU_RING_STALLED);
	while (got < sent) {
		ASSERT_TRUE(WAIT_FOR((recv(self->pair[0], &byte, 1, MSG_DONTWAIT), take(&self->rx, &e)), 5000)) TH_LOG("after %zu of %zu bytes", got, sent);
		for (i = 0; i < e.len; i++)
			ASSERT_EQ(pattern(got + i), ((char *)(uintptr_t)e.addr)[i]);
		got += e.len;
		give(&self->fill, e.addr);
	}
	EXPECT_EQ(sent, got);
	ASSERT_EQ(0, ng_socket_stats(self->fd, self->socket_id, &stats));
	EXPECT_LT(0U, stats.rx_stalled);
}

/* Entries that name no buffer are counted. */
TEST_F(rings, fill_outside)
{
	uint64_t end = (uintptr_t)self->mem + BUFFERS * self->unit;
	uint64_t bad[] = { 0, 1, ~0ULL, end, (uintptr_t)self->mem - 1, 0xffff888000000000, 1ULL << 63, (uintptr_t)&bad };
	struct netgpu_queue_stats stats;
	size_t i;

	for (i = 0; i < ARRAY_LEN(bad); i++)
		ASSERT_TRUE(give(&self->fill, bad[i]));
	EXPECT_EQ(1U << 20, transfer(self->pair[0], self->pair[1], &self->fill, &self->rx, 1 << 20));
	EXPECT_TRUE(WAIT_FOR((ng_queue_stats(self->fd, self->queue_id, &stats), stats.bad_addr == ARRAY_LEN(bad)), 5000))
		TH_LOG("counted %llu", (unsigned long long)stats.bad_addr);
	EXPECT_EQ(0U, stats.bad_return);
}

/* Buffers that the kernel has already are counted, and not taken twice. */
TEST_F(rings, returned_twice)
{
	struct netgpu_queue_stats stats;
	unsigned int i;

	/* Every buffer was donated by the fixture; here they come once more, by some other address inside. */
	for (i = 0; i < BUFFERS; i++)
		ASSERT_TRUE(give(&self->fill, (uintptr_t)self->mem + i * self->unit + i));
	EXPECT_EQ(4U << 20, transfer(self->pair[0], self->pair[1], &self->fill, &self->rx, 4 << 20));
	EXPECT_TRUE(WAIT_FOR((ng_queue_stats(self->fd, self->queue_id, &stats), stats.bad_return == BUFFERS), 5000))
		TH_LOG("counted %llu", (unsigned long long)stats.bad_return);
	EXPECT_EQ(0U, stats.bad_addr);
	EXPECT_EQ(4U << 20, transfer(self->pair[0], self->pair[1], &self->fill, &self->rx, 4 << 20));
}

/*
 * Indices that lie. What becomes of this user's data is this user's affair; another connection, of another context on
 * another queue, goes on.
 */
static size_t other_context(struct __test_metadata *_metadata, int queue)
{
	struct netgpu_open_queue q;
	struct netgpu_attach_socket a;
	struct view fill, rx;
	size_t unit = buffer_size(), total = 1 << 20, got;
	char *mem = memory(BUFFERS * unit);
	int fd = ng_open(), area = ng_open(), pair[2], i;

	ASSERT_EQ(1, ng_add_region(area, mem, BUFFERS * unit));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	ASSERT_EQ(0, ng_attach_region(fd, area, 1));
	ASSERT_EQ(0, ng_open_queue(fd, queue, FILL, &q));
	map(&fill, fd, q.mmap_offset, q.mmap_len, FILL);
	for (i = 0; i < BUFFERS; i++)
		give(&fill, (uintptr_t)mem + i * unit);
	ASSERT_EQ(0, tcp_pair(AF_INET, pair));
	ASSERT_EQ(0, ng_attach_socket(fd, pair[0], RING, RING, &a));
	map(&rx, fd, a.rx_mmap_offset, a.rx_mmap_len, RING);
	got = transfer(pair[0], pair[1], &fill, &rx, total);
	close(pair[0]);
	close(pair[1]);
	close(fd);
	close(area);
	return got == total;
}

static const uint32_t lies[] = { 1, FILL - 1, FILL, FILL + 1, 1U << 30, 0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe, 0xffffffff };

TEST_F(rings, hostile_fill_producer)
{
	struct netgpu_queue_stats stats;
	size_t i;
	char data[4096] = {};

	ASSERT_EQ(1U << 20, transfer(self->pair[0], self->pair[1], &self->fill, &self->rx, 1 << 20));
	for (i = 0; i < ARRAY_LEN(lies); i++) {
		long long end = now_ms() + 50;

		store(&self->fill.head->producer, self->fill.next + lies[i]);
		while (now_ms() < end) {
			send(self->pair[1], data, sizeof(data), MSG_DONTWAIT);
			recv(self->pair[0], data, 1, MSG_DONTWAIT);
		}
		EXPECT_EQ(0, ng_queue_stats(self->fd, self->queue_id, &stats));
	}
	EXPECT_TRUE(other_context(_metadata, self->queue - 1));
}

TEST_F(rings, hostile_fill_consumer)
{
	size_t i;

	/* The kernel's word: writing it changes nothing but what this program reads there. */
	for (i = 0; i < ARRAY_LEN(lies); i++) {
		uint32_t was = load(&self->fill.head->consumer);

		store(&self->fill.head->consumer, was + lies[i]);
		store(&self->fill.head->flags, 0xffffffff);
		store(&self->fill.head->consumer, was);
		EXPECT_EQ(1U << 18, transfer(self->pair[0], self->pair[1], &self->fill, &self->rx, 1 << 18));
	}
}

TEST_F(rings, hostile_rx_consumer)
{
	struct netgpu_socket_stats stats;
	char data[4096] = {};
	size_t i;

	for (i = 0; i < ARRAY_LEN(lies); i++) {
		long long end = now_ms() + 50;

		store(&self->rx.head->consumer, self->rx.next + lies[i]);
		while (now_ms() < end) {
			send(self->pair[1], data, sizeof(data), MSG_DONTWAIT);
			recv(self->pair[0], data, 1, MSG_DONTWAIT);
		}
		EXPECT_EQ(0, ng_socket_stats(self->fd, self->socket_id, &stats));
	}
	EXPECT_TRUE(other_context(_metadata, self->queue - 1));
}

/* The kernel's words on the rx ring, and all entries, scribbled over while data flows. */
TEST_F(rings, scribbling)
{
	uint32_t seed = 12345;
	long long end = now_ms() + 2000;
	char data[4096] = {};
	size_t i;

	while (now_ms() < end) {
		uint32_t *rx = (uint32_t *)self->rx.head, *fill = (uint32_t *)self->fill.head;

		for (i = 0; i < 64; i++) {
			seed = seed * 1664525 + 1013904223;
			store(&rx[(seed >> 8) % (self->rx.len / 4)], seed);
			seed = seed * 1664525 + 1013904223;
			store(&fill[(seed >> 8) % (self->fill.len / 4)], seed);
		}
		send(self->pair[1], data, sizeof(data), MSG_DONTWAIT);
		recv(self->pair[0], data, 1, MSG_DONTWAIT);
	}
	EXPECT_TRUE(other_context(_metadata, self->queue - 1));
}

/* A hostile completion ring: sends are refused or done, and all of them end. */
TEST_F(rings, hostile_completion_consumer)
{
	struct netgpu_attach_socket a;
	struct netgpu_socket_stats stats;
	struct view done;
	char sink[65536];
	int pair[2];
	size_t i;

	ASSERT_EQ(0, tcp_pair(AF_INET, pair));
	ASSERT_EQ(0, ng_attach_socket(self->fd, pair[0], 0, 16, &a));
	map(&done, self->fd, a.completion_mmap_offset, a.completion_mmap_len, 16);
	for (i = 0; i < ARRAY_LEN(lies); i++) {
		int n;

		store(&done.head->consumer, lies[i]);
		store(&done.head->producer, lies[i] * 3);
		for (n = 0; n < 40; n++)
			send(pair[0], self->mem, 1000, MSG_ZEROCOPY | MSG_DONTWAIT);
		while (recv(pair[1], sink, sizeof(sink), MSG_DONTWAIT) > 0)
			;
	}
	EXPECT_TRUE(WAIT_FOR((recv(pair[1], sink, sizeof(sink), MSG_DONTWAIT),
			      ng_socket_stats(self->fd, a.id, &stats), stats.tx_pending == 0), 10000))
		TH_LOG("%llu sends pending", (unsigned long long)stats.tx_pending);
	close(pair[0]);
	close(pair[1]);
}

/* A child that inherits the descriptors and dies, or lives longer, changes nothing. */
TEST_F(rings, fork_in_between)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(0);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(1U << 20, transfer(self->pair[0], self->pair[1], &self->fill, &self->rx, 1 << 20));
}

/* The memory is unmapped by its owner while the NIC writes: no fault, and other memory is not touched. */
TEST_F(rings, region_unmapped_while_receiving)
{
	char *mem = self->mem, *again, data[4096] = { 1 };
	size_t len = BUFFERS * self->unit, i;
	long long end = now_ms() + 500;

	ASSERT_EQ(1U << 18, transfer(self->pair[0], self->pair[1], &self->fill, &self->rx, 1 << 18));
	ASSERT_EQ(0, munmap(mem, len));
	again = mmap(mem, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	ASSERT_EQ(mem, again);
	while (now_ms() < end) {
		struct netgpu_rx_entry e;

		send(self->pair[1], data, sizeof(data), MSG_DONTWAIT);
		recv(self->pair[0], data, 1, MSG_DONTWAIT);
		while (take(&self->rx, &e))
			give(&self->fill, e.addr);
	}
	for (i = 0; i < len; i++)
		if (again[i])
			break;
	EXPECT_EQ(len, i) TH_LOG("byte %zu of the new memory was written", i);
}

TEST_HARNESS_MAIN
