// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Small sends: TCP puts the bytes of several into one packet, and each is done, once, when that is.
 */
#include "helpers.h"
#include "kselftest_harness.h"

#include <linux/tcp.h>

#define PAGE		4096
#define PAGES		2048
#define ENTRIES		4096
/* Bytes that a case sends, at most. */
#define BYTES		(16 << 20)

FIXTURE(small)
{
	int area;
	int fd;			/* the context */
	int pair[2];		/* our end, the other machine's end */
	char *mem;
	uint32_t id;		/* of the socket */
	struct view done;
	uint32_t sends;		/* so far */
	uint32_t completions;	/* so far, seen by finished() */
	size_t bytes;		/* sent so far */
	char *sent;		/* they */
	bool seen[ENTRIES];	/* the completion of that send */
	long long pinned;	/* pages, before */
};

FIXTURE_SETUP(small)
{
	struct timeval patience = { .tv_sec = 20 * slowness() };
	int size = 16 << 20, i;
	struct netgpu_attach_socket a;

	self->pinned = pinned_pages();
	self->area = ng_open();
	self->fd = ng_open();
	self->mem = memory(PAGES * PAGE);
	self->sent = memory(BYTES);
	for (i = 0; i < PAGES * PAGE; i++)
		self->mem[i] = pattern(i) ^ i >> 8;
	ASSERT_EQ(1, ng_add_region(self->area, self->mem, PAGES * PAGE));
	ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
	ASSERT_EQ(0, ng_attach_region(self->fd, self->area, 1));
	ASSERT_EQ(0, tcp_pair(AF_INET, self->pair));
	ASSERT_EQ(0, setsockopt(self->pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)));
	ASSERT_EQ(0, setsockopt(self->pair[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, ENTRIES, &a));
	self->id = a.id;
	map(&self->done, self->fd, a.completion_mmap_offset, a.completion_mmap_len, ENTRIES);
}

FIXTURE_TEARDOWN(small)
{
	if (self->done.head)
		munmap(self->done.head, self->done.len);
	close(self->pair[0]);
	close(self->pair[1]);
	close(self->fd);
	close(self->area);
	EXPECT_TRUE(WAIT_FOR(pinned_pages() <= self->pinned, 5000));
	munmap(self->mem, PAGES * PAGE);
	munmap(self->sent, BYTES);
}

/* Sends @len bytes from @offset of the region. How many, or -errno. */
static ssize_t zerocopy(FIXTURE_DATA(small) *self, size_t offset, size_t len, int flags)
{
	ssize_t n = send(self->pair[0], self->mem + offset, len, MSG_ZEROCOPY | MSG_NOSIGNAL | flags);

	if (n < 0)
		return -errno;
	memcpy(self->sent + self->bytes, self->mem + offset, n);
	self->bytes += n;
	self->sends++;
	return n;
}

/* The same, copied. */
static ssize_t copied(FIXTURE_DATA(small) *self, size_t offset, size_t len, int flags)
{
	ssize_t n = send(self->pair[0], self->mem + offset, len, MSG_NOSIGNAL | flags);

	if (n < 0)
		return -errno;
	memcpy(self->sent + self->bytes, self->mem + offset, n);
	self->bytes += n;
	return n;
}

/* Receives bytes @from on of what was sent, @len of them; how many came as they were sent. */
static size_t arrived(FIXTURE_DATA(small) *self, size_t from, size_t len)
{
	size_t got = 0;
	char chunk[65536];

	while (got < len) {
		size_t want = len - got < sizeof(chunk) ? len - got : sizeof(chunk);
		ssize_t n = recv(self->pair[1], chunk, want, 0);

		if (n <= 0 || memcmp(chunk, self->sent + from + got, n)) {
			fprintf(stderr, "# behind %zu bytes: %zd\n", from + got, n);
			break;
		}
		got += n;
	}
	return got;
}

/* Takes completions off the ring. How many sends are done by now, each once; -1: one is done that was not sent, or was before, or copied. */
static int finished(FIXTURE_DATA(small) *self)
{
	const struct netgpu_completion *entries = (void *)((char *)self->done.head + NETGPU_RING_ENTRIES);
	uint32_t end = load(&self->done.head->producer);

	for (; self->done.next != end; self->done.next++) {
		struct netgpu_completion c = entries[self->done.next % ENTRIES];

		if (c.id >= self->sends || c.id >= ENTRIES || self->seen[c.id] || c.flags) {
			fprintf(stderr, "# completion of %u, flags %x, of %u sends\n", c.id, c.flags, self->sends);
			return -1;
		}
		self->seen[c.id] = true;
		self->completions++;
	}
	store(&self->done.head->consumer, end);
	return self->completions;
}

/* Whether all sends are done, in order. */
static bool in_order(FIXTURE_DATA(small) *self)
{
	const struct netgpu_completion *entries = (void *)((char *)self->done.head + NETGPU_RING_ENTRIES);
	uint32_t i;

	if (load(&self->done.head->producer) != self->sends)
		return false;
	for (i = 0; i < self->sends; i++)
		if (entries[i].id != i || entries[i].flags)
			return false;
	return true;
}

/* Packets with payload that our end has sent. */
static unsigned int packets(FIXTURE_DATA(small) *self)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	getsockopt(self->pair[0], IPPROTO_TCP, TCP_INFO, &info, &len);
	return info.tcpi_data_segs_out;
}

static unsigned int pending(FIXTURE_DATA(small) *self)
{
	struct netgpu_socket_stats stats = {};

	return ng_socket_stats(self->fd, self->id, &stats) ? UINT_MAX : stats.tx_pending;
}

/* From pages all over the region: 17 fragments fit in a packet. */
TEST_F(small, share_packets)
{
	int i;

	for (i = 0; i < 64; i++)
		ASSERT_EQ(100, zerocopy(self, (i * 7 % 64) * PAGE + i, 100, i < 63 ? MSG_MORE : 0));
	ASSERT_EQ(6400U, arrived(self, 0, 6400));
	EXPECT_TRUE(WAIT_FOR(in_order(self), 5000));
	/* 17 sends each, of which each is two for the cable, and what is left. The kernel waits 200 ms for more, a slow machine longer. */
	EXPECT_GE(16U, packets(self));
}

/* Bytes behind one another in the region are one fragment, also over the end of a page. */
TEST_F(small, neighbours)
{
	int i;

	for (i = 0; i < 640; i++)
		ASSERT_EQ(100, zerocopy(self, 50 + i * 100, 100, i < 639 ? MSG_MORE : 0));
	ASSERT_EQ(64000U, arrived(self, 0, 64000));
	EXPECT_TRUE(WAIT_FOR(in_order(self), 5000));
	/* Of 1448 bytes; as above. */
	EXPECT_GE(64U, packets(self));
	TH_LOG("%u packets", packets(self));
}

/* The same bytes again and again, and bytes in front of the last ones, are no neighbours. */
TEST_F(small, same_bytes)
{
	int i;

	for (i = 0; i < 100; i++)
		ASSERT_EQ(10, zerocopy(self, 5000 - i / 10 * 10, 10, i < 99 ? MSG_MORE : 0));
	ASSERT_EQ(1000U, arrived(self, 0, 1000));
	EXPECT_TRUE(WAIT_FOR(in_order(self), 5000));
}

/* What is copied and what is not share no packet. */
TEST_F(small, mixed)
{
	int i;

	for (i = 0; i < 20; i++) {
		ASSERT_EQ(100, zerocopy(self, i * PAGE, 100, MSG_MORE));
		ASSERT_EQ(100, copied(self, i * PAGE + 200, 100, i < 19 ? MSG_MORE : 0));
	}
	ASSERT_EQ(4000U, arrived(self, 0, 4000));
	EXPECT_TRUE(WAIT_FOR(in_order(self), 5000));
	EXPECT_LE(40U, packets(self));
}

/* No send of a packet is done before the peer has the packet. */
TEST_F(small, wait_for_their_packet)
{
	int i;

	ASSERT_EQ(0, deaf(self->pair[1], true));
	for (i = 0; i < 5; i++)
		ASSERT_EQ(100, zerocopy(self, i * PAGE, 100, i < 4 ? MSG_MORE : 0));
	ASSERT_TRUE(WAIT_FOR(packets(self) > 1, 5000)) TH_LOG("it was not sent again");
	EXPECT_EQ(0, finished(self));
	EXPECT_EQ(5U, pending(self));
	ASSERT_EQ(0, deaf(self->pair[1], false));
	ASSERT_EQ(500U, arrived(self, 0, 500));
	EXPECT_TRUE(WAIT_FOR(in_order(self), 5000));
	EXPECT_EQ(0U, pending(self));
}

/* The window cuts packets wherever it ends, also between sends and inside them. */
TEST_F_TIMEOUT(small, cut, 60)
{
	int size = 30000, i;
	size_t got;

	ASSERT_EQ(0, setsockopt(self->pair[1], SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)));
	for (i = 0; i < 100; i++)
		ASSERT_EQ(i * 31 % 2900 + 100, zerocopy(self, i * 3001, i * 31 % 2900 + 100, MSG_DONTWAIT | (i < 99 ? MSG_MORE : 0)));
	for (got = 0; got < self->bytes; got += 777) {
		size_t want = self->bytes - got < 777 ? self->bytes - got : 777;

		ASSERT_LE(0, finished(self));
		ASSERT_EQ(want, arrived(self, got, want));
	}
	EXPECT_TRUE(WAIT_FOR(finished(self) == 100, 5000));
}

/* Without Nagle's algorithm, whatever the cable does to packets: run.sh has more than one. */
TEST_F_TIMEOUT(small, stream, 120)
{
	unsigned int random = 1, i;
	size_t got = 0;

	ASSERT_EQ(0, setsockopt(self->pair[0], IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)));
	for (i = 0; i < ENTRIES; i++) {
		size_t len, offset;
		ssize_t n;

		random = random * 1103515245 + 12345;
		len = 1 + (random >> 16) % (i % 8 ? 200 : 9000);
		offset = (random >> 4) % (PAGES * PAGE - len);
		while ((n = zerocopy(self, offset, len, MSG_DONTWAIT)) == -EAGAIN)
			usleep(1000);
		ASSERT_LT(0, n);
		ASSERT_LE(0, finished(self));
		if (self->bytes - got > 200000) {
			ASSERT_EQ(100000U, arrived(self, got, 100000));
			got += 100000;
		}
	}
	ASSERT_EQ(self->bytes - got, arrived(self, got, self->bytes - got));
	EXPECT_TRUE(WAIT_FOR(finished(self) == ENTRIES, 10000)) TH_LOG("%d are done", finished(self));
	TH_LOG("%u packets, %zu bytes", packets(self), self->bytes);
	/* Most of them are smaller than 200 bytes. */
	EXPECT_GT(ENTRIES, packets(self));
}

/* Two threads that wait for room on the same socket by turns: one's packet gets the other's bytes. */

struct worker {
	int fd;
	char *mem;
	size_t len;
	int count;
	int result;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	int i;

	for (i = 0; i < w->count && !w->result; i++) {
		size_t done = 0;

		while (done < w->len && !w->result) {
			ssize_t n = send(w->fd, w->mem + done, w->len - done, MSG_ZEROCOPY | MSG_NOSIGNAL);

			if (n > 0)
				done += n;
			else if (errno != ENOBUFS)
				w->result = -errno;
			else
				usleep(1000);
		}
	}
	return NULL;
}

TEST_F_TIMEOUT(small, two_threads, 60)
{
	struct worker w[2] = {
		{ .fd = self->pair[0], .mem = self->mem, .len = 60000, .count = 100 },
		{ .fd = self->pair[0], .mem = self->mem + 60000, .len = 50, .count = 2000 },
	};
	size_t left[2] = { 60000 * 100, 50 * 2000 }, got, total = left[0] + left[1];
	struct netgpu_socket_stats stats;
	static char chunk[20000];
	pthread_t threads[2];
	int size = 40000, i;

	memset(self->mem, 'a', 60000);
	memset(self->mem + 60000, 'b', 50);
	ASSERT_EQ(0, setsockopt(self->pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, work, &w[i]));
	for (got = 0; got < total;) {
		ssize_t n = recv(self->pair[1], chunk, sizeof(chunk), 0), j;

		ASSERT_LT(0, n);
		for (j = 0; j < n; j++)
			left[chunk[j] == 'b']--;
		got += n;
		ASSERT_EQ(0, ng_socket_stats(self->fd, self->id, &stats));
		/* At least those that have completions. */
		self->sends = ENTRIES;
		ASSERT_LE(0, finished(self));
	}
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, w[0].result);
	EXPECT_EQ(0, w[1].result);
	EXPECT_EQ(0U, left[0] | left[1]);
	EXPECT_TRUE(WAIT_FOR(!pending(self), 5000)) TH_LOG("%u wait", pending(self));
	ASSERT_EQ(0, ng_socket_stats(self->fd, self->id, &stats));
	self->sends = stats.tx_sends;
	EXPECT_EQ(stats.tx_sends, (unsigned int)finished(self));
}

/* A connection that ends while the packets of several sends are under way: all of them are done. */

/* Sends in packets that they share, of which the other end takes none. */
static bool stuck(FIXTURE_DATA(small) *self)
{
	int i;

	if (deaf(self->pair[1], true))
		return false;
	for (i = 0; i < 100; i++)
		if (zerocopy(self, i * 3001, 700, i < 99 ? MSG_MORE : 0) != 700)
			return false;
	return packets(self) && finished(self) == 0;
}

TEST_F(small, reset_by_the_peer)
{
	struct linger at_once = { .l_onoff = 1 };

	ASSERT_TRUE(stuck(self));
	ASSERT_EQ(0, setsockopt(self->pair[1], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)));
	ASSERT_EQ(0, close(self->pair[1]));
	self->pair[1] = -1;
	EXPECT_TRUE(WAIT_FOR(finished(self) == 100, 5000)) TH_LOG("%d are done", finished(self));
	EXPECT_EQ(-ECONNRESET, zerocopy(self, 0, 100, 0));
}

TEST_F(small, detached)
{
	ASSERT_TRUE(stuck(self));
	ASSERT_EQ(0, ng_detach_socket(self->fd, self->id));
	EXPECT_TRUE(WAIT_FOR(finished(self) == 100, 5000)) TH_LOG("%d are done", finished(self));
	EXPECT_EQ(-ECONNABORTED, zerocopy(self, 0, 100, 0));
}

TEST_F(small, closed)
{
	ASSERT_TRUE(stuck(self));
	ASSERT_EQ(0, close(self->pair[0]));
	self->pair[0] = -1;
	EXPECT_EQ(0, finished(self));
	/* TCP goes on with what there is. */
	ASSERT_EQ(0, deaf(self->pair[1], false));
	EXPECT_EQ(self->bytes, arrived(self, 0, self->bytes));
	EXPECT_TRUE(WAIT_FOR(in_order(self), 5000));
}

/* Nobody sees the completions. */
TEST_F(small, context_closed)
{
	ASSERT_TRUE(stuck(self));
	ASSERT_EQ(0, munmap(self->done.head, self->done.len));
	self->done.head = NULL;
	close(self->fd);
	close(self->area);
	self->fd = self->area = -1;
	EXPECT_TRUE(WAIT_FOR(pinned_pages() <= self->pinned, 5000));
}

TEST_HARNESS_MAIN
