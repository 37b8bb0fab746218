// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Rings with data on them, filled and read as the contract says, and as it does not. Needs the ports. The other machine's
 * end of each connection is in this process too.
 */
#include "helpers.h"
#include "kselftest_harness.h"

#include <linux/bpf.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/wait.h>

FIXTURE(rings)
{
	struct receiver r;
	int queue;
};

FIXTURE_SETUP(rings)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	ASSERT_EQ(0, receiver_open(&self->r, self->queue, 7));
}

FIXTURE_TEARDOWN(rings)
{
	receiver_close(&self->r);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

TEST_F(rings, receive)
{
	struct netgpu_socket_stats stats;
	size_t total = 4 << 20;

	EXPECT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	EXPECT_EQ(total, stats.rx_zerocopy + stats.rx_copied);
	EXPECT_LT(0U, stats.rx_zerocopy);
}

/* Many sockets share the queue; one that nobody reads does not starve the others. */
TEST_F(rings, several_sockets)
{
	enum { OTHERS = 6 };
	struct netgpu_attach_socket a[OTHERS];
	struct view rx[OTHERS];
	int pairs[OTHERS][2], i;
	static char stuffing[1 << 16];
	long long quiet = now_ms() + 500;

	for (i = 0; i < OTHERS; i++) {
		struct sockaddr_in local;
		socklen_t len = sizeof(local);

		ASSERT_EQ(0, tcp_pair(AF_INET, pairs[i]));
		ASSERT_EQ(0, getsockname(pairs[i][0], (struct sockaddr *)&local, &len));
		ASSERT_EQ(0, sh("ethtool -N %s flow-type tcp4 dst-port %u action %d loc %d", nic_name(), ntohs(local.sin_port),
				self->queue, 10 + i));
		ASSERT_EQ(0, ng_attach_socket(self->r.fd, pairs[i][0], RING, 0, &a[i]));
		map(&rx[i], self->r.fd, a[i].rx_mmap_offset, a[i].rx_mmap_len, RING);
	}
	/* The first one is stuffed and left alone. */
	while (now_ms() < quiet)
		if (send(self->r.pair[1], stuffing, sizeof(stuffing), MSG_DONTWAIT) > 0)
			quiet = now_ms() + 500;
		else
			pause_for_others();
	for (i = 0; i < OTHERS; i++)
		EXPECT_EQ(1U << 20, transfer(pairs[i][0], pairs[i][1], &self->r.fill, &rx[i], 1 << 20)) TH_LOG("connection %d", i);
	for (i = 0; i < OTHERS; i++) {
		close(pairs[i][0]);
		close(pairs[i][1]);
		EXPECT_EQ(0, sh("ethtool -N %s delete %d", nic_name(), 10 + i));
	}
}

/* Entries lie in the region, each in one buffer, none empty. */
TEST_F(rings, entries_lie_in_buffers)
{
	struct netgpu_rx_entry e;
	size_t got = 0, total = 100000, unit = buffer_size();
	char *data = memory(total), byte;

	ASSERT_EQ((ssize_t)total, send(self->r.pair[1], data, total, 0));
	while (got < total) {
		ASSERT_TRUE(WAIT_FOR((recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT), take(&self->r.rx, &e)), 5000)) TH_LOG("after %zu bytes", got);
		EXPECT_LT(0U, e.len);
		EXPECT_LE((uintptr_t)self->r.mem, e.addr);
		EXPECT_GE((uintptr_t)self->r.mem + self->r.len, e.addr + e.len);
		EXPECT_EQ(e.addr / unit, (e.addr + e.len - 1) / unit);
		got += e.len;
		give(&self->r.fill, e.addr);
	}
	EXPECT_EQ(total, got);
}

TEST_F(rings, poll_and_end_of_stream)
{
	struct pollfd p = { .fd = self->r.pair[0], .events = POLLIN };
	struct netgpu_rx_entry e;
	char byte;

	EXPECT_EQ(-1, recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(0, poll(&p, 1, 0));
	ASSERT_EQ(5, send(self->r.pair[1], "hello", 5, 0));
	EXPECT_EQ(1, poll(&p, 1, 5000));
	EXPECT_EQ(POLLIN, p.revents & (POLLIN | POLLERR | POLLHUP));
	EXPECT_EQ(-1, recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	ASSERT_TRUE(take(&self->r.rx, &e));
	ASSERT_EQ(5U, e.len);
	EXPECT_EQ(0, memcmp((void *)(uintptr_t)e.addr, "hello", 5));
	EXPECT_EQ(0, poll(&p, 1, 0));
	shutdown(self->r.pair[1], SHUT_WR);
	EXPECT_EQ(1, poll(&p, 1, 5000));
	EXPECT_EQ(0, recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT));
}

#define TOO_MUCH	(256U << 20)

/* Sends the pattern until nothing more has gone for a second, or TOO_MUCH has. How many bytes. */
static size_t send_until_full(int fd)
{
	static char chunk[1 << 16];
	long long quiet = now_ms() + 1000;
	size_t sent = 0;

	while (now_ms() < quiet && sent < TOO_MUCH) {
		ssize_t n;

		pattern_fill(chunk, sent, sizeof(chunk));
		n = send(fd, chunk, sizeof(chunk), MSG_DONTWAIT);
		if (n > 0) {
			sent += n;
			quiet = now_ms() + 1000;
		} else {
			pause_for_others();
		}
	}
	return sent;
}

/* Takes the next @len bytes of the stream to @to, and gives their buffers back. How many came: fewer when none did for ten seconds. */
static size_t gather(struct receiver *r, char *to, size_t len)
{
	struct netgpu_rx_entry e;
	size_t n = 0;
	char byte;

	while (n < len) {
		if (!WAIT_FOR((recv(r->pair[0], &byte, 1, MSG_DONTWAIT), take(&r->rx, &e)), 10000) || e.len > len - n)
			break;
		memcpy(to + n, (void *)(uintptr_t)e.addr, e.len);
		n += e.len;
		give(&r->fill, e.addr);
	}
	return n;
}

/* Urgent bytes have their place in the stream, and are not taken out of it. */
TEST_F(rings, urgent_bytes)
{
	char got[8] = "";

	ASSERT_EQ(2, send(self->r.pair[1], "ab", 2, 0));
	ASSERT_EQ(1, send(self->r.pair[1], "c", 1, MSG_OOB));
	ASSERT_EQ(2, send(self->r.pair[1], "de", 2, 0));
	EXPECT_EQ(5U, gather(&self->r, got, 5));
	EXPECT_STREQ("abcde", got);
}

/* The same where the CPU cannot read the byte. */
TEST_F(rings, urgent_byte_by_dma)
{
	char *chunk = memory(8000), *got = memory(8000);

	pattern_fill(chunk, 0, 8000);
	ASSERT_EQ(4000, send(self->r.pair[1], chunk, 4000, MSG_OOB));
	ASSERT_EQ(4000, send(self->r.pair[1], chunk + 4000, 4000, 0));
	EXPECT_EQ(8000U, gather(&self->r, got, 8000));
	EXPECT_EQ(8000U, pattern_match(got, 0, 8000));
}

/* A counter of /proc/net/netstat. */
static long long netstat(const char *name)
{
	char names[16384], values[16384], *n, *v, *at_n, *at_v;
	FILE *f = fopen("/proc/net/netstat", "r");
	long long found = -1;

	while (f && fgets(names, sizeof(names), f) && fgets(values, sizeof(values), f)) {
		n = strtok_r(names, " \n", &at_n);
		v = strtok_r(values, " \n", &at_v);
		while (n && v) {
			if (!strcmp(n, name))
				found = atoll(v);
			n = strtok_r(NULL, " \n", &at_n);
			v = strtok_r(NULL, " \n", &at_v);
		}
	}
	if (f)
		fclose(f);
	return found;
}

/* What comes signed, where the CPU cannot read it, is dropped as if its signature were wrong; it comes again when nothing is signed. */
TEST_F(rings, signed_afterwards)
{
	long long before = netstat("TCPMD5Failure");
	struct netgpu_socket_stats stats;
	char *chunk = memory(8000), *got = memory(8000);

	pattern_fill(chunk, 0, 8000);
	ASSERT_EQ(0, sign(self->r.pair[0], true));
	ASSERT_EQ(0, sign(self->r.pair[1], true));
	ASSERT_EQ(8000, send(self->r.pair[1], chunk, 8000, 0));
	EXPECT_TRUE(WAIT_FOR(netstat("TCPMD5Failure") > before, 5000));
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	EXPECT_EQ(0U, stats.rx_zerocopy);
	ASSERT_EQ(0, sign(self->r.pair[1], false));
	ASSERT_EQ(0, sign(self->r.pair[0], false));
	EXPECT_EQ(8000U, gather(&self->r, got, 8000));
	EXPECT_EQ(8000U, pattern_match(got, 0, 8000));
}

/* A link that holds a program which sends a clone of each packet that comes to device @index, and has the packet get a head of its own. */
static int mirror(unsigned int index)
{
	struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_2, .imm = index },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3, .imm = 0 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_clone_redirect },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = TCX_PASS },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr program = { .prog_type = BPF_PROG_TYPE_SCHED_CLS };

	return bpf_attach(&program, insns, ARRAY_LEN(insns), BPF_TCX_INGRESS, nic_index(), 0);
}

/*
 * Once the clones have gone, nothing keeps the NIC from filling the buffers anew: what was in them before cannot be delivered, and what is
 * in them now is not this connection's next bytes.
 */
static void mirrored(struct __test_metadata *_metadata, FIXTURE_DATA(rings) *self, unsigned int index)
{
	struct netgpu_attach_socket a;
	struct netgpu_rx_entry e;
	struct sockaddr_in local;
	socklen_t len = sizeof(local);
	size_t sent, got = 0;
	int link, other[2];
	struct view rx;
	char byte;

	ASSERT_EQ(0, tcp_pair(AF_INET, other));
	link = mirror(index);
	ASSERT_LE(0, link) TH_LOG("%s", strerror(-link));
	sent = send_until_full(self->r.pair[1]);
	ASSERT_GT(TOO_MUCH, sent) TH_LOG("the sender never stops");
	close(link);
	EXPECT_TRUE(WAIT_FOR(recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT) < 0 && errno == EFAULT, 5000));
	while (take(&self->r.rx, &e)) {
		ASSERT_EQ(e.len, pattern_match((void *)(uintptr_t)e.addr, got, e.len)) TH_LOG("after %zu bytes", got);
		got += e.len;
		give(&self->r.fill, e.addr);
	}
	EXPECT_GT(sent, got);
	/* Others get what is theirs in the same buffers. */
	ASSERT_EQ(0, getsockname(other[0], (struct sockaddr *)&local, &len));
	ASSERT_EQ(0, sh("ethtool -N %s flow-type tcp4 dst-port %u action %d loc 10", nic_name(), ntohs(local.sin_port), self->queue));
	ASSERT_EQ(0, ng_attach_socket(self->r.fd, other[0], RING, 0, &a));
	map(&rx, self->r.fd, a.rx_mmap_offset, a.rx_mmap_len, RING);
	EXPECT_EQ(4U << 20, transfer(other[0], other[1], &self->r.fill, &rx, 4 << 20));
	close(other[0]);
	close(other[1]);
	EXPECT_EQ(0, sh("ethtool -N %s delete 10", nic_name()));
}

/* To a device that may not send what they are: the clones go at once. */
TEST_F(rings, mirrored)
{
	mirrored(_metadata, self, if_nametoindex("lo"));
}

/* To the NIC, whose address they have: it receives the clones again, and again, along with what the other machine sends. */
TEST_F(rings, mirrored_to_the_nic)
{
	mirrored(_metadata, self, nic_index());
}

/* A reader that holds its share gets no more until it has given some back. */
TEST_F(rings, share_of_buffers)
{
	static struct netgpu_rx_entry held[16 * BUFFERS];
	struct pollfd p = { .fd = self->r.pair[0], .events = POLLIN };
	bool seen[BUFFERS] = {};
	struct netgpu_rx_entry e;
	unsigned int n = 0, buffers = 0, i;
	static char chunk[1 << 16];
	long long quiet = now_ms() + 1000;
	char byte;

	while (now_ms() < quiet) {
		bool moved = send(self->r.pair[1], chunk, sizeof(chunk), MSG_DONTWAIT) > 0;

		recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT);
		while (take(&self->r.rx, &e)) {
			i = (e.addr - (uintptr_t)self->r.mem) / buffer_size();
			ASSERT_GT((unsigned int)BUFFERS, i);
			buffers += !seen[i];
			seen[i] = true;
			ASSERT_GT(ARRAY_LEN(held), n);
			held[n++] = e;
			moved = true;
		}
		if (moved)
			quiet = now_ms() + 1000;
		else
			pause_for_others();
	}
	/* Half of what was donated, for a single socket. */
	EXPECT_LT(0U, buffers);
	EXPECT_GE(BUFFERS / 2U, buffers);
	/* There is more. */
	EXPECT_EQ(1, poll(&p, 1, 0));
	for (i = 0; i < n; i++)
		give(&self->r.fill, held[i].addr);
	EXPECT_TRUE(WAIT_FOR((recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT), take(&self->r.rx, &e)), 5000));
}

TEST_F(rings, reset_is_reported)
{
	struct linger now = { 1, 0 };
	struct pollfd p = { .fd = self->r.pair[0], .events = POLLIN };
	char byte;

	ASSERT_EQ(0, setsockopt(self->r.pair[1], SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
	close(self->r.pair[1]);
	self->r.pair[1] = -1;
	EXPECT_EQ(1, poll(&p, 1, 5000));
	EXPECT_EQ(-1, recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(ECONNRESET, errno);
}

/* A reader that takes nothing: the ring fills, the sender stops, nothing is lost. */
TEST_F(rings, full_ring_stops_the_sender)
{
	struct netgpu_socket_stats stats;
	size_t sent, got = 0;
	struct netgpu_rx_entry e;
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	char byte;

	sent = send_until_full(self->r.pair[1]);
	ASSERT_GT(TOO_MUCH, sent) TH_LOG("the sender never stops");
	EXPECT_GE((uint32_t)RING, load(&self->r.rx.head->producer));
	EXPECT_NE(0U, load(&self->r.rx.head->flags) & NETGPU_RING_STALLED);
	/* Asking in vain is no news for who waits. */
	ASSERT_LE(0, epoll);
	ASSERT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, self->r.pair[0], &event));
	EXPECT_EQ(1, epoll_wait(epoll, &event, 1, 1000));
	EXPECT_EQ(0, epoll_wait(epoll, &event, 1, 0));
	EXPECT_EQ(-1, recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(0, epoll_wait(epoll, &event, 1, 0));
	close(epoll);
	while (got < sent) {
		ASSERT_TRUE(WAIT_FOR((recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT), take(&self->r.rx, &e)), 5000)) TH_LOG("after %zu of %zu bytes", got, sent);
		ASSERT_EQ(e.len, pattern_match((void *)(uintptr_t)e.addr, got, e.len));
		got += e.len;
		give(&self->r.fill, e.addr);
	}
	EXPECT_EQ(sent, got);
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	EXPECT_LT(0U, stats.rx_stalled);
}

/* Entries that name no buffer are counted. */
TEST_F(rings, fill_outside)
{
	uint64_t end = (uintptr_t)self->r.mem + self->r.len;
	uint64_t bad[] = { 0, 1, ~0ULL, end, (uintptr_t)self->r.mem - 1, 0xffff888000000000, 1ULL << 63, (uintptr_t)&bad };
	struct netgpu_queue_stats stats;
	size_t i;

	for (i = 0; i < ARRAY_LEN(bad); i++)
		ASSERT_TRUE(give(&self->r.fill, bad[i]));
	EXPECT_EQ(1U << 20, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 1 << 20));
	EXPECT_TRUE(WAIT_FOR((ng_queue_stats(self->r.fd, self->r.queue_id, &stats), stats.bad_addr == ARRAY_LEN(bad)), 5000))
		TH_LOG("counted %llu", (unsigned long long)stats.bad_addr);
	EXPECT_EQ(0U, stats.bad_return);
}

/* recv(2) takes back all that is on the fill ring, however much, or whoever waits for what is behind would not be told. */
TEST_F(rings, all_is_taken_back)
{
	enum { ENTRIES = 1 << 16 };
	struct netgpu_open_queue q;
	struct view fill;
	char byte;

	ASSERT_EQ(0, ng_close_queue(self->r.fd, self->r.queue_id));
	ASSERT_EQ(0, ng_open_queue(self->r.fd, self->queue, ENTRIES, &q));
	self->r.queue_id = q.id;
	map(&fill, self->r.fd, q.mmap_offset, q.mmap_len, ENTRIES);
	/* Of zeros, which name no buffer. */
	store(&fill.head->producer, ENTRIES);
	EXPECT_EQ(-1, recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ((uint32_t)ENTRIES, load(&fill.head->consumer));
}

/* Buffers that the kernel has already are counted, and not taken twice. */
TEST_F(rings, returned_twice)
{
	struct netgpu_queue_stats stats;
	unsigned int i;

	/* Every buffer was donated by the fixture; here they come once more, by some other address inside. */
	for (i = 0; i < BUFFERS; i++)
		ASSERT_TRUE(give(&self->r.fill, (uintptr_t)self->r.mem + i * self->r.len / BUFFERS + i));
	EXPECT_EQ(4U << 20, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 4 << 20));
	EXPECT_TRUE(WAIT_FOR((ng_queue_stats(self->r.fd, self->r.queue_id, &stats), stats.bad_return == BUFFERS), 5000))
		TH_LOG("counted %llu", (unsigned long long)stats.bad_return);
	EXPECT_EQ(0U, stats.bad_addr);
	EXPECT_EQ(4U << 20, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 4 << 20));
}

/*
 * Indices that lie. What becomes of this user's data is this user's affair; another connection, of another context on
 * another queue, goes on.
 */
static bool other_context(int queue)
{
	struct receiver r;
	bool good = !receiver_open(&r, queue, 0) && transfer(r.pair[0], r.pair[1], &r.fill, &r.rx, 1 << 20) == 1 << 20;

	receiver_close(&r);
	return good;
}

static const uint32_t lies[] = { 1, FILL - 1, FILL, FILL + 1, 1U << 30, 0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe, 0xffffffff };

TEST_F(rings, hostile_fill_producer)
{
	struct netgpu_queue_stats stats;
	size_t i;
	char data[4096] = {};

	ASSERT_EQ(1U << 20, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 1 << 20));
	for (i = 0; i < ARRAY_LEN(lies); i++) {
		long long end = now_ms() + 50;

		store(&self->r.fill.head->producer, self->r.fill.next + lies[i]);
		while (now_ms() < end) {
			send(self->r.pair[1], data, sizeof(data), MSG_DONTWAIT);
			recv(self->r.pair[0], data, 1, MSG_DONTWAIT);
		}
		EXPECT_EQ(0, ng_queue_stats(self->r.fd, self->r.queue_id, &stats));
	}
	EXPECT_TRUE(other_context(self->queue - 1));
}

TEST_F(rings, hostile_fill_consumer)
{
	size_t i;

	/* The kernel's word: writing it changes nothing but what this program reads there. */
	for (i = 0; i < ARRAY_LEN(lies); i++) {
		uint32_t was = load(&self->r.fill.head->consumer);

		store(&self->r.fill.head->consumer, was + lies[i]);
		store(&self->r.fill.head->flags, 0xffffffff);
		store(&self->r.fill.head->consumer, was);
		EXPECT_EQ(1U << 18, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 1 << 18));
	}
}

TEST_F(rings, hostile_rx_consumer)
{
	struct netgpu_socket_stats stats;
	char data[4096] = {};
	size_t i;

	for (i = 0; i < ARRAY_LEN(lies); i++) {
		long long end = now_ms() + 50;

		store(&self->r.rx.head->consumer, self->r.rx.next + lies[i]);
		while (now_ms() < end) {
			send(self->r.pair[1], data, sizeof(data), MSG_DONTWAIT);
			recv(self->r.pair[0], data, 1, MSG_DONTWAIT);
		}
		EXPECT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	}
	EXPECT_TRUE(other_context(self->queue - 1));
}

/* The kernel's words on the rx ring, and all entries, scribbled over while data flows. */
TEST_F(rings, scribbling)
{
	uint32_t seed = 12345;
	long long end = now_ms() + 2000;
	char data[4096] = {};
	size_t i;

	while (now_ms() < end) {
		uint32_t *rx = (uint32_t *)self->r.rx.head, *fill = (uint32_t *)self->r.fill.head;

		for (i = 0; i < 64; i++) {
			seed = seed * 1664525 + 1013904223;
			store(&rx[(seed >> 8) % (self->r.rx.len / 4)], seed);
			seed = seed * 1664525 + 1013904223;
			store(&fill[(seed >> 8) % (self->r.fill.len / 4)], seed);
		}
		send(self->r.pair[1], data, sizeof(data), MSG_DONTWAIT);
		recv(self->r.pair[0], data, 1, MSG_DONTWAIT);
	}
	EXPECT_TRUE(other_context(self->queue - 1));
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
	ASSERT_EQ(0, ng_attach_socket(self->r.fd, pair[0], 0, 16, &a));
	map(&done, self->r.fd, a.completion_mmap_offset, a.completion_mmap_len, 16);
	for (i = 0; i < ARRAY_LEN(lies); i++) {
		int n;

		store(&done.head->consumer, lies[i]);
		store(&done.head->producer, lies[i] * 3);
		for (n = 0; n < 40; n++)
			send(pair[0], self->r.mem, 1000, MSG_ZEROCOPY | MSG_DONTWAIT);
		while (recv(pair[1], sink, sizeof(sink), MSG_DONTWAIT) > 0)
			;
	}
	EXPECT_TRUE(WAIT_FOR((recv(pair[1], sink, sizeof(sink), MSG_DONTWAIT),
			      ng_socket_stats(self->r.fd, a.id, &stats), stats.tx_pending == 0), 10000))
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
	EXPECT_EQ(1U << 20, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 1 << 20));
}

/* The memory is unmapped by its owner while the NIC writes: no fault, and other memory is not touched. */
TEST_F(rings, region_unmapped_while_receiving)
{
	char *mem = self->r.mem, *again, data[4096] = { 1 };
	size_t len = self->r.len, i;
	long long end = now_ms() + 500;

	ASSERT_EQ(1U << 18, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 1 << 18));
	ASSERT_EQ(0, munmap(mem, len));
	again = mmap(mem, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	ASSERT_EQ(mem, again);
	while (now_ms() < end) {
		struct netgpu_rx_entry e;

		send(self->r.pair[1], data, sizeof(data), MSG_DONTWAIT);
		recv(self->r.pair[0], data, 1, MSG_DONTWAIT);
		while (take(&self->r.rx, &e))
			give(&self->r.fill, e.addr);
	}
	for (i = 0; i < len; i++)
		if (again[i])
			break;
	EXPECT_EQ(len, i) TH_LOG("byte %zu of the new memory was written", i);
}

TEST_HARNESS_MAIN
