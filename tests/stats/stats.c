// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Each counter: that what it counts moves it, and moves no other. Needs the ports.
 *
 * Bytes of a send that were copied on their way stay zero here: the stack has no way to copy what the CPU is not to read. The
 * module's own tests count them.
 */
#include "helpers.h"
#include "kselftest_harness.h"

/* Everything of a receiver at once. */
struct all {
	struct netgpu_context_stats context;
	struct netgpu_region_stats region;
	struct netgpu_queue_stats queue;
	struct netgpu_socket_stats socket;
};

static int read_all(const struct receiver *r, struct all *all)
{
	int ret = ng_context_stats(r->fd, &all->context);

	ret = ret ? ret : ng_region_stats(r->fd, r->mem, &all->region);
	ret = ret ? ret : ng_queue_stats(r->fd, r->queue_id, &all->queue);
	return ret ? ret : ng_socket_stats(r->fd, r->socket_id, &all->socket);
}

static void kick(int sock)
{
	char byte;

	recv(sock, &byte, 1, MSG_DONTWAIT);
}

/* Sends until the peer cannot go on, kicking our end. */
static void stuff(const struct receiver *r)
{
	static char stuffing[1 << 16];
	long long quiet = now_ms() + 300;

	while (now_ms() < quiet) {
		if (send(r->pair[1], stuffing, sizeof(stuffing), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
			quiet = now_ms() + 300;
		usleep(1000);
	}
	kick(r->pair[0]);
}

/* Takes everything from the rx ring and keeps the buffers. */
static void hoard(struct receiver *r)
{
	struct netgpu_rx_entry e;

	while (take(&r->rx, &e))
		;
}

FIXTURE(stats)
{
	struct receiver r;
	int queue;
	struct all all;
};

FIXTURE_VARIANT(stats)
{
	/* Whether the connection is steered to our queue. */
	bool steered;
};

FIXTURE_VARIANT_ADD(stats, steered)
{
	.steered = true,
};

FIXTURE_VARIANT_ADD(stats, by_another_queue)
{
	.steered = false,
};

FIXTURE_SETUP(stats)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	ASSERT_EQ(0, receiver_open(&self->r, self->queue, variant->steered ? 7 : 0));
}

FIXTURE_TEARDOWN(stats)
{
	receiver_close(&self->r);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

TEST_F(stats, begin_at_zero)
{
	struct all *s = &self->all;
	struct netgpu_context_stats other;
	int fd = ng_open();

	ASSERT_EQ(0, read_all(&self->r, s));
	EXPECT_EQ(1U, s->context.regions);
	EXPECT_EQ(1U, s->context.queues);
	EXPECT_EQ(1U, s->context.sockets);
	EXPECT_EQ(1U, s->context.attached);
	EXPECT_EQ(0U, s->context.aborted | s->context.revoked);
	EXPECT_EQ(4096U, s->context.buffer_size);
	EXPECT_EQ(0U, s->context.rx_zerocopy | s->context.rx_copied_split | s->context.rx_copied_no_room |
		      s->context.rx_copied_unsplit | s->context.rx_zerocopy_packets | s->context.rx_copied_packets);
	EXPECT_EQ(0U, s->context.tx_zerocopy | s->context.tx_sends | s->context.tx_copied | s->context.tx_copied_sends);
	EXPECT_EQ(0U, s->context.bad_addr | s->context.bad_return);
	EXPECT_EQ((uintptr_t)self->r.mem, s->region.addr);
	EXPECT_EQ(self->r.len, s->region.len);
	EXPECT_EQ(0U, s->socket.rx_stalled | s->socket.tx_pending | s->socket.held);
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	ASSERT_EQ(0, ng_context_stats(fd, &other));
	EXPECT_NE(s->context.id, other.id);
	EXPECT_EQ(0U, other.regions | other.queues | other.sockets | other.attached | other.donated | other.free | other.empty);
	close(fd);
}

/* The four views of one stream agree. */
TEST_F(stats, received_bytes)
{
	struct all *s = &self->all;
	size_t total = 1 << 20;

	ASSERT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	kick(self->r.pair[0]);
	ASSERT_EQ(0, read_all(&self->r, s));
	EXPECT_EQ(total, s->socket.rx_zerocopy + s->socket.rx_copied);
	EXPECT_EQ(s->socket.rx_copied, s->socket.rx_copied_split + s->socket.rx_copied_no_room + s->socket.rx_copied_unsplit);
	EXPECT_EQ(s->socket.rx_zerocopy, s->context.rx_zerocopy);
	EXPECT_EQ(s->socket.rx_copied_split, s->context.rx_copied_split);
	EXPECT_EQ(s->socket.rx_copied_no_room, s->context.rx_copied_no_room);
	EXPECT_EQ(s->socket.rx_copied_unsplit, s->context.rx_copied_unsplit);
	EXPECT_EQ(s->socket.rx_zerocopy_packets, s->context.rx_zerocopy_packets);
	EXPECT_EQ(s->socket.rx_copied_packets, s->context.rx_copied_packets);
	EXPECT_EQ(s->socket.rx_zerocopy, s->region.rx_zerocopy);
	EXPECT_EQ(s->socket.rx_copied, s->region.rx_copied);
	EXPECT_EQ(s->socket.rx_zerocopy, s->queue.rx_zerocopy);
	/* The split of this NIC leaves the first bytes of each packet behind: none came without a copy. */
	EXPECT_EQ(0U, s->socket.rx_zerocopy_packets);
	EXPECT_LT(0U, s->socket.rx_copied_packets);
	if (variant->steered) {
		EXPECT_LT(total / 2, s->socket.rx_zerocopy);
		EXPECT_LT(0U, s->socket.rx_copied_split);
		/* A packet that is too short for the split, if TCP sends one, is none of the queue's, unless GRO has merged it into one. */
		if (s->socket.rx_copied_unsplit) {
			EXPECT_GE(s->socket.rx_copied_packets, s->queue.rx_packets);
		} else {
			EXPECT_EQ(s->socket.rx_copied_packets, s->queue.rx_packets);
		}
	} else {
		EXPECT_EQ(total, s->socket.rx_copied_unsplit);
		EXPECT_EQ(0U, s->queue.rx_packets);
	}
	EXPECT_EQ(0U, s->socket.rx_copied_no_room);
	EXPECT_EQ(0U, s->socket.held);
	EXPECT_LT(0U, s->socket.share);
	EXPECT_EQ(0U, s->context.bad_addr + s->context.bad_return + s->region.bad_return);
}

/* Too short for the split: the whole packet stays with its header. */
TEST_F(stats, short_packets)
{
	struct all *s = &self->all;

	ASSERT_EQ(1U, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 1));
	ASSERT_EQ(0, read_all(&self->r, s));
	EXPECT_EQ(1U, s->socket.rx_copied_unsplit);
	EXPECT_EQ(1U, s->socket.rx_copied_packets);
	EXPECT_EQ(0U, s->socket.rx_zerocopy + s->queue.rx_packets);
}

/* A split far behind the longest header leaves more than there is room for in front of the payload. */
TEST_F(stats, without_room)
{
	struct netgpu_open_queue q = { .queue = self->queue, .fill_entries = FILL, .hds_offset = 200 };
	struct receiver *r = &self->r;
	struct all *s = &self->all;
	size_t total = 1 << 18;

	ASSERT_EQ(0, ng_close_queue(r->fd, r->queue_id));
	munmap(r->fill.head, r->fill.len);
	ASSERT_EQ(0, ng_ioctl(r->fd, NETGPU_IOC_OPEN_QUEUE, &q));
	r->queue_id = q.id;
	map(&r->fill, r->fd, q.mmap_offset, q.mmap_len, FILL);
	ASSERT_EQ(total, transfer(r->pair[0], r->pair[1], &r->fill, &r->rx, total));
	ASSERT_EQ(0, read_all(r, s));
	/* A queue that is not ours splits nothing. */
	EXPECT_EQ(variant->steered, s->socket.rx_copied_no_room != 0);
	EXPECT_EQ(0U, s->socket.rx_copied_split);
	EXPECT_EQ(s->socket.rx_copied_no_room, s->context.rx_copied_no_room);
	EXPECT_EQ(total, s->socket.rx_zerocopy + s->socket.rx_copied);
}

TEST_F(stats, of_a_full_ring)
{
	struct all *s = &self->all;

	stuff(&self->r);
	ASSERT_EQ(0, read_all(&self->r, s));
	if (variant->steered) {
		EXPECT_LE(1U, s->socket.rx_stalled_ring);
		EXPECT_EQ(0U, s->socket.rx_stalled_buffer);
	} else {
		/* Fewer buffers are kept for copies than the ring has entries. */
		EXPECT_LE(1U, s->socket.rx_stalled_buffer);
		EXPECT_EQ(0U, s->socket.rx_stalled_ring);
	}
	EXPECT_EQ(s->socket.rx_stalled,
		  s->socket.rx_stalled_ring + s->socket.rx_stalled_buffer + s->socket.rx_stalled_pause);
	EXPECT_EQ(0U, s->socket.rx_stalled_share + s->socket.rx_stalled_memory);
}

/* Buffers that are not given back. */
TEST_F(stats, of_a_share_used_up)
{
	struct all *s = &self->all;
	long long end = now_ms() + 10000;

	do {
		stuff(&self->r);
		hoard(&self->r);
		ASSERT_EQ(0, read_all(&self->r, s));
	} while (!(variant->steered ? s->socket.rx_stalled_share : s->socket.rx_stalled_buffer) && now_ms() < end);
	if (variant->steered) {
		EXPECT_LE(1U, s->socket.rx_stalled_share) TH_LOG("%llu of %llu held", s->socket.held, s->socket.share);
		EXPECT_EQ(s->socket.share, s->socket.held);
	} else {
		/* Fewer buffers are kept for copies than a share. */
		EXPECT_LE(1U, s->socket.rx_stalled_buffer);
		EXPECT_GT(s->socket.share, s->socket.held);
		EXPECT_LT(0U, s->socket.held);
		EXPECT_EQ(0U, s->region.free);
		EXPECT_EQ(0U, s->context.free);
	}
	EXPECT_EQ(0U, s->socket.rx_stalled_memory);
}

TEST_F(stats, of_sends)
{
	struct all *s = &self->all;
	static char sink[3 * 10000];
	unsigned int i;

	for (i = 0; i < 3; i++)
		ASSERT_EQ(10000, send(self->r.pair[0], self->r.mem + i * 12288, 10000, MSG_ZEROCOPY));
	ASSERT_EQ((ssize_t)sizeof(sink), recv(self->r.pair[1], sink, sizeof(sink), MSG_WAITALL));
	ASSERT_TRUE(WAIT_FOR((read_all(&self->r, s), !s->socket.tx_pending), 5000));
	EXPECT_EQ(3U, s->socket.tx_sends);
	EXPECT_EQ(3U, s->context.tx_sends);
	EXPECT_EQ(30000U, s->socket.tx_zerocopy);
	EXPECT_EQ(30000U, s->context.tx_zerocopy);
	EXPECT_EQ(30000U, s->region.tx_zerocopy);
	EXPECT_EQ(0U, s->socket.tx_refused);
	EXPECT_EQ(0U, s->socket.tx_copied + s->socket.tx_copied_sends + s->context.tx_copied + s->context.tx_copied_sends);
	/* Three completions are unread. */
	for (i = 3; i < RING; i++)
		ASSERT_EQ(1, send(self->r.pair[0], self->r.mem, 1, MSG_ZEROCOPY)) TH_LOG("send %u", i);
	EXPECT_EQ(-1, send(self->r.pair[0], self->r.mem, 1, MSG_ZEROCOPY));
	EXPECT_EQ(ENOBUFS, errno);
	ASSERT_EQ(0, read_all(&self->r, s));
	EXPECT_EQ(1U, s->socket.tx_refused);
	EXPECT_EQ((uint64_t)RING, s->socket.tx_sends);
}

TEST_F(stats, of_bad_entries)
{
	struct all *s = &self->all;

	give(&self->r.fill, 1);
	give(&self->r.fill, (uintptr_t)self->r.mem + self->r.len);
	/* The NIC has them all, or will have: user space holds none. */
	give(&self->r.fill, (uintptr_t)self->r.mem);
	kick(self->r.pair[0]);
	ASSERT_EQ(0, read_all(&self->r, s));
	EXPECT_EQ(2U, s->queue.bad_addr);
	EXPECT_EQ(2U, s->context.bad_addr);
	EXPECT_EQ(1U, s->queue.bad_return);
	EXPECT_EQ(1U, s->context.bad_return);
	EXPECT_EQ(1U, s->region.bad_return);
	/* They were closed with the queue, but not for the context. */
	EXPECT_EQ(0, ng_close_queue(self->r.fd, self->r.queue_id));
	ASSERT_EQ(0, ng_context_stats(self->r.fd, &s->context));
	EXPECT_EQ(2U, s->context.bad_addr);
	EXPECT_EQ(0U, s->context.queues);
}

/* Where buffers are: with the NIC, or with nobody. */
TEST_F(stats, of_buffers)
{
	struct netgpu_open_queue q;
	struct all *s = &self->all;

	kick(self->r.pair[0]);
	ASSERT_EQ(0, read_all(&self->r, s));
	EXPECT_EQ((uint64_t)BUFFERS, s->context.donated);
	EXPECT_EQ((uint64_t)BUFFERS, s->queue.filled + s->queue.drained);
	EXPECT_EQ(s->region.free, s->context.free);
	/* It was opened before there was a buffer. */
	EXPECT_LE(1U, s->queue.empty);
	EXPECT_EQ(s->queue.empty, s->context.empty);
	EXPECT_EQ(0, ng_close_queue(self->r.fd, self->r.queue_id));
	ASSERT_TRUE(WAIT_FOR((ng_region_stats(self->r.fd, self->r.mem, &s->region), s->region.free == BUFFERS), 10000))
		TH_LOG("%llu of %u", s->region.free, BUFFERS);
	/* The next queue begins with those. */
	ASSERT_EQ(0, ng_open_queue(self->r.fd, self->queue, FILL, &q));
	ASSERT_EQ(0, ng_queue_stats(self->r.fd, q.id, &s->queue));
	EXPECT_LE(1U, s->queue.refilled);
	EXPECT_EQ(0U, s->queue.filled);
}

TEST_F(stats, of_what_goes)
{
	struct all *s = &self->all;

	ASSERT_EQ(1U << 16, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 1 << 16));
	EXPECT_EQ(0, ng_detach_socket(self->r.fd, self->r.socket_id));
	ASSERT_EQ(0, ng_context_stats(self->r.fd, &s->context));
	EXPECT_EQ(0U, s->context.sockets);
	EXPECT_EQ(1U, s->context.attached);
	EXPECT_EQ(1U, s->context.aborted);
	EXPECT_EQ(1U << 16, s->context.rx_zerocopy + s->context.rx_copied_split + s->context.rx_copied_unsplit);
}

TEST_F(stats, arguments)
{
	struct netgpu_region_stats region;
	struct netgpu_context_stats context;
	struct receiver *r = &self->r;
	size_t i;

	for (i = 0; i < sizeof(region.reserved); i++) {
		region = (struct netgpu_region_stats){ .addr = (uintptr_t)r->mem };
		((char *)region.reserved)[i] = 1;
		EXPECT_EQ(-EINVAL, ng_ioctl(r->fd, NETGPU_IOC_REGION_STATS, &region)) TH_LOG("reserved byte %zu", i);
	}
	EXPECT_EQ(0, ng_region_stats(r->fd, r->mem + r->len - 1, &region));
	EXPECT_EQ((uintptr_t)r->mem, region.addr);
	EXPECT_EQ(-ENOENT, ng_region_stats(r->fd, r->mem + r->len, &region));
	EXPECT_EQ(-ENOENT, ng_region_stats(r->fd, r->mem - 1, &region));
	EXPECT_EQ(-ENOENT, ng_region_stats(r->fd, NULL, &region));
	EXPECT_EQ(-ENOENT, ng_region_stats(r->fd, (void *)-1, &region));
	EXPECT_EQ(-EFAULT, ng_ioctl(r->fd, NETGPU_IOC_REGION_STATS, NULL));
	EXPECT_EQ(-EFAULT, ng_ioctl(r->fd, NETGPU_IOC_CONTEXT_STATS, NULL));
	EXPECT_EQ(-EBADFD, ng_context_stats(r->area, &context));
	EXPECT_EQ(-EBADFD, ng_region_stats(r->area, r->mem, &region));
}

/* Without a region nothing can be copied anywhere. */
TEST(no_memory_to_deliver_to)
{
	struct netgpu_attach_socket a;
	struct netgpu_socket_stats s;
	int fd = ng_open(), pair[2];
	char byte;

	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	ASSERT_EQ(0, tcp_pair(AF_INET, pair));
	ASSERT_EQ(0, ng_attach_socket(fd, pair[0], RING, 0, &a));
	ASSERT_EQ(1, send(pair[1], "x", 1, 0));
	ASSERT_TRUE(WAIT_FOR((ng_socket_stats(fd, a.id, &s), s.rx_stalled), 5000));
	EXPECT_EQ(1U, s.rx_stalled_memory);
	EXPECT_EQ(1U, s.rx_stalled);
	EXPECT_EQ(-1, recv(pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(EOPNOTSUPP, errno);
	close(pair[0]);
	close(pair[1]);
	close(fd);
}

/* So much waits to be copied that it takes two turns. */
TEST(copies_in_turns)
{
	enum { MANY = 1024, ENTRIES = 512 };
	size_t unit = buffer_size(), i, queue = nic_queues() - 1;
	int area = ng_open(), fd = ng_open(), pair[2], room = 4 << 20;
	static char data[400000];
	char *mem = memory(MANY * unit);
	struct netgpu_attach_socket a;
	struct netgpu_socket_stats s;
	struct netgpu_open_queue q;
	struct view fill;

	ASSERT_EQ(0, nic_prepare(queue));
	ASSERT_EQ(1, ng_add_region(area, mem, MANY * unit));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	ASSERT_EQ(0, ng_attach_region(fd, area, 1));
	ASSERT_EQ(0, ng_open_queue(fd, queue, MANY, &q));
	map(&fill, fd, q.mmap_offset, q.mmap_len, MANY);
	for (i = 0; i < MANY; i++)
		give(&fill, (uintptr_t)mem + i * unit);
	ASSERT_EQ(0, tcp_pair(AF_INET, pair));
	ASSERT_EQ(0, setsockopt(pair[0], SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)));
	ASSERT_EQ((ssize_t)sizeof(data), send(pair[1], data, sizeof(data), 0));
	ASSERT_TRUE(WAIT_FOR((ioctl(pair[0], FIONREAD, &room), room == sizeof(data)), 10000)) TH_LOG("%d bytes came", room);
	ASSERT_EQ(0, ng_attach_socket(fd, pair[0], ENTRIES, 0, &a));
	ASSERT_EQ(0, ng_socket_stats(fd, a.id, &s));
	EXPECT_EQ(1U, s.rx_stalled_pause + s.rx_stalled_buffer);
	/* The next turn finds the buffers that the fill ring still held. */
	kick(pair[0]);
	kick(pair[0]);
	ASSERT_EQ(0, ng_socket_stats(fd, a.id, &s));
	EXPECT_LE(1U, s.rx_stalled_pause);
	EXPECT_EQ(sizeof(data), s.rx_copied_unsplit);
	close(pair[0]);
	close(pair[1]);
	close(fd);
	close(area);
	nic_restore();
}

TEST_HARNESS_MAIN
