// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Everything that a program holds, let go in every order, at rest and with data arriving. Needs the ports.
 *
 * NETGPU_TEST_ORDERS is how many of the orders are tried, spread over all of them; without it, each one.
 */
#include "helpers.h"
#include "kselftest_harness.h"

#include <sys/wait.h>

/* What there is to let go. */
enum { SOCKET, CONTEXT, AREA, REGION_MEMORY, FILL_RING, RX_RING, THINGS };

#define ORDERS	(6 * 5 * 4 * 3 * 2)

/* So many orders are gone through before all of their memory must be back. */
#define TOGETHER	8

/* The order of number @n, 0 to ORDERS - 1, in Lehmer's code. */
static void order(unsigned int n, int out[THINGS])
{
	bool used[THINGS] = {};
	unsigned int i, j, left, weight = ORDERS;

	for (i = 0; i < THINGS; i++) {
		weight /= THINGS - i;
		left = n / weight;
		n %= weight;
		for (j = 0; used[j] || left--; j++)
			;
		used[j] = true;
		out[i] = j;
	}
}

static void let_go(struct receiver *r, int thing)
{
	switch (thing) {
	case SOCKET:
		close(r->pair[0]);
		r->pair[0] = -1;
		break;
	case CONTEXT:
		close(r->fd);
		r->fd = -1;
		break;
	case AREA:
		close(r->area);
		r->area = -1;
		break;
	case REGION_MEMORY:
		munmap(r->mem, r->len);
		r->mem = NULL;
		break;
	case FILL_RING:
		munmap(r->fill.head, r->fill.len);
		r->fill.head = NULL;
		break;
	case RX_RING:
		munmap(r->rx.head, r->rx.len);
		r->rx.head = NULL;
		break;
	}
}

static unsigned int orders_wanted(void)
{
	const char *text = getenv("NETGPU_TEST_ORDERS");
	unsigned int n = text ? atoi(text) : ORDERS;

	return n && n < ORDERS ? n : ORDERS;
}

FIXTURE(orders)
{
	int queue;
	long long pinned;
};

FIXTURE_VARIANT(orders)
{
	bool traffic;
};

FIXTURE_VARIANT_ADD(orders, at_rest)
{
	.traffic = false,
};

FIXTURE_VARIANT_ADD(orders, with_traffic)
{
	.traffic = true,
};

FIXTURE_SETUP(orders)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	self->pinned = pinned_pages();
}

FIXTURE_TEARDOWN(orders)
{
	nic_restore();
	EXPECT_TRUE(nic_works());
}

TEST_F_TIMEOUT(orders, every, 900)
{
	unsigned int wanted = orders_wanted(), n, i;
	int things[THINGS];

	for (n = 0; n < wanted; n++) {
		struct traffic t = {};
		struct receiver r;

		order((unsigned long long)n * ORDERS / wanted, things);
		ASSERT_EQ(0, receiver_open(&r, self->queue, 7)) TH_LOG("order %u", n);
		ASSERT_EQ(1U << 16, transfer(r.pair[0], r.pair[1], &r.fill, &r.rx, 1 << 16)) TH_LOG("order %u", n);
		if (variant->traffic) {
			traffic_start(&t, r.pair[1]);
			/* Data lies in the ring, and in the socket. */
			ASSERT_TRUE(WAIT_FOR(load(&r.rx.head->producer) - r.rx.next > 8, 5000));
		}
		for (i = 0; i < THINGS; i++)
			let_go(&r, things[i]);
		if (variant->traffic) {
			traffic_stop(&t);
		}
		receiver_close(&r);
		/* The kernel looks once a second whether a page pool has drained: wait for several at a time. */
		if (n % TOGETHER != TOGETHER - 1 && n != wanted - 1)
			continue;
		ASSERT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 5000))
			TH_LOG("order %u, or one of those before: %d %d %d %d %d %d, pinned pages: %lld before, %lld after", n, things[0], things[1],
			       things[2], things[3], things[4], things[5], self->pinned, pinned_pages());
	}
}

/* The queue is closed and the socket detached by command, before or after each other, while data arrives. */
TEST_F(orders, by_command)
{
	int first;

	for (first = 0; first < 2; first++) {
		struct traffic t = {};
		struct receiver r;

		ASSERT_EQ(0, receiver_open(&r, self->queue, 7));
		if (variant->traffic)
			traffic_start(&t, r.pair[1]);
		if (first)
			EXPECT_EQ(0, ng_detach_socket(r.fd, r.socket_id));
		EXPECT_EQ(0, ng_close_queue(r.fd, r.queue_id));
		if (!first)
			EXPECT_EQ(0, ng_detach_socket(r.fd, r.socket_id));
		if (variant->traffic) {
			traffic_stop(&t);
		}
		receiver_close(&r);
		EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 5000));
	}
}

/* The process that opened everything dies; a child that inherited it goes on to the end of the stream, and then dies too. */
TEST_F(orders, after_fork)
{
	struct receiver r;
	int status, go[2];
	pid_t child;

	ASSERT_EQ(0, pipe(go));
	ASSERT_EQ(0, receiver_open(&r, self->queue, 7));
	child = fork();
	if (!child) {
		char byte;
		struct netgpu_socket_stats stats;

		close(go[1]);
		if (read(go[0], &byte, 1) != 0)
			_exit(1);
		_exit(ng_socket_stats(r.fd, r.socket_id, &stats) ? 2 : 0);
	}
	ASSERT_EQ(1U << 18, transfer(r.pair[0], r.pair[1], &r.fill, &r.rx, 1 << 18));
	receiver_close(&r);
	EXPECT_LT(self->pinned, pinned_pages());
	close(go[1]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 5000));
}

/* The descriptors sleep in a message that nobody receives, and in one that goes in a circle. */
TEST_F(orders, in_flight_over_a_socket)
{
	struct receiver r;
	int pair[2];

	ASSERT_EQ(0, receiver_open(&r, self->queue, 7));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	ASSERT_TRUE(send_fds(pair[0], "", 1, (int[4]){ r.fd, r.area, r.pair[0], pair[1] }, 4));
	ASSERT_EQ(1U << 18, transfer(r.pair[0], r.pair[1], &r.fill, &r.rx, 1 << 18));
	receiver_close(&r);
	EXPECT_LT(self->pinned, pinned_pages());
	close(pair[0]);
	close(pair[1]);
	/* The kernel looks for such circles when another socket closes. */
	EXPECT_TRUE(WAIT_FOR((close(socket(AF_UNIX, SOCK_STREAM, 0)), pinned_pages() == self->pinned), 10000));
}

/* The device changes under an open queue. */

static const struct change {
	const char *name;
	const char *there;
	const char *back;
} changes[] = {
	{ "down and up", "ip link set %1$s down && ip link set %1$s up", "ip -6 address replace $NETGPU_ADDR6/64 dev %1$s nodad" },
	{ "MTU", "ip link set %1$s mtu 4000", "ip link set %1$s mtu 1500" },
	{ "ring size", "ethtool -G %1$s rx 512", "ethtool -G %1$s rx 1024" },
	{ "transmit ring size", "ethtool -G %1$s tx 512", "ethtool -G %1$s tx 1024" },
	{ "feature", "ethtool -K %1$s gro off", "ethtool -K %1$s gro on" },
	{ "receive checksums", "ethtool -K %1$s rx off", "ethtool -K %1$s rx on" },
	{ "promiscuous mode", "ip link set %1$s promisc on", "ip link set %1$s promisc off" },
};

/* Runs a command line in which %1$s is our port. */
static int sh_device(const char *format)
{
	char line[512];

	snprintf(line, sizeof(line), format, nic_name());
	return sh("%s", line);
}

TEST_F_TIMEOUT(orders, device_changes, 120)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(changes); i++) {
		struct traffic t = {};
		struct receiver r;

		ASSERT_EQ(0, receiver_open(&r, self->queue, 7)) TH_LOG("%s", changes[i].name);
		ASSERT_EQ(1U << 18, transfer(r.pair[0], r.pair[1], &r.fill, &r.rx, 1 << 18)) TH_LOG("%s", changes[i].name);
		if (variant->traffic) {
			traffic_start(&t, r.pair[1]);
		}
		EXPECT_EQ(0, sh_device(changes[i].there)) TH_LOG("%s", changes[i].name);
		EXPECT_EQ(0, sh_device(changes[i].back)) TH_LOG("%s", changes[i].name);
		if (variant->traffic) {
			traffic_stop(&t);
		} else {
			EXPECT_TRUE(nic_works());
			EXPECT_EQ(1U << 18, transfer(r.pair[0], r.pair[1], &r.fill, &r.rx, 1 << 18)) TH_LOG("after: %s", changes[i].name);
		}
		receiver_close(&r);
		EXPECT_TRUE(nic_works()) TH_LOG("%s", changes[i].name);
		EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 5000)) TH_LOG("%s", changes[i].name);
	}
}

TEST_HARNESS_MAIN
