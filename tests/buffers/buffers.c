// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Receive buffers of all sizes, of the host's memory in huge pages and of the GPU's, on a port that packs the payload of many packets
 * into them. Needs the ports, the stand-in for a GPU, and huge pages.
 */
#include "helpers.h"
#include "kselftest_harness.h"
#include "memory.h"

#include <dirent.h>
#include <net/if.h>
#include <sys/ioctl.h>

/* Bytes of memory of a receiver: 64 of the largest buffers. */
#undef LEN
#define LEN	(8UL << 20)
/* Bytes of a page of the CPU's. */
#define SMALL	4096UL

/* Whether devices see memory through an IOMMU: then whatever they are given is in one piece for them. */
static bool has_iommu(void)
{
	DIR *dir = opendir("/sys/class/iommu");
	struct dirent *entry;
	bool found = false;

	while (dir && (entry = readdir(dir)))
		found |= entry->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return found;
}

/* @len bytes of address space that begin where any buffer can. */
static char *place(size_t len)
{
	return (char *)(((uintptr_t)hole(len + HUGE) + HUGE - 1) & ~(HUGE - 1));
}

/* @len bytes in pages of the usual size, of which hardly any two are neighbours. */
static char *ordinary_memory(size_t len)
{
	char *mem = place(len);
	size_t i;

	if (mmap(mem, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != mem ||
	    madvise(mem, len, MADV_NOHUGEPAGE))
		abort();
	for (i = 0; i < len; i += 2 * SMALL)
		mem[i] = 1;
	for (i = SMALL; i < len; i += 2 * SMALL)
		mem[i] = 1;
	return mem;
}

/* @len bytes of the GPU's memory, from @offset of that on, as a dma-buf that goes to @fd. */
static char *gpu_memory(uint64_t offset, size_t len, int *fd)
{
	char *mem = place(len);

	*fd = gpu_export(offset, len, 0);
	if (*fd < 0 || mmap(mem, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, gpu, offset) != mem)
		abort();
	return mem;
}

/* What was seen of entries. */
struct seen {
	size_t longest;
	size_t over_pages;	/* those that lie in more than one page */
	bool torn;		/* one lay in more than one buffer */
};

struct held {
	uint64_t addr[2 * LEN / 1024];	/* a piece has more than a KiB, mostly */
	size_t count;
};

/* Gives the buffer that @addr lies in back, whatever is on the ring before. */
static void give_back(struct receiver *r, uint64_t addr)
{
	long long end = now_ms() + 5000 * slowness();
	char byte;

	while (!give(&r->fill, addr) && now_ms() < end)
		recv(r->pair[0], &byte, 1, MSG_DONTWAIT);
}

/*
 * Sends the pattern from byte @from to byte @to and receives it. Each entry goes to @held, or, without it, back, by the address of the
 * last byte of its buffer. Returns how far it came: until nothing comes for a while.
 */
static size_t stream(struct receiver *r, size_t *sent, size_t from, size_t to, struct seen *seen, struct held *held)
{
	long long patience = held ? 1000 : 5000, end = now_ms() + patience * slowness();
	static char chunk[1 << 16];
	size_t got = from, n;
	ssize_t done;
	char byte;

	while (got < to && now_ms() < end) {
		struct netgpu_rx_entry e;
		bool idle = true;

		n = to - *sent < sizeof(chunk) ? to - *sent : sizeof(chunk);
		pattern_fill(chunk, *sent, n);
		done = n ? send(r->pair[1], chunk, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
		if (done > 0) {
			*sent += done;
			idle = false;
		}
		while (take(&r->rx, &e)) {
			size_t offset = e.addr - (uintptr_t)r->mem;
			size_t right = pattern_match((void *)(uintptr_t)e.addr, got, e.len);

			got += right;
			if (right != e.len) {
				fprintf(stderr, "# byte %zu is wrong\n", got);
				return got;
			}
			if (e.len > seen->longest)
				seen->longest = e.len;
			seen->over_pages += offset / SMALL != (offset + e.len - 1) / SMALL;
			seen->torn |= offset / r->unit != (offset + e.len - 1) / r->unit;
			end = now_ms() + patience * slowness();
			if (held && held->count < ARRAY_LEN(held->addr))
				held->addr[held->count++] = e.addr;
			else
				give_back(r, e.addr | (r->unit - 1));
			idle = false;
		}
		/* Moves what waits in the socket. */
		recv(r->pair[0], &byte, 1, MSG_DONTWAIT);
		if (idle)
			pause_for_others();
	}
	return got;
}

/* Closes the queue, and opens it again as @q says. 0, or why not. */
static int open_again(struct receiver *r, struct netgpu_open_queue *q)
{
	int ret = ng_close_queue(r->fd, r->queue_id);

	if (ret)
		return ret;
	munmap(r->fill.head, r->fill.len);
	q->fill_entries = r->fill.entries;
	ret = ng_ioctl(r->fd, NETGPU_IOC_OPEN_QUEUE, q);
	if (ret)
		return ret;
	r->queue_id = q->id;
	map(&r->fill, r->fd, q->mmap_offset, q->mmap_len, r->fill.entries);
	return 0;
}

enum kind {
	HOST,
	GPU,
};

FIXTURE(buffers)
{
	int queue;
	int dmabuf;
	struct receiver r;
};

FIXTURE_VARIANT(buffers)
{
	enum kind kind;
	size_t unit;
};

FIXTURE_VARIANT_ADD(buffers, host_4k)	{ HOST, 1UL << 12 };
FIXTURE_VARIANT_ADD(buffers, host_16k)	{ HOST, 1UL << 14 };
FIXTURE_VARIANT_ADD(buffers, host_64k)	{ HOST, 1UL << 16 };
FIXTURE_VARIANT_ADD(buffers, host_128k)	{ HOST, 1UL << 17 };
FIXTURE_VARIANT_ADD(buffers, gpu_64k)	{ GPU, 1UL << 16 };

FIXTURE_SETUP(buffers)
{
	char *mem = NULL;

	self->queue = nic_queues() - 1;
	self->dmabuf = HOST_MEMORY;
	ASSERT_EQ(0, nic_prepare(self->queue));
	if (variant->kind == GPU)
		mem = gpu_memory(LEN, LEN, &self->dmabuf);
	ASSERT_EQ(0, receiver_open_buffers(&self->r, self->queue, RULE, variant->unit, LEN, mem, self->dmabuf));
}

FIXTURE_TEARDOWN(buffers)
{
	receiver_close(&self->r);
	if (self->dmabuf >= 0) {
		EXPECT_TRUE(WAIT_FOR(gpu_unused(self->dmabuf), 5000));
		close(self->dmabuf);
		munmap(self->r.mem, LEN);
	}
	nic_restore();
	EXPECT_TRUE(nic_works());
}

/* Twice through all of the memory: nothing is copied, entries are longer than pages, and buffers come back. */
TEST_F_TIMEOUT(buffers, receive, 120)
{
	size_t sent = 0, total = 2 * LEN;
	struct receiver *r = &self->r;
	struct netgpu_context_stats context;
	struct netgpu_socket_stats socket;
	struct netgpu_queue_stats queue;
	struct seen seen = {};

	ASSERT_EQ(total, stream(r, &sent, 0, total, &seen, NULL));
	EXPECT_FALSE(seen.torn);
	EXPECT_GE(r->unit, seen.longest);
	if (r->unit > SMALL)
		EXPECT_LT(SMALL, seen.longest);
	TH_LOG("the longest entry has %zu bytes", seen.longest);
	ASSERT_EQ(0, ng_socket_stats(r->fd, r->socket_id, &socket));
	EXPECT_EQ(total, socket.rx_zerocopy);
	EXPECT_EQ(0U, socket.rx_copied);
	ASSERT_EQ(0, ng_queue_stats(r->fd, r->queue_id, &queue));
	EXPECT_EQ(total, queue.rx_zerocopy);
	EXPECT_EQ(0U, queue.bad_addr);
	EXPECT_EQ(0U, queue.bad_return);
	ASSERT_EQ(0, ng_context_stats(r->fd, &context));
	EXPECT_EQ(r->unit, context.buffer_size);
	EXPECT_EQ(LEN / r->unit, context.donated);
}

/* Who holds its share gets no more, loses nothing, and goes on when it gives back. */
TEST_F_TIMEOUT(buffers, hold, 120)
{
	size_t sent = 0, got, end, total = 2 * LEN, i;
	struct netgpu_socket_stats stats;
	struct receiver *r = &self->r;
	struct seen seen = {};
	static struct held held;

	got = stream(r, &sent, 0, total, &seen, &held);
	ASSERT_EQ(0, ng_socket_stats(r->fd, r->socket_id, &stats));
	ASSERT_LT(0U, stats.rx_stalled_share) TH_LOG("%zu bytes came", got);
	EXPECT_GE(stats.share, stats.held);
	EXPECT_GE(LEN, got);
	for (i = 0; i < held.count; i++)
		give_back(r, held.addr[i]);
	end = stream(r, &sent, got, total, &seen, NULL);
	ASSERT_EQ(total, end);
	ASSERT_EQ(0, ng_socket_stats(r->fd, r->socket_id, &stats));
	EXPECT_EQ(total, stats.rx_zerocopy + stats.rx_copied);
}

/* Through a queue that is not ours: the CPU fills buffers, across the pages that they consist of. */
TEST_F_TIMEOUT(buffers, copy, 120)
{
	size_t sent = 0, total = LEN;
	struct receiver *r = &self->r;
	struct netgpu_socket_stats stats;
	struct seen seen = {};

	ASSERT_EQ(0, sh("ethtool -N %s delete %d", nic_name(), RULE));
	r->rule = 0;
	ASSERT_EQ(total, stream(r, &sent, 0, total, &seen, NULL));
	EXPECT_FALSE(seen.torn);
	if (r->unit > SMALL)
		EXPECT_LT(0U, seen.over_pages);
	ASSERT_EQ(0, ng_socket_stats(r->fd, r->socket_id, &stats));
	EXPECT_EQ(total, stats.rx_copied);
}

/* Entries of the fill ring that name no buffer, or one that is not ours to give. */
TEST_F_TIMEOUT(buffers, bad_entries, 120)
{
	size_t sent = 0, total = LEN;
	struct receiver *r = &self->r;
	struct netgpu_queue_stats stats;
	struct seen seen = {};

	give_back(r, (uintptr_t)r->mem - 1);
	give_back(r, (uintptr_t)r->mem + LEN);
	give_back(r, (uintptr_t)r->mem + LEN + r->unit - 1);
	ASSERT_EQ(total, stream(r, &sent, 0, total, &seen, NULL));
	ASSERT_EQ(0, ng_queue_stats(r->fd, r->queue_id, &stats));
	EXPECT_EQ(3U, stats.bad_addr);
	EXPECT_EQ(0U, stats.bad_return);
	/* Each of these was given before, and nobody has got anything of it since: from start to end it is one buffer. */
	give_back(r, (uintptr_t)r->mem);
	give_back(r, (uintptr_t)r->mem + r->unit - 1);
	give_back(r, (uintptr_t)r->mem + LEN - r->unit);
	give_back(r, (uintptr_t)r->mem + LEN - 1);
	ASSERT_EQ(2 * total, stream(r, &sent, total, 2 * total, &seen, NULL));
	ASSERT_EQ(0, ng_queue_stats(r->fd, r->queue_id, &stats));
	EXPECT_EQ(3U, stats.bad_addr);
	EXPECT_EQ(4U, stats.bad_return);
}

/* From odd addresses, and across buffers: it is all the same to who sends. */
TEST_F_TIMEOUT(buffers, send, 120)
{
	size_t len = 3 * HUGE / 2 - 7, sent = 0, got = 0;
	long long end = now_ms() + 20000 * slowness();
	struct netgpu_socket_stats stats;
	struct receiver *r = &self->r;
	int dmabuf = HOST_MEMORY;
	char *mem, *from, data[1 << 14];
	ssize_t n;

	if (variant->kind == GPU) {
		mem = gpu_memory(3 * LEN, 2 * HUGE, &dmabuf);
		ASSERT_EQ(2, ng_add_dmabuf(r->area, mem, 2 * HUGE, dmabuf, 0));
	} else {
		mem = huge_memory(2 * HUGE);
		ASSERT_EQ(2, ng_add_region(r->area, mem, 2 * HUGE));
	}
	ASSERT_EQ(0, ng_attach_region(r->fd, r->area, 2));
	from = mem + HUGE / 4 + 3;
	pattern_fill(from, 0, len);
	while (got < len && now_ms() < end) {
		size_t part = len - sent < 300001 ? len - sent : 300001;

		/* That there is no room for it on the completion ring, which nobody reads, ends it. */
		n = part ? send(r->pair[0], from + sent, part, MSG_ZEROCOPY | MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
		ASSERT_TRUE(n >= 0 || errno == EAGAIN) TH_LOG("%s", strerror(errno));
		if (n > 0)
			sent += n;
		while ((n = recv(r->pair[1], data, sizeof(data), MSG_DONTWAIT)) > 0) {
			size_t right = pattern_match(data, got, n);

			ASSERT_EQ((size_t)n, right) TH_LOG("byte %zu", got + right);
			got += n;
		}
	}
	ASSERT_EQ(len, got);
	ASSERT_EQ(0, ng_socket_stats(r->fd, r->socket_id, &stats));
	EXPECT_EQ(len, stats.tx_zerocopy);
	EXPECT_EQ(0U, stats.tx_copied);
	if (variant->kind == GPU)
		close(dmabuf);
	munmap(mem, 2 * HUGE);
}

/* The queue is closed and opened again in mid-stream: nothing is lost, and the buffers come back. */
TEST_F_TIMEOUT(buffers, queue_again, 120)
{
	size_t sent = 0, got, total = LEN / 2;
	struct receiver *r = &self->r;
	struct netgpu_socket_stats stats;
	struct netgpu_open_queue q;
	struct seen seen = {};
	unsigned int round;

	got = stream(r, &sent, 0, total, &seen, NULL);
	ASSERT_EQ(total, got);
	for (round = 1; round < 4; round++) {
		q = (struct netgpu_open_queue){ .queue = self->queue };
		ASSERT_EQ(0, open_again(r, &q));
		got = stream(r, &sent, got, (round + 1) * total, &seen, NULL);
		ASSERT_EQ((round + 1) * total, got);
	}
	EXPECT_FALSE(seen.torn);
	ASSERT_EQ(0, ng_socket_stats(r->fd, r->socket_id, &stats));
	EXPECT_EQ(4 * total, stats.rx_zerocopy + stats.rx_copied);
}

/* Of a queue that splits at a fixed offset, which all headers reach, because this program runs with `netgpu pad`, or do not. */
FIXTURE(padded)
{
	int queue;
	struct receiver r;
};

FIXTURE_VARIANT(padded)
{
	size_t unit;
};

FIXTURE_VARIANT_ADD(padded, in_4k)	{ 1UL << 12 };
FIXTURE_VARIANT_ADD(padded, in_64k)	{ 1UL << 16 };

FIXTURE_SETUP(padded)
{
	struct netgpu_open_queue q = { .flags = NETGPU_QUEUE_PADDED, .hds_offset = 14 + 20 + 60 };
	struct receiver *r = &self->r;

	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	ASSERT_EQ(0, receiver_open_buffers(r, self->queue, RULE, variant->unit, LEN, NULL, HOST_MEMORY));
	q.queue = self->queue;
	ASSERT_EQ(0, open_again(r, &q));
}

FIXTURE_TEARDOWN(padded)
{
	receiver_close(&self->r);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

/* The payload of packets lies in a row, as many as share a buffer: a power of two. */
TEST_F_TIMEOUT(padded, in_a_row, 120)
{
	size_t full, in_buffer = 1, sent = 0, total = 2 * LEN;
	struct netgpu_socket_stats stats;
	struct ifreq mtu = {};
	struct seen seen = {};

	strncpy(mtu.ifr_name, nic_name(), IFNAMSIZ - 1);
	ASSERT_EQ(0, ioctl(self->r.pair[0], SIOCGIFMTU, &mtu));
	full = mtu.ifr_mtu - 20 - 60;
	while (2 * in_buffer * full <= variant->unit)
		in_buffer *= 2;
	ASSERT_EQ(total, stream(&self->r, &sent, 0, total, &seen, NULL));
	EXPECT_FALSE(seen.torn);
	TH_LOG("the longest entry has %zu bytes, the payload of a packet %zu", seen.longest, full);
	EXPECT_GE(in_buffer * full, seen.longest);
	EXPECT_LE(2 * full, seen.longest);
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	EXPECT_EQ(total, stats.rx_zerocopy);
}

/* Of payload behind shorter headers the first bytes are copied. */
TEST_F_TIMEOUT(padded, not_padded, 120)
{
	struct netgpu_socket_stats stats;
	size_t sent = 0, total = 2 * LEN;
	struct seen seen = {};

	ASSERT_EQ(total, stream(&self->r, &sent, 0, total, &seen, NULL));
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	EXPECT_LT(0U, stats.rx_copied);
	EXPECT_GT(total / 8, stats.rx_copied);
	EXPECT_EQ(total, stats.rx_zerocopy + stats.rx_copied);
}

/* That another queue of the context leaves no room in front of payload, or did, changes nothing: with time stamps a packet is one piece. */
TEST(room_of_its_own)
{
	struct netgpu_open_queue q = { .flags = NETGPU_QUEUE_PADDED };
	size_t sent = 0, full = 1500 - 20 - 32;
	int queue = nic_queues() - 1;
	struct seen seen = {};
	struct receiver r;

	ASSERT_EQ(0, nic_prepare(queue));
	ASSERT_EQ(0, receiver_open_buffers(&r, queue, RULE, SMALL, LEN, NULL, HOST_MEMORY));
	q.queue = queue - 1;
	q.fill_entries = 64;
	ASSERT_EQ(0, ng_ioctl(r.fd, NETGPU_IOC_OPEN_QUEUE, &q));
	ASSERT_EQ(0, ng_close_queue(r.fd, q.id));
	ASSERT_EQ(LEN, stream(&r, &sent, 0, LEN, &seen, NULL));
	EXPECT_LE(full, seen.longest);
	receiver_close(&r);
	nic_restore();
}

/* The same memory in buffers of two sizes: a context with small ones sends from it what the other has received. */
TEST_F_TIMEOUT(buffers, shared_by_two_contexts, 120)
{
	struct receiver *r = &self->r;
	struct netgpu_attach_socket a;
	struct netgpu_socket_stats stats;
	size_t sent = 0, total = r->unit;
	static struct held held;
	struct seen seen = {};
	int fd = ng_open(), pair[2];
	size_t i, count;

	ASSERT_EQ(total, stream(r, &sent, 0, total, &seen, &held));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	ASSERT_EQ(0, ng_attach_region(fd, r->area, 1));
	ASSERT_EQ(0, tcp_pair(AF_INET, pair));
	ASSERT_EQ(0, ng_attach_socket(fd, pair[0], 0, RING, &a));
	/* Its length is not kept: a byte is enough to see whose it is. */
	for (count = 0; count < held.count && count < RING; count++)
		ASSERT_EQ(1, send(pair[0], (void *)(uintptr_t)held.addr[count], 1, MSG_ZEROCOPY));
	for (i = 0; i < count; i++) {
		char byte;

		ASSERT_EQ(1, recv(pair[1], &byte, 1, 0));
		EXPECT_EQ(*(volatile char *)(uintptr_t)held.addr[i], byte);
	}
	ASSERT_EQ(0, ng_socket_stats(fd, a.id, &stats));
	EXPECT_EQ(count, stats.tx_zerocopy);
	close(pair[0]);
	close(pair[1]);
	close(fd);
	for (i = 0; i < held.count; i++)
		give_back(r, held.addr[i]);
	ASSERT_EQ(2 * LEN, stream(r, &sent, total, 2 * LEN, &seen, NULL));
}

/* Attaching. */

/* Pages that are no neighbours make no large buffer, unless an IOMMU makes them neighbours: then one like any other. */
TEST(pages_that_are_no_neighbours)
{
	int area = ng_open(), fd = ng_open(), queue = nic_queues() - 1;
	char *mem = ordinary_memory(LEN);
	struct netgpu_socket_stats stats;
	struct seen seen = {};
	struct receiver r;
	size_t sent = 0;

	if (!has_iommu()) {
		ASSERT_EQ(1, ng_add_region(area, mem, LEN));
		ASSERT_EQ(0, ng_bind_buffers(fd, nic_index(), 1 << 16));
		EXPECT_EQ(-EIO, ng_attach_region(fd, area, 1));
		close(fd);
		close(area);
		munmap(mem, LEN);
		return;
	}
	ASSERT_EQ(0, nic_prepare(queue));
	ASSERT_EQ(0, receiver_open_buffers(&r, queue, RULE, 1 << 17, LEN, mem, HOST_MEMORY));
	EXPECT_EQ(2 * LEN, stream(&r, &sent, 0, 2 * LEN, &seen, NULL));
	EXPECT_LT(SMALL, seen.longest);
	EXPECT_FALSE(seen.torn);
	ASSERT_EQ(0, ng_socket_stats(r.fd, r.socket_id, &stats));
	EXPECT_EQ(0U, stats.rx_copied);
	receiver_close(&r);
	nic_restore();
}

/* The GPU's memory comes in segments of 64 KiB, which are neighbours, unless an IOMMU puts them elsewhere. */
TEST(dmabuf_in_buffers_of_two_segments)
{
	int queue = nic_queues() - 1, area = ng_open(), fd = ng_open(), dmabuf;
	char *mem = gpu_memory(LEN, LEN, &dmabuf);
	struct netgpu_socket_stats stats;
	struct seen seen = {};
	struct receiver r;
	size_t sent = 0;

	if (has_iommu()) {
		ASSERT_EQ(1, ng_add_dmabuf(area, mem, LEN, dmabuf, 0));
		ASSERT_EQ(0, ng_bind_buffers(fd, nic_index(), 1 << 17));
		EXPECT_EQ(-EIO, ng_attach_region(fd, area, 1));
	} else {
		ASSERT_EQ(0, nic_prepare(queue));
		ASSERT_EQ(0, receiver_open_buffers(&r, queue, RULE, 1 << 17, LEN, mem, dmabuf));
		EXPECT_EQ(2 * LEN, stream(&r, &sent, 0, 2 * LEN, &seen, NULL));
		EXPECT_FALSE(seen.torn);
		ASSERT_EQ(0, ng_socket_stats(r.fd, r.socket_id, &stats));
		EXPECT_EQ(2 * LEN, stats.rx_zerocopy);
		receiver_close(&r);
		nic_restore();
	}
	close(fd);
	close(area);
	EXPECT_TRUE(WAIT_FOR(gpu_unused(dmabuf), 5000));
	close(dmabuf);
	munmap(mem, LEN);
}

/* A part of the GPU's memory that begins in the middle of a segment. */
TEST(dmabuf_that_begins_in_a_buffer)
{
	int area = ng_open(), fd = ng_open(), dmabuf = gpu_export(0, 1 << 17, 0);
	char *mem = place(1 << 17);

	ASSERT_LE(0, dmabuf);
	ASSERT_EQ(1, ng_add_dmabuf(area, mem, 1 << 16, dmabuf, SMALL));
	ASSERT_EQ(0, ng_bind_buffers(fd, nic_index(), 1 << 16));
	EXPECT_EQ(-EIO, ng_attach_region(fd, area, 1));
	close(fd);
	fd = ng_open();
	ASSERT_EQ(0, ng_bind_buffers(fd, nic_index(), SMALL));
	EXPECT_EQ(0, ng_attach_region(fd, area, 1));
	close(fd);
	close(area);
	close(dmabuf);
}

/* Memory that is taken back while the NIC writes to it. */
TEST(taken_back)
{
	int queue = nic_queues() - 1, dmabuf;
	char *mem = gpu_memory(LEN, LEN, &dmabuf), byte;
	struct netgpu_context_stats stats;
	struct traffic traffic;
	struct seen seen = {};
	struct receiver r;
	size_t sent = 0;

	ASSERT_EQ(0, nic_prepare(queue));
	ASSERT_EQ(0, receiver_open_buffers(&r, queue, RULE, 1 << 16, LEN, mem, dmabuf));
	ASSERT_EQ(LEN, stream(&r, &sent, 0, LEN, &seen, NULL));
	traffic_start(&traffic, r.pair[1]);
	usleep(20000);
	EXPECT_EQ(0, gpu_revoke(dmabuf));
	traffic_stop(&traffic);
	EXPECT_TRUE(WAIT_FOR(recv(r.pair[0], &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNABORTED, 5000));
	/* A socket may meet the memory that is gone before the one who takes it back has counted it. */
	EXPECT_TRUE(WAIT_FOR(!ng_context_stats(r.fd, &stats) && stats.revoked == 1, 5000));
	EXPECT_TRUE(WAIT_FOR(gpu_unused(dmabuf), 5000));
	receiver_close(&r);
	nic_restore();
}

TEST_HARNESS_MAIN
