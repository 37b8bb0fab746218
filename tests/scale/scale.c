// SPDX-License-Identifier: MIT OR Apache-2.0
/* Many of everything at a time: what each of them receives and sends is right, and nobody starves. Needs the ports, and nine queues. */
#include "helpers.h"
#include "kselftest_harness.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define QUEUES		8
#define REGIONS		64
#define REGION_BUFFERS	256
#define SOCKETS		1000
#define RX_ENTRIES	16
/* What the connections of queue n are accepted on is this and n. */
#define PORT		7100
/* Enough for all that the queues have. */
#define FILL_ENTRIES	(REGIONS * REGION_BUFFERS)

/* A connection over the cable: our end is attached, the other machine's sends the pattern. */
struct conn {
	int ours;
	int theirs;
	uint32_t id;
	struct view rx;
	struct view done;
	size_t sent;
	size_t got;
};

static int listener(unsigned int port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, SOCKETS)) {
		perror("listener");
		abort();
	}
	return fd;
}

static void conn_map(struct conn *c, int context, const struct netgpu_attach_socket *a)
{
	c->id = a->id;
	map(&c->rx, context, a->rx_mmap_offset, a->rx_mmap_len, RX_ENTRIES);
	map(&c->done, context, a->completion_mmap_offset, a->completion_mmap_len, RX_ENTRIES);
}

static void conn_unmap(struct conn *c)
{
	if (c->rx.head)
		munmap(c->rx.head, c->rx.len);
	if (c->done.head)
		munmap(c->done.head, c->done.len);
}

/* Connects the other machine to @port of ours, where @fd listens, and attaches our end to @context. 0 or -errno. */
static int conn_open(struct conn *c, int context, int fd, unsigned int port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct netgpu_attach_socket a;
	int ret;

	*c = (struct conn){ .ours = -1, .theirs = peer_socket(AF_INET, SOCK_STREAM, 0) };
	inet_pton(AF_INET, getenv("NETGPU_ADDR4"), &addr.sin_addr);
	if (connect(c->theirs, (struct sockaddr *)&addr, sizeof(addr)))
		return -errno;
	c->ours = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	if (c->ours < 0)
		return -errno;
	ret = ng_attach_socket(context, c->ours, RX_ENTRIES, RX_ENTRIES, &a);
	if (ret)
		return ret;
	conn_map(c, context, &a);
	return 0;
}

static void conn_close(struct conn *c)
{
	conn_unmap(c);
	close(c->ours);
	close(c->theirs);
}

/* Sends as much of the pattern, up to @total, as goes now. */
static void push(struct conn *c, size_t total)
{
	static __thread char chunk[1 << 14];
	size_t n = total - c->sent < sizeof(chunk) ? total - c->sent : sizeof(chunk);
	ssize_t done;

	if (!n)
		return;
	pattern_fill(chunk, c->sent, n);
	done = send(c->theirs, chunk, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (done > 0)
		c->sent += done;
}

/* Takes what has come and gives the buffers to @fill. False: a byte is wrong. */
static bool pull(struct conn *c, struct view *fill)
{
	struct netgpu_rx_entry e;
	bool any = false;
	size_t right;
	char byte;

	while (take(&c->rx, &e)) {
		right = pattern_match((void *)(uintptr_t)e.addr, c->got, e.len);
		c->got += right;
		if (right != e.len) {
			fprintf(stderr, "# byte %zu is wrong\n", c->got);
			return false;
		}
		give(fill, e.addr);
		any = true;
	}
	/* What waits, comes. */
	if (any || load(&c->rx.head->flags) & NETGPU_RING_STALLED)
		recv(c->ours, &byte, 1, MSG_DONTWAIT);
	return true;
}

/* Whether @total bytes arrive right on each of @n connections, all at the same time, with none for ten seconds as the end. */
static bool stream(struct conn *conns, size_t n, struct view *fills, size_t n_fills, size_t total)
{
	long long end = now_ms() + 10000;
	size_t left = n, i;

	while (left && now_ms() < end) {
		bool idle = true;

		left = 0;
		for (i = 0; i < n; i++) {
			size_t before = conns[i].got;

			push(&conns[i], total);
			if (!pull(&conns[i], &fills[i % n_fills]))
				return false;
			if (conns[i].got != before) {
				end = now_ms() + 10000;
				idle = false;
			}
			left += conns[i].got < total;
		}
		if (idle)
			pause_for_others();
	}
	for (i = 0; i < n; i++)
		if (conns[i].got != total) {
			fprintf(stderr, "# connection %zu: %zu of %zu bytes\n", i, conns[i].got, total);
			return false;
		}
	return true;
}

static int steer(int queue)
{
	return sh("ethtool -N %s flow-type tcp4 dst-port %d action %d loc %d", nic_name(), PORT + queue, queue, queue);
}

/* One context with everything. */
FIXTURE(crowd)
{
	int area;
	int fd;
	char *mem;
	size_t unit;
	struct netgpu_open_queue queues[QUEUES];
	struct view fills[QUEUES];
	int listeners[QUEUES];
	struct conn *conns;
	long long pinned;
};

FIXTURE_SETUP(crowd)
{
	struct rlimit files = { 8192, 8192 };
	size_t region, i;

	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &files));
	self->unit = buffer_size();
	region = REGION_BUFFERS * self->unit;
	self->pinned = pinned_pages();
	self->mem = memory(REGIONS * region);
	self->area = ng_open();
	self->fd = ng_open();
	/* All that is not steered stays with queue 0. */
	ASSERT_EQ(0, nic_prepare(1));
	ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
	for (i = 0; i < REGIONS; i++) {
		ASSERT_EQ((int)i + 1, ng_add_region(self->area, self->mem + i * region, region));
		ASSERT_EQ(0, ng_attach_region(self->fd, self->area, i + 1)) TH_LOG("region %zu", i);
	}
	for (i = 0; i < QUEUES; i++) {
		ASSERT_EQ(0, ng_open_queue(self->fd, i + 1, FILL_ENTRIES, &self->queues[i])) TH_LOG("queue %zu", i);
		map(&self->fills[i], self->fd, self->queues[i].mmap_offset, self->queues[i].mmap_len, FILL_ENTRIES);
		ASSERT_EQ(0, steer(i + 1));
		self->listeners[i] = listener(PORT + i + 1);
	}
	/* Each queue has some of each region. */
	for (i = 0; i < REGIONS * REGION_BUFFERS; i++)
		ASSERT_TRUE(give(&self->fills[i % QUEUES], (uintptr_t)self->mem + i * self->unit));
	self->conns = calloc(SOCKETS, sizeof(*self->conns));
	for (i = 0; i < SOCKETS; i++)
		ASSERT_EQ(0, conn_open(&self->conns[i], self->fd, self->listeners[i % QUEUES], PORT + 1 + i % QUEUES))
			TH_LOG("connection %zu", i);
}

FIXTURE_TEARDOWN(crowd)
{
	size_t i;

	for (i = 0; i < SOCKETS; i++)
		conn_close(&self->conns[i]);
	close(self->fd);
	close(self->area);
	for (i = 0; i < QUEUES; i++) {
		munmap(self->fills[i].head, self->fills[i].len);
		close(self->listeners[i]);
		sh("ethtool -N %s delete %zu", nic_name(), i + 1);
	}
	nic_restore();
	EXPECT_TRUE(nic_works());
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
}

/*
 * Nobody gives a buffer back: each socket has its share at most, and each gets something. Then they all go on; what comes on one
 * queue goes back on the same one.
 */
TEST_F_TIMEOUT(crowd, receives_and_shares, 120)
{
	const size_t total = 1 << 15;
	long long quiet = now_ms() + 1000;
	struct netgpu_context_stats context;
	struct netgpu_socket_stats stats;
	struct netgpu_region_stats region;
	struct netgpu_queue_stats queue;
	size_t i, sent = 0, regions = 0;
	uint64_t through = 0;

	while (now_ms() < quiet) {
		size_t before = sent;

		for (sent = i = 0; i < SOCKETS; i++) {
			push(&self->conns[i], total);
			sent += self->conns[i].sent;
		}
		if (sent != before)
			quiet = now_ms() + 1000;
		else
			pause_for_others();
	}
	for (i = 0; i < SOCKETS; i++) {
		ASSERT_EQ(0, ng_socket_stats(self->fd, self->conns[i].id, &stats));
		/* The queues have not asked for all of the buffers, so some are not donated yet. */
		ASSERT_GE((uint64_t)(REGIONS * REGION_BUFFERS / 2 / SOCKETS), stats.share) TH_LOG("connection %zu", i);
		EXPECT_GE(stats.share, stats.held) TH_LOG("connection %zu", i);
		EXPECT_LE(1U, stats.held) TH_LOG("connection %zu", i);
	}
	ASSERT_TRUE(stream(self->conns, SOCKETS, self->fills, QUEUES, total));

	/* What is counted agrees. */
	ASSERT_EQ(0, ng_context_stats(self->fd, &context));
	EXPECT_EQ((uint32_t)SOCKETS, context.sockets);
	EXPECT_EQ((uint32_t)QUEUES, context.queues);
	EXPECT_EQ((uint32_t)REGIONS, context.regions);
	EXPECT_EQ(total * SOCKETS, context.rx_zerocopy + context.rx_copied_split + context.rx_copied_no_room +
				   context.rx_copied_unsplit);
	EXPECT_EQ(0U, context.bad_addr + context.bad_return);
	for (i = 0; i < QUEUES; i++) {
		ASSERT_EQ(0, ng_queue_stats(self->fd, self->queues[i].id, &queue));
		EXPECT_LT(total * SOCKETS / QUEUES / 2, queue.rx_zerocopy) TH_LOG("queue %zu", i);
		through += queue.rx_zerocopy;
	}
	EXPECT_EQ(context.rx_zerocopy, through);
	for (i = 0; i < REGIONS; i++) {
		ASSERT_EQ(0, ng_region_stats(self->fd, self->mem + i * REGION_BUFFERS * self->unit, &region));
		regions += region.rx_zerocopy != 0;
	}
	EXPECT_LT(REGIONS / 2U, regions);
}

/*
 * Contexts that share an area. Those with a queue receive and send, the others send; each in a part of the memory of its own.
 */
#define CONTEXTS	16
#define PART		256

struct member {
	int fd;
	char *mem;
	bool receives;
	struct netgpu_open_queue queue;
	struct view fill;
	int listener;
	struct conn conn;
};

/* 0 or -errno. */
static int member_open(struct member *m, int area, char *mem, int n)
{
	size_t unit = buffer_size(), i;
	int ret;

	*m = (struct member){ .fd = ng_open(), .mem = mem + n * PART * unit, .receives = n < QUEUES };
	ret = ng_bind(m->fd, nic_index());
	ret = ret ? ret : ng_attach_region(m->fd, area, 1);
	m->listener = listener(PORT + n + 1);
	if (!ret && m->receives) {
		ret = ng_open_queue(m->fd, n + 1, 2 * PART, &m->queue);
		if (!ret) {
			map(&m->fill, m->fd, m->queue.mmap_offset, m->queue.mmap_len, 2 * PART);
			for (i = 0; i < PART; i++)
				give(&m->fill, (uintptr_t)m->mem + i * unit);
			ret = steer(n + 1);
		}
	}
	return ret ? ret : conn_open(&m->conn, m->fd, m->listener, PORT + n + 1);
}

static void member_close(struct member *m, int n)
{
	conn_close(&m->conn);
	close(m->fd);
	close(m->listener);
	if (m->fill.head) {
		munmap(m->fill.head, m->fill.len);
		sh("ethtool -N %s delete %d", nic_name(), n + 1);
	}
}

/* Sends @len bytes at @from, which arrive, and waits until they may be written again. */
static bool sends(int fd, struct conn *c, const char *from, size_t len)
{
	struct netgpu_socket_stats stats;
	size_t got = 0, sent = 0;
	long long end = now_ms() + 10000;
	char back[4096];

	while (got < len && now_ms() < end) {
		ssize_t n = 0;

		if (sent < len)
			n = send(c->ours, from + sent, len - sent, MSG_ZEROCOPY | MSG_DONTWAIT);
		if (n > 0)
			sent += n;
		store(&c->done.head->consumer, load(&c->done.head->producer));
		n = recv(c->theirs, back, sizeof(back), MSG_DONTWAIT);
		if (n > 0) {
			if (memcmp(back, from + got, n))
				return false;
			got += n;
		}
	}
	return got == len && WAIT_FOR((ng_socket_stats(fd, c->id, &stats), !stats.tx_pending), 5000);
}

FIXTURE(contexts)
{
	int area;
	char *mem;
	size_t len;
	long long pinned;
};

FIXTURE_SETUP(contexts)
{
	self->pinned = pinned_pages();
	self->len = CONTEXTS * PART * buffer_size();
	/* Shared, for the processes. */
	self->mem = mmap(NULL, self->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->mem);
	self->area = ng_open();
	ASSERT_EQ(1, ng_add_region(self->area, self->mem, self->len));
	ASSERT_EQ(0, nic_prepare(1));
}

FIXTURE_TEARDOWN(contexts)
{
	close(self->area);
	munmap(self->mem, self->len);
	nic_restore();
	EXPECT_TRUE(nic_works());
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
}

TEST_F_TIMEOUT(contexts, sixteen_on_a_device, 60)
{
	static struct member m[CONTEXTS];
	size_t i;
	int n;

	for (n = 0; n < CONTEXTS; n++)
		ASSERT_EQ(0, member_open(&m[n], self->area, self->mem, n)) TH_LOG("context %d", n);
	/* Memory that is one context's to receive into is another's to send from, side by side. */
	for (n = 0; n < CONTEXTS; n++) {
		for (i = 0; i < 100000; i++)
			if (!m[n].receives)
				m[n].mem[i] = pattern(i + n);
		EXPECT_TRUE(m[n].receives ? stream(&m[n].conn, 1, &m[n].fill, 1, 1 << 18) :
					    sends(m[n].fd, &m[n].conn, m[n].mem, 100000)) TH_LOG("context %d", n);
	}
	/* What one has received, the others can send on: the region is attached to all. */
	EXPECT_TRUE(sends(m[CONTEXTS - 1].fd, &m[CONTEXTS - 1].conn, m[CONTEXTS - 2].mem, 100000));
	for (n = 0; n < CONTEXTS; n += 2)
		member_close(&m[n], n);
	for (n = 1; n < QUEUES; n += 2)
		EXPECT_TRUE(stream(&m[n].conn, 1, &m[n].fill, 1, 1 << 19)) TH_LOG("context %d", n);
	for (n = 1; n < CONTEXTS; n += 2)
		member_close(&m[n], n);
}

/* The area is inherited, contexts are each process' own; one that is killed takes nothing from the others. */
TEST_F_TIMEOUT(contexts, of_processes, 60)
{
	enum { PROCESSES = 6 };
	pid_t children[PROCESSES];
	int n, status, ready[2], go[2];
	char byte;

	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(go));
	for (n = 0; n < PROCESSES; n++) {
		children[n] = fork();
		if (!children[n]) {
			struct member m;

			close(go[1]);
			if (member_open(&m, self->area, self->mem, n) || !stream(&m.conn, 1, &m.fill, 1, 1 << 17) ||
			    write(ready[1], "", 1) != 1 || read(go[0], &byte, 1) != 0)
				_exit(1);
			_exit(stream(&m.conn, 1, &m.fill, 1, 1 << 19) ? 0 : 2);
		}
	}
	close(go[0]);
	for (n = 0; n < PROCESSES; n++)
		ASSERT_EQ(1, read(ready[0], &byte, 1));
	ASSERT_EQ(0, kill(children[0], SIGKILL));
	ASSERT_EQ(children[0], waitpid(children[0], &status, 0));
	close(go[1]);
	for (n = 1; n < PROCESSES; n++) {
		ASSERT_EQ(children[n], waitpid(children[n], &status, 0));
		EXPECT_EQ(0, status) TH_LOG("process %d", n);
	}
	for (n = 0; n < PROCESSES; n++)
		sh("ethtool -N %s delete %d", nic_name(), n + 1);
}

/* netgpu on both ends of the cable, in one process, with one area: both receive without a copy what both send without one. */
static void in_namespace(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, CLONE_NEWNET)) {
		perror(path);
		abort();
	}
	close(fd);
}

struct side {
	int fd;
	char *mem;
	char *from;
	struct netgpu_open_queue queue;
	struct view fill;
	struct conn conn;
	size_t sent;
};

static int side_open(struct side *s, int area, char *mem, const char *nic, int queue, int sock)
{
	size_t unit = buffer_size(), i;
	struct netgpu_attach_socket a;
	int ret;

	s->fd = ng_open();
	s->mem = mem;
	s->from = mem + PART * unit;
	ret = ng_bind(s->fd, if_nametoindex(nic));
	ret = ret ? ret : ng_attach_region(s->fd, area, 1);
	ret = ret ? ret : ng_open_queue(s->fd, queue, 2 * PART, &s->queue);
	if (ret)
		return ret;
	map(&s->fill, s->fd, s->queue.mmap_offset, s->queue.mmap_len, 2 * PART);
	for (i = 0; i < PART; i++)
		give(&s->fill, (uintptr_t)mem + i * unit);
	ret = ng_attach_socket(s->fd, sock, RX_ENTRIES, RX_ENTRIES, &a);
	if (ret)
		return ret;
	s->conn = (struct conn){ .ours = sock, .theirs = -1 };
	conn_map(&s->conn, s->fd, &a);
	for (i = 0; i < PART * unit; i++)
		s->from[i] = pattern(i);
	return 0;
}

TEST_F_TIMEOUT(contexts, on_both_devices, 60)
{
	const size_t total = PART * buffer_size();
	const char *peer = getenv("NETGPU_PEER_DEV");
	struct netgpu_socket_stats stats;
	struct sockaddr_in local;
	socklen_t len = sizeof(local);
	struct side s[2] = {};
	int pair[2], home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), i;
	long long end = now_ms() + 20000;

	ASSERT_EQ(0, tcp_pair(AF_INET, pair));
	ASSERT_EQ(0, getsockname(pair[0], (struct sockaddr *)&local, &len));
	ASSERT_EQ(0, sh("ethtool -N %s flow-type tcp4 dst-port %u action 1 loc 1", nic_name(), ntohs(local.sin_port)));
	in_namespace(getenv("NETGPU_PEER_NS"));
	ASSERT_EQ(0, sh("ethtool -G %s tcp-data-split on && ethtool -X %s equal 1", peer, peer));
	ASSERT_EQ(0, sh("ethtool -N %s flow-type tcp4 src-port %u action 1 loc 1", peer, ntohs(local.sin_port)));
	ASSERT_EQ(0, side_open(&s[1], self->area, self->mem + 2 * PART * buffer_size(), peer, 1, pair[1]));
	ASSERT_EQ(0, setns(home, CLONE_NEWNET));
	ASSERT_EQ(0, side_open(&s[0], self->area, self->mem, nic_name(), 1, pair[0]));
	/* One area, but what is mapped for one device is not the other's to send. */
	while ((s[0].conn.got < total || s[1].conn.got < total) && now_ms() < end)
		for (i = 0; i < 2; i++) {
			ssize_t n = 0;

			if (s[i].sent < total)
				n = send(pair[i], s[i].from + s[i].sent, total - s[i].sent < 30000 ? total - s[i].sent : 30000,
					 MSG_ZEROCOPY | MSG_DONTWAIT);
			if (n > 0)
				s[i].sent += n;
			ASSERT_TRUE(pull(&s[i].conn, &s[i].fill));
			store(&s[i].conn.done.head->consumer, load(&s[i].conn.done.head->producer));
		}
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(total, s[i].conn.got) TH_LOG("side %d sent %zu", i, s[i].sent);
		ASSERT_EQ(0, ng_socket_stats(s[i].fd, s[i].conn.id, &stats));
		EXPECT_EQ(total, stats.tx_zerocopy);
		EXPECT_LT(total / 2, stats.rx_zerocopy);
		conn_unmap(&s[i].conn);
		munmap(s[i].fill.head, s[i].fill.len);
		close(pair[i]);
		close(s[i].fd);
	}
	sh("ethtool -N %s delete 1", nic_name());
	in_namespace(getenv("NETGPU_PEER_NS"));
	sh("ethtool -N %s delete 1; ethtool -X %s default; ethtool -G %s tcp-data-split off", peer, peer, peer);
	ASSERT_EQ(0, setns(home, CLONE_NEWNET));
}

TEST_HARNESS_MAIN
