// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Data in memory that is not this machine's: whatever it is, it serves as host memory does. Needs the ports, the GPU, and the stand-ins
 * for both of its drivers.
 *
 * NETGPU_TEST_REVOKES: how often each memory is taken back at any moment.
 */
#include "helpers.h"
#include "kselftest_harness.h"
#include "memory.h"

#include <sys/wait.h>

enum kind {
	UDMABUF,	/* a dma-buf of ordinary memory */
	DMABUF,		/* of the GPU */
	PERSISTENT,	/* the GPU's, pinned for good */
	REVOCABLE,	/* the GPU's, and gone when it is freed */
};

struct some {
	enum kind kind;
	int fd;		/* the dma-buf, or the driver's file */
	char *mem;
	char *view;	/* the same bytes in every process that is made of this one; NULL for udmabuf */
};

/* @len bytes, from @offset of the GPU's memory on where that can be chosen. */
static struct some some_open_at(enum kind kind, uint64_t offset, size_t len)
{
	struct some s = { .kind = kind };

	gpu_open();
	switch (kind) {
	case UDMABUF:
		s.fd = udmabuf(len, &s.mem);
		return s;
	case DMABUF:
		s.fd = gpu_export(offset, len, 0);
		s.mem = bar + offset;
		break;
	default:
		s.fd = nvidia_open();
		if (!nvidia_alloc(s.fd, 3 * PAGE))
			abort();
		s.mem = nvidia_alloc_at(s.fd, len, &offset);
	}
	if (s.fd < 0 || !s.mem)
		abort();
	s.view = bar + offset;
	return s;
}

/* @len bytes, not from the start of the GPU's memory. */
static struct some some_open(enum kind kind, size_t len)
{
	return some_open_at(kind, LEN, len);
}

/* For receiver_open_on(). */
static int some_dmabuf(const struct some *s)
{
	return s->kind <= DMABUF ? s->fd : CUDA_MEMORY;
}

/* Adds @len bytes from @offset on. */
static int some_add(const struct some *s, int area, size_t offset, size_t len)
{
	int ret;

	if (s->kind <= DMABUF)
		return ng_add_dmabuf(area, s->mem + offset, len, s->fd, offset);
	set(PARAMETER("persistent"), s->kind == PERSISTENT ? "Y" : "N");
	ret = ng_add_cuda(area, s->mem + offset, len);
	set(PARAMETER("persistent"), "Y");
	return ret;
}

static int some_receiver(const struct some *s, struct receiver *r, int queue)
{
	int ret;

	if (s->kind == REVOCABLE)
		set(PARAMETER("persistent"), "N");
	ret = receiver_open_on(r, queue, RULE, s->mem, some_dmabuf(s));
	if (s->kind == REVOCABLE)
		set(PARAMETER("persistent"), "Y");
	return ret;
}

/* 0 when nobody uses it any more. */
static int some_take_back(const struct some *s)
{
	return s->kind == DMABUF ? gpu_revoke(s->fd) : nvidia_free(s->fd, s->mem);
}

static bool some_unused(const struct some *s)
{
	if (s->kind == UDMABUF)
		return true;
	return s->kind == DMABUF ? gpu_unused(s->fd) : nvidia_unused();
}

/* Sends the pattern, and does not wait for who receives. */
struct stream {
	int fd;
	atomic_bool stop;
	pthread_t thread;
};

static void *keep_streaming(void *arg)
{
	struct stream *s = arg;
	char chunk[16384];
	size_t sent = 0;

	while (!atomic_load(&s->stop)) {
		ssize_t n;

		pattern_fill(chunk, sent, sizeof(chunk));
		n = send(s->fd, chunk, sizeof(chunk), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			sent += n;
		else
			usleep(200);
	}
	return NULL;
}

static void stream_start(struct stream *s, int fd)
{
	*s = (struct stream){ .fd = fd };
	if (pthread_create(&s->thread, NULL, keep_streaming, s))
		abort();
}

static void stream_stop(struct stream *s)
{
	atomic_store(&s->stop, true);
	pthread_join(s->thread, NULL);
}

/*
 * Receives the pattern from byte @got on until @total bytes, giving every buffer back; how far it came. The bytes at r->mem are seen
 * at @view. @seen gets the address of each entry.
 */
static size_t receive(struct receiver *r, const char *view, size_t got, size_t total, void (*seen)(uint64_t addr))
{
	long long end = now_ms() + 5000;
	struct netgpu_rx_entry e;
	size_t right;
	char byte;

	while (got < total && now_ms() < end) {
		bool idle = true;

		while (take(&r->rx, &e)) {
			const char *at = (char *)(uintptr_t)e.addr;

			if (at >= r->mem && at < r->mem + r->len)
				at = view + (at - r->mem);
			right = pattern_match(at, got, e.len);
			got += right;
			if (right != e.len) {
				fprintf(stderr, "# byte %zu is wrong\n", got);
				return got;
			}
			end = now_ms() + 5000;
			if (seen)
				seen(e.addr);
			while (!give(&r->fill, e.addr) && now_ms() < end)
				recv(r->pair[0], &byte, 1, MSG_DONTWAIT);
			idle = false;
		}
		if (recv(r->pair[0], &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNABORTED)
			break;
		if (idle)
			pause_for_others();
	}
	return got;
}

/* The error of recv(2), or 0. */
static int recv_error(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 ? errno : 0;
}

FIXTURE(data)
{
	int queue;
};

FIXTURE_VARIANT(data)
{
	enum kind kind;
};

FIXTURE_VARIANT_ADD(data, udmabuf) { .kind = UDMABUF };
FIXTURE_VARIANT_ADD(data, dmabuf) { .kind = DMABUF };
FIXTURE_VARIANT_ADD(data, persistent) { .kind = PERSISTENT };
FIXTURE_VARIANT_ADD(data, revocable) { .kind = REVOCABLE };

FIXTURE_SETUP(data)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	gpu_open();
}

FIXTURE_TEARDOWN(data)
{
	EXPECT_TRUE(WAIT_FOR(nvidia_unused(), 5000));
	nic_restore();
	EXPECT_TRUE(nic_works());
}

/* Many times through all buffers. Our packets have timestamps as their only option: the rest of the header's room is payload. */
TEST_F_TIMEOUT(data, receive, 120)
{
	struct some some = some_open(variant->kind, LEN);
	struct netgpu_socket_stats stats;
	size_t total = 4 << 20;
	struct receiver r;

	ASSERT_EQ(0, some_receiver(&some, &r, self->queue));
	ASSERT_EQ(total, transfer(r.pair[0], r.pair[1], &r.fill, &r.rx, total));
	ASSERT_EQ(0, ng_socket_stats(r.fd, r.socket_id, &stats));
	EXPECT_EQ(total, stats.rx_zerocopy + stats.rx_copied);
	EXPECT_LE(stats.rx_copied, total / 20);
	receiver_close(&r);
	EXPECT_TRUE(WAIT_FOR(some_unused(&some), 5000));
	close(some.fd);
}

/* Through a queue that is not ours: the CPU writes all of it. */
TEST_F(data, receive_by_copy)
{
	struct some some = some_open(variant->kind, LEN);
	struct netgpu_socket_stats stats;
	size_t total = 1 << 20;
	struct receiver r;

	ASSERT_EQ(0, some_receiver(&some, &r, self->queue));
	ASSERT_EQ(0, sh("ethtool -N %s delete %d", nic_name(), RULE));
	r.rule = 0;
	ASSERT_EQ(total, transfer(r.pair[0], r.pair[1], &r.fill, &r.rx, total));
	ASSERT_EQ(0, ng_socket_stats(r.fd, r.socket_id, &stats));
	EXPECT_EQ(total, stats.rx_copied);
	receiver_close(&r);
	close(some.fd);
}

TEST_F(data, send)
{
	struct some some = some_open(variant->kind, LEN);
	struct timeval patience = { .tv_sec = 10 };
	int pair[2], area = ng_open(), fd = ng_open();
	struct netgpu_socket_stats stats;
	struct netgpu_attach_socket a;
	static char got[1 << 16];	/* fits in the buffers of both ends */
	size_t done, i;

	/* A context that only sends. */
	ASSERT_EQ(1, some_add(&some, area, 0, LEN));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	ASSERT_EQ(0, ng_attach_region(fd, area, 1));
	ASSERT_EQ(0, tcp_pair(AF_INET6, pair));
	ASSERT_EQ(0, setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	ASSERT_EQ(0, ng_attach_socket(fd, pair[0], 0, 256, &a));
	for (i = 0; i < sizeof(got); i++)
		((volatile char *)some.mem)[4097 + i] = pattern(i);
	for (done = 0; done < sizeof(got);) {
		ssize_t n = send(pair[0], some.mem + 4097 + done, sizeof(got) - done, MSG_ZEROCOPY | MSG_NOSIGNAL);

		ASSERT_LT(0, n) TH_LOG("%s", strerror(errno));
		done += n;
	}
	for (done = 0; done < sizeof(got);) {
		ssize_t n = recv(pair[1], got + done, sizeof(got) - done, 0);

		ASSERT_LT(0, n);
		done += n;
	}
	for (i = 0; i < sizeof(got) && got[i] == pattern(i); i++)
		;
	EXPECT_EQ(sizeof(got), i);
	EXPECT_TRUE(WAIT_FOR(!ng_socket_stats(fd, a.id, &stats) && !stats.tx_pending, 5000));
	EXPECT_EQ(sizeof(got), stats.tx_zerocopy);
	EXPECT_EQ(0U, stats.tx_copied);
	/* A byte outside. */
	EXPECT_EQ(-1, send(pair[0], some.mem + LEN - 1, 2, MSG_ZEROCOPY | MSG_NOSIGNAL));
	EXPECT_EQ(EFAULT, errno);
	close(pair[0]);
	close(pair[1]);
	close(fd);
	close(area);
	close(some.fd);
}

/* A context of 100 regions, every second of them of the host. */

#define REGIONS	100
#define PIECE	600
/* Each region has all of its dma-buf mapped, and the DMA API's debugging knows of seven mappings of the same memory. */
#define SHARED	7
#define SOMES	((REGIONS / 2 + SHARED - 1) / SHARED)

static uint64_t region_start[REGIONS];
static bool region_used[REGIONS];

static void region_seen(uint64_t addr)
{
	int i;

	for (i = 0; i < REGIONS; i++)
		if (addr >= region_start[i] && addr - region_start[i] < PAGE)
			region_used[i] = true;
}

TEST_F_TIMEOUT(data, hundred_regions, 120)
{
	struct some somes[SOMES];
	char *host = memory(REGIONS / 2 * PAGE);
	int area = ng_open(), i;
	size_t got, unit = buffer_size(), at;
	struct netgpu_attach_socket a;
	struct netgpu_open_queue q;
	struct sockaddr_in local;
	socklen_t len = sizeof(local);
	struct iovec iov[REGIONS];
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = REGIONS };
	static char sent[REGIONS * PIECE];
	struct netgpu_context_stats context;
	struct netgpu_socket_stats stats;
	unsigned int used[2] = {};
	struct stream stream;
	struct receiver r = { .area = area, .fd = ng_open(), .dmabuf = CUDA_MEMORY };

	ASSERT_EQ(0, ng_bind(r.fd, nic_index()));
	for (i = 0; i < SOMES; i++)
		somes[i] = some_open_at(variant->kind, (i + 1) * SHARED * PAGE, SHARED * PAGE);
	for (i = 0; i < REGIONS; i++) {
		struct some *some = &somes[i / 2 / SHARED];
		char *mem = i % 2 ? some->mem + i / 2 % SHARED * PAGE : host + i / 2 * PAGE;

		if (i % 2) {
			ASSERT_EQ(i + 1, some_add(some, area, mem - some->mem, PAGE));
		} else {
			ASSERT_EQ(i + 1, ng_add_region(area, mem, PAGE));
		}
		ASSERT_EQ(0, ng_attach_region(r.fd, area, i + 1)) TH_LOG("region %d", i);
		region_start[i] = (uintptr_t)mem;
	}
	/* With room for all of them: what has to be taken off it before goes to the NIC in the order of addresses. */
	ASSERT_EQ(0, ng_open_queue(r.fd, self->queue, 4 * FILL, &q));
	map(&r.fill, r.fd, q.mmap_offset, q.mmap_len, 4 * FILL);
	ASSERT_EQ(0, tcp_pair(AF_INET, r.pair));
	ASSERT_EQ(0, getsockname(r.pair[0], (struct sockaddr *)&local, &len));
	ASSERT_EQ(0, sh("ethtool -N %s flow-type tcp4 dst-port %u action %d loc %d", nic_name(), ntohs(local.sin_port), self->queue,
			RULE));
	r.rule = RULE;
	ASSERT_EQ(0, ng_attach_socket(r.fd, r.pair[0], RING, RING, &a));
	map(&r.rx, r.fd, a.rx_mmap_offset, a.rx_mmap_len, RING);
	/* Buffers of each region by turns, but for the first three. */
	for (at = 3 * unit; at < PAGE; at += unit)
		for (i = 0; i < REGIONS; i++)
			ASSERT_TRUE(give(&r.fill, region_start[i] + at));
	/* A message of some bytes of the others. */
	for (i = 0; i < REGIONS; i++) {
		iov[i] = (struct iovec){ (void *)(uintptr_t)(region_start[i] + 100 * i), PIECE };
		for (at = 0; at < PIECE; at++)
			((volatile char *)iov[i].iov_base)[at] = pattern(PIECE * i + at);
	}
	ASSERT_EQ(REGIONS * PIECE, sendmsg(r.pair[0], &msg, MSG_ZEROCOPY | MSG_NOSIGNAL)) TH_LOG("%s", strerror(errno));
	ASSERT_EQ(REGIONS * PIECE, recv(r.pair[1], sent, sizeof(sent), MSG_WAITALL));
	for (at = 0; at < sizeof(sent) && sent[at] == pattern(at); at++)
		;
	EXPECT_EQ(sizeof(sent), at);
	EXPECT_TRUE(WAIT_FOR(!ng_socket_stats(r.fd, a.id, &stats) && !stats.tx_pending, 5000));
	EXPECT_EQ(0U, stats.tx_copied);
	stream_start(&stream, r.pair[1]);
	got = receive(&r, NULL, 0, 4 << 20, region_seen);
	EXPECT_LE(4U << 20, got);
	/* Which of them the NIC gets is not ours to say. */
	for (i = 0; i < REGIONS; i++)
		used[i % 2] += region_used[i];
	TH_LOG("data came to %u regions of the host and to %u others", used[0], used[1]);
	EXPECT_LE(10U, used[0]);
	EXPECT_LE(10U, used[1]);
	if (variant->kind == DMABUF || variant->kind == REVOCABLE) {
		/* Fifty regions go. The stream ends where it comes to bytes that are gone; if it does not, it goes on in the others. */
		for (i = 0; i < SOMES; i++)
			EXPECT_EQ(0, some_take_back(&somes[i]));
		for (i = 0; i < SOMES; i++)
			EXPECT_TRUE(some_unused(&somes[i]));
		/* Counted when all is done, which may be after who took it back goes on. */
		EXPECT_TRUE(WAIT_FOR(!ng_context_stats(r.fd, &context) && context.revoked == REGIONS / 2, 5000));
		EXPECT_TRUE(receive(&r, NULL, got, got + (1 << 20), NULL) >= got + (1 << 20) || recv_error(r.pair[0]) == ECONNABORTED);
	}
	stream_stop(&stream);
	receiver_close(&r);
	for (i = 0; i < SOMES; i++)
		close(somes[i].fd);
	munmap(host, REGIONS / 2 * PAGE);
}

/* Handing over. */

struct handed {
	struct receiver r;
	struct some some;
	size_t got;
};

/* Opens everything, hands it over, receives a while and ends, with the stream going on. */
static int giver(int to, enum kind kind, int queue, const struct some *shared)
{
	struct handed handed = { .some = kind <= DMABUF ? *shared : some_open(kind, LEN) };
	struct receiver *r = &handed.r;

	if (some_receiver(&handed.some, r, queue))
		return 1;
	if (!send_fds(to, &handed, sizeof(handed), (int[3]){ r->fd, r->pair[0], r->pair[1] }, 3))
		return 1;
	handed.got = receive(r, r->mem, 0, 1 << 18, NULL);
	return handed.got < 1 << 18 || !send_fds(to, &handed, sizeof(handed), NULL, 0);
}

/* To another process, by its descriptors; what is pinned for its sake stays when the giver ends. What its GPU's driver frees does not. */
TEST_F_TIMEOUT(data, handed_over, 90)
{
	struct some shared = {};
	struct handed handed;
	struct stream stream;
	int pair[2], fds[3], status;
	size_t total = 4 << 20;
	pid_t child;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	if (variant->kind <= DMABUF)
		shared = some_open(variant->kind, LEN);
	child = fork();
	ASSERT_LE(0, child);
	if (!child)
		_exit(giver(pair[1], variant->kind, self->queue, &shared));
	close(pair[1]);
	ASSERT_TRUE(receive_fds(pair[0], &handed, sizeof(handed), fds, 3));
	stream_start(&stream, fds[2]);
	ASSERT_TRUE(receive_fds(pair[0], &handed, sizeof(handed), NULL, 0));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_EQ(0, status);
	handed.r.fd = fds[0];
	handed.r.pair[0] = fds[1];
	handed.r.pair[1] = fds[2];
	handed.r.area = -1;
	if (variant->kind == REVOCABLE) {
		/* It was the only memory: the socket is not the context's any more. */
		handed.r.fill.head = NULL;
		handed.r.rx.head = NULL;
		EXPECT_TRUE(WAIT_FOR(recv_error(handed.r.pair[0]) == ECONNABORTED, 5000));
	} else {
		const char *view = handed.some.view ? handed.some.view : handed.some.mem;

		map_again(&handed.r.fill, handed.r.fd);
		map_again(&handed.r.rx, handed.r.fd);
		EXPECT_LE(total, receive(&handed.r, view, handed.got, total, NULL));
	}
	stream_stop(&stream);
	receiver_close(&handed.r);
	if (variant->kind <= DMABUF)
		close(shared.fd);
	close(pair[0]);
}

/* Taking back at any moment. */

FIXTURE(storm)
{
	int queue;
};

FIXTURE_VARIANT(storm)
{
	enum kind kind;
};

FIXTURE_VARIANT_ADD(storm, dmabuf) { .kind = DMABUF };
FIXTURE_VARIANT_ADD(storm, revocable) { .kind = REVOCABLE };

FIXTURE_SETUP(storm)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	gpu_open();
}

FIXTURE_TEARDOWN(storm)
{
	nic_restore();
	EXPECT_TRUE(nic_works());
}

static void *take_back_soon(void *arg)
{
	usleep(rand() % 2000);
	return (void *)(intptr_t)some_take_back(arg);
}

/* While it is just being added and attached. */
static bool storm_attach(struct some *some)
{
	int area = ng_open(), fd = ng_open(), ret;
	pthread_t thread;
	void *taken;

	if (pthread_create(&thread, NULL, take_back_soon, some) || ng_bind(fd, nic_index()))
		abort();
	ret = some_add(some, area, 0, LEN);
	if (ret == 1)
		ret = ng_attach_region(fd, area, 1);
	pthread_join(thread, &taken);
	close(fd);
	close(area);
	if (taken || (ret && ret != -ENODEV && (ret != -EFAULT || some->kind == DMABUF)))
		fprintf(stderr, "# attached: %d, taken back: %d\n", ret, (int)(intptr_t)taken);
	return !taken && (!ret || ret == -ENODEV || (ret == -EFAULT && some->kind != DMABUF));
}

/* With traffic, and some of it with the context or the socket on its way out. */
static bool storm_traffic(struct some *some, int queue, int way)
{
	struct netgpu_rx_entry e;
	struct receiver r;
	struct traffic t;
	long long end;
	char byte;
	int taken;

	if (some_receiver(some, &r, queue))
		return false;
	traffic_start(&t, r.pair[1]);
	end = now_ms() + rand() % 50;
	while (now_ms() < end) {
		while (take(&r.rx, &e))
			give(&r.fill, e.addr);
		recv(r.pair[0], &byte, 1, MSG_DONTWAIT);
	}
	if (way == 1) {
		close(r.fd);
		r.fd = -1;
	} else if (way == 2) {
		close(r.pair[0]);
		r.pair[0] = -1;
	}
	taken = some_take_back(some);
	if (taken)
		fprintf(stderr, "# taken back: %d\n", taken);
	traffic_stop(&t);
	receiver_close(&r);
	return !taken;
}

TEST_F_TIMEOUT(storm, take_back, 36000)
{
	int rounds = getenv("NETGPU_TEST_REVOKES") ? atoi(getenv("NETGPU_TEST_REVOKES")) : 20, n;

	srand(1);
	for (n = 0; n < rounds; n++) {
		struct some some = some_open(variant->kind, LEN);

		ASSERT_TRUE(n % 4 == 3 ? storm_attach(&some) : storm_traffic(&some, self->queue, n % 4)) TH_LOG("round %d", n);
		ASSERT_TRUE(some_unused(&some)) TH_LOG("round %d", n);
		close(some.fd);
	}
}

/* While packets have bytes of both of two memories, and the peer has none of them. The sends are done, and the other memory serves on. */
#define SENDS	60

TEST_F(storm, shared_packets)
{
	const struct netgpu_completion *entries;
	bool seen[SENDS] = {};
	struct netgpu_attach_socket a;
	int size = 4 << 20, one, i;

	/* That of the first bytes of each packet, and the other. */
	for (one = 0; one < 2; one++) {
		struct some somes[2] = { some_open_at(variant->kind, LEN, LEN), some_open_at(variant->kind, 2 * LEN, LEN) };
		int area = ng_open(), fd = ng_open(), pair[2];
		struct view done;
		char byte;

		ASSERT_EQ(0, ng_bind(fd, nic_index()));
		for (i = 0; i < 2; i++) {
			ASSERT_EQ(i + 1, some_add(&somes[i], area, 0, LEN));
			ASSERT_EQ(0, ng_attach_region(fd, area, i + 1));
		}
		ASSERT_EQ(0, tcp_pair(AF_INET, pair));
		ASSERT_EQ(0, ng_attach_socket(fd, pair[0], 0, 64, &a));
		map(&done, fd, a.completion_mmap_offset, a.completion_mmap_len, 64);
		entries = (void *)((char *)done.head + NETGPU_RING_ENTRIES);
		ASSERT_EQ(0, setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)));
		ASSERT_EQ(0, deaf(pair[1], true));
		for (i = 0; i < SENDS; i++)
			ASSERT_EQ(300, send(pair[0], somes[i % 2].mem + i * 5000, 300, MSG_ZEROCOPY | MSG_NOSIGNAL | MSG_MORE));
		EXPECT_EQ(0U, load(&done.head->producer));

		EXPECT_EQ(0, some_take_back(&somes[one]));
		if (variant->kind == DMABUF) {
			EXPECT_TRUE(some_unused(&somes[one]));
		}
		EXPECT_TRUE(WAIT_FOR(load(&done.head->producer) == SENDS, 5000)) TH_LOG("%u are done", load(&done.head->producer));
		for (i = 0; i < SENDS; i++) {
			ASSERT_GT(SENDS, entries[i].id);
			EXPECT_FALSE(seen[entries[i].id]);
			seen[entries[i].id] = true;
		}
		EXPECT_EQ(ECONNABORTED, recv_error(pair[0]));
		munmap(done.head, done.len);
		close(pair[0]);
		close(pair[1]);

		ASSERT_EQ(0, tcp_pair(AF_INET, pair));
		ASSERT_EQ(0, ng_attach_socket(fd, pair[0], 0, 64, &a));
		EXPECT_EQ(-1, send(pair[0], somes[one].mem, 1, MSG_ZEROCOPY | MSG_NOSIGNAL));
		EXPECT_EQ(EFAULT, errno);
		((volatile char *)somes[!one].mem)[0] = pattern(one);
		EXPECT_EQ(1, send(pair[0], somes[!one].mem, 1, MSG_ZEROCOPY | MSG_NOSIGNAL));
		EXPECT_EQ(1, recv(pair[1], &byte, 1, 0));
		EXPECT_EQ(pattern(one), byte);
		close(pair[0]);
		close(pair[1]);
		close(fd);
		close(area);
		EXPECT_TRUE(WAIT_FOR(some_unused(&somes[!one]), 5000));
		for (i = 0; i < 2; i++)
			close(somes[i].fd);
		memset(seen, 0, sizeof(seen));
	}
}

TEST_HARNESS_MAIN
