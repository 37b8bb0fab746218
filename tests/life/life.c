// SPDX-License-Identifier: MIT OR Apache-2.0
/* What a program and its surroundings do to one another while data arrives. Needs the ports, with more than two queues. */
#include "helpers.h"
#include "kselftest_harness.h"

#include <poll.h>
#include <sched.h>
#include <sys/wait.h>

#define QUEUE	1
#define RULE	7

FIXTURE(life)
{
	struct receiver r;
	struct traffic t;
	bool sending;
	long long pinned;
};

FIXTURE_SETUP(life)
{
	self->pinned = pinned_pages();
	ASSERT_EQ(0, nic_prepare(QUEUE));
	ASSERT_EQ(0, receiver_open(&self->r, QUEUE, RULE));
	ASSERT_EQ(1U << 16, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 1 << 16));
	traffic_start(&self->t, self->r.pair[1]);
	self->sending = true;
}

/* Lets go of all that this process has. */
static void let_go(FIXTURE_DATA(life) *self)
{
	if (self->sending)
		traffic_stop(&self->t);
	self->sending = false;
	receiver_close(&self->r);
	self->r = (struct receiver){ .area = -1, .fd = -1, .pair = { -1, -1 } };
}

FIXTURE_TEARDOWN(life)
{
	let_go(self);
	nic_restore();
	EXPECT_TRUE(nic_works());
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
}

/* Whether bytes still come, and buffers are taken back: many more than there is room for. */
static bool goes_on(struct receiver *r)
{
	long long end = now_ms() + 10000;
	struct netgpu_rx_entry e;
	size_t got = 0;
	char byte;

	while (got < 2 * r->len && now_ms() < end) {
		while (take(&r->rx, &e)) {
			got += e.len;
			give(&r->fill, e.addr);
		}
		recv(r->pair[0], &byte, 1, MSG_DONTWAIT);
	}
	return got >= 2 * r->len;
}

/* A child that executes another program, which ends when @end is closed. Returns when that program runs. */
static pid_t execute(int end[2])
{
	int started[2];
	char byte, line[64];
	pid_t child;

	if (pipe2(started, O_CLOEXEC) || pipe(end))
		return -1;
	child = fork();
	if (!child) {
		close(end[1]);
		snprintf(line, sizeof(line), "read x <&%d", end[0]);
		execl("/bin/sh", "sh", "-c", line, NULL);
		_exit(127);
	}
	close(started[1]);
	close(end[0]);
	if (read(started[0], &byte, 1) != 0)
		return -1;
	close(started[0]);
	return child;
}

/* The program that was executed has nothing of it. */
TEST_F_TIMEOUT(life, exec_closes, 60)
{
	int end[2], status;
	pid_t child = execute(end);

	ASSERT_LT(0, child);
	EXPECT_TRUE(goes_on(&self->r));
	let_go(self);
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
	close(end[1]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
}

/* It has the descriptors, if they are left open, but no rings: those are not mapped there. */
TEST_F_TIMEOUT(life, exec_inherits, 60)
{
	struct netgpu_context_stats stats;
	int end[2], status;
	pid_t child;

	ASSERT_EQ(0, fcntl(self->r.fd, F_SETFD, 0));
	ASSERT_EQ(0, fcntl(self->r.area, F_SETFD, 0));
	ASSERT_EQ(0, fcntl(self->r.pair[0], F_SETFD, 0));
	child = execute(end);
	ASSERT_LT(0, child);
	EXPECT_TRUE(goes_on(&self->r));
	EXPECT_EQ(0, ng_context_stats(self->r.fd, &stats));
	let_go(self);
	/* With the other program the connection is still there, though nobody reads. */
	EXPECT_LT(self->pinned, pinned_pages());
	EXPECT_NE(0, sh("rmmod netgpu"));
	close(end[1]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
}

/* Everything goes to another process, which goes on where this one was. */
TEST_F_TIMEOUT(life, passed_on, 60)
{
	char byte = 0;
	int pair[2], status, fds[3];
	pid_t child;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	child = fork();
	if (!child) {
		struct netgpu_context_stats stats;
		struct receiver *r = &self->r;

		/* What was inherited goes, so that only what is passed is left. */
		close(r->fd);
		close(r->area);
		close(r->pair[0]);
		close(r->pair[1]);
		close(pair[0]);
		if (!receive_fds(pair[1], &byte, 1, fds, 3))
			_exit(1);
		/* The sender has gone: this is the only one left. */
		if (read(pair[1], &byte, 1) != 0)
			_exit(2);
		if (ng_context_stats(fds[0], &stats) || stats.sockets != 1 || stats.queues != 1 || stats.regions != 1)
			_exit(3);
		/* Rings can be mapped anew, by who has the file. */
		map(&r->rx, fds[0], r->rx_offset, r->rx.len, RING);
		if (!load(&r->rx.head->producer))
			_exit(4);
		_exit(0);
	}
	ASSERT_TRUE(send_fds(pair[0], &byte, 1, (int[3]){ self->r.fd, self->r.area, self->r.pair[0] }, 3));
	let_go(self);
	close(pair[0]);
	close(pair[1]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

/* Other queues come and go. */
TEST_F_TIMEOUT(life, channels_change, 60)
{
	int round;

	for (round = 0; round < 3; round++) {
		/* The core wants one more than it needs. */
		EXPECT_EQ(0, sh("ethtool -L %s combined 3", nic_name()));
		EXPECT_TRUE(goes_on(&self->r)) TH_LOG("three queues, round %d", round);
		EXPECT_EQ(0, sh("ethtool -L %s combined 4", nic_name()));
		EXPECT_TRUE(goes_on(&self->r)) TH_LOG("four queues, round %d", round);
	}
	/* Ours cannot go. */
	EXPECT_NE(0, sh("ethtool -L %s combined 1", nic_name()));
	EXPECT_TRUE(goes_on(&self->r));
}

TEST_F_TIMEOUT(life, settings_change, 60)
{
	static const char *const commands[] = {
		"ethtool -G %s rx 512", "ethtool -G %s rx 1024", "ip link set %s mtu 4000", "ip link set %s mtu 1500",
		"ip link set %s promisc on", "ip link set %s promisc off",
	};
	size_t i;

	for (i = 0; i < ARRAY_LEN(commands); i++) {
		char line[128];

		snprintf(line, sizeof(line), commands[i], nic_name());
		EXPECT_EQ(0, sh("%s", line)) TH_LOG("%s", line);
		EXPECT_TRUE(goes_on(&self->r)) TH_LOG("after %s", line);
	}
}

/* The module stays while anything of it is left, however little. */
TEST_F_TIMEOUT(life, the_module_stays, 60)
{
	int fd;

	EXPECT_NE(0, sh("rmmod netgpu"));
	EXPECT_TRUE(goes_on(&self->r));
	/* The socket alone, which has been one of ours. */
	munmap(self->r.fill.head, self->r.fill.len);
	munmap(self->r.rx.head, self->r.rx.len);
	self->r.fill.head = self->r.rx.head = NULL;
	close(self->r.area);
	close(self->r.fd);
	self->r.area = self->r.fd = -1;
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
	EXPECT_NE(0, sh("rmmod netgpu"));
	/* A file alone, without a role. */
	close(self->r.pair[0]);
	self->r.pair[0] = -1;
	fd = ng_open();
	ASSERT_LE(0, fd);
	EXPECT_NE(0, sh("rmmod netgpu"));
	close(fd);
}

/* A ring that is mapped holds everything, without any descriptor. */
TEST_F_TIMEOUT(life, a_mapping_holds, 60)
{
	close(self->r.area);
	close(self->r.fd);
	self->r.area = self->r.fd = -1;
	EXPECT_TRUE(goes_on(&self->r));
	EXPECT_NE(0, sh("rmmod netgpu"));
	munmap(self->r.rx.head, self->r.rx.len);
	munmap(self->r.fill.head, self->r.fill.len);
	self->r.fill.head = self->r.rx.head = NULL;
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
}

/* Threads that wait, for bytes and for room to send: whatever takes the connection from them wakes them, with an error. */
struct waiter {
	struct receiver *r;
	int poll_error;
	int send_error;
	atomic_int awake;
	pthread_t threads[2];
};

static void *wait_for_bytes(void *arg)
{
	struct waiter *w = arg;
	/* No POLLIN: that is there all the time. */
	struct pollfd p = { .fd = w->r->pair[0], .events = 0 };
	socklen_t len = sizeof(w->poll_error);

	poll(&p, 1, 20000);
	/* The other thread may be told first, and an error is told once. */
	if (getsockopt(p.fd, SOL_SOCKET, SO_ERROR, &w->poll_error, &len))
		w->poll_error = errno;
	atomic_fetch_add(&w->awake, 1);
	return NULL;
}

static void *wait_for_room(void *arg)
{
	struct waiter *w = arg;
	/* The peer reads nothing. */
	while (send(w->r->pair[0], w->r->mem, w->r->len, MSG_ZEROCOPY | MSG_NOSIGNAL) > 0)
		;
	w->send_error = errno;
	atomic_fetch_add(&w->awake, 1);
	return NULL;
}

static void wait_in_threads(struct waiter *w, struct receiver *r)
{
	*w = (struct waiter){ .r = r };
	if (pthread_create(&w->threads[0], NULL, wait_for_bytes, w) || pthread_create(&w->threads[1], NULL, wait_for_room, w))
		abort();
	/* Both sleep. */
	usleep(300000);
}

/* Whether both came to their end in time, and were told why. */
static bool woken(struct waiter *w)
{
	if (!WAIT_FOR(atomic_load(&w->awake) == 2, 10000)) {
		fprintf(stderr, "# %d of 2 threads are awake\n", atomic_load(&w->awake));
		return false;
	}
	pthread_join(w->threads[0], NULL);
	pthread_join(w->threads[1], NULL);
	fprintf(stderr, "# poll: %s, send: %s\n", strerrorname_np(w->poll_error), strerrorname_np(w->send_error));
	return (w->send_error == ECONNABORTED || w->send_error == EPIPE) &&
	       (w->poll_error == ECONNABORTED || w->send_error == ECONNABORTED);
}

TEST_F_TIMEOUT(life, waiting_ends_with_the_context, 60)
{
	struct waiter w;

	wait_in_threads(&w, &self->r);
	EXPECT_EQ(0, atomic_load(&w.awake));
	munmap(self->r.rx.head, self->r.rx.len);
	munmap(self->r.fill.head, self->r.fill.len);
	self->r.fill.head = self->r.rx.head = NULL;
	close(self->r.fd);
	self->r.fd = -1;
	EXPECT_TRUE(woken(&w));
}

TEST_F_TIMEOUT(life, waiting_ends_with_detaching, 60)
{
	struct waiter w;

	wait_in_threads(&w, &self->r);
	EXPECT_EQ(0, atomic_load(&w.awake));
	EXPECT_EQ(0, ng_detach_socket(self->r.fd, self->r.socket_id));
	EXPECT_TRUE(woken(&w));
}

/* Namespaces. */

static int setns_of(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = setns(fd, CLONE_NEWNET) ? -errno : 0;
	close(fd);
	return ret;
}

static int configure(void)
{
	return sh("ip link set lo up; ip address replace $NETGPU_ADDR4/24 dev %s && ip -6 address replace $NETGPU_ADDR6/64 dev %s nodad && ip link set %s up",
		  nic_name(), nic_name(), nic_name());
}

/*
 * The namespace of the device is deleted while a context is in it. A socket holds it, then only the context is left, which does
 * not: the device moves back to the first one and the context with it, as a device in use does.
 */
TEST(namespace_is_deleted)
{
	long long pinned = pinned_pages();
	struct netgpu_context_stats stats;
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	struct netgpu_open_queue q;
	struct traffic t;
	struct receiver r;

	ASSERT_EQ(0, sh("ip netns add life && ip link set %s netns life", nic_name()));
	ASSERT_EQ(0, setns_of("/run/netns/life"));
	ASSERT_EQ(0, configure());
	ASSERT_TRUE(nic_works());
	ASSERT_EQ(0, nic_prepare(QUEUE));
	ASSERT_EQ(0, receiver_open(&r, QUEUE, RULE));
	traffic_start(&t, r.pair[1]);
	EXPECT_TRUE(goes_on(&r));
	ASSERT_EQ(0, setns(home, CLONE_NEWNET));
	ASSERT_EQ(0, sh("ip netns del life"));
	EXPECT_TRUE(goes_on(&r));
	EXPECT_EQ(0U, nic_index());
	traffic_stop(&t);
	close(r.pair[0]);
	r.pair[0] = -1;
	EXPECT_TRUE(WAIT_FOR(nic_index(), 20000)) TH_LOG("the device is not back");
	EXPECT_EQ(0, ng_context_stats(r.fd, &stats));
	EXPECT_EQ(0, configure());
	EXPECT_TRUE(nic_works());
	/* It is the same device. */
	EXPECT_EQ(0, ng_close_queue(r.fd, r.queue_id));
	EXPECT_EQ(0, ng_open_queue(r.fd, QUEUE, FILL, &q));
	EXPECT_EQ(0, ng_close_queue(r.fd, q.id));
	receiver_close(&r);
	nic_restore();
	EXPECT_TRUE(nic_works());
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == pinned, 10000));
}

/* The driver lets go of the device while threads wait. It comes back without its settings: for a run of its own. */
TEST(driver_is_unbound)
{
	long long pinned = pinned_pages();
	char pci[64], path[128], target[256];
	struct netgpu_attach_socket a;
	struct netgpu_context_stats stats;
	struct netgpu_open_queue q;
	struct receiver r;
	struct waiter w;
	struct traffic t;
	ssize_t len;
	int plain;

	snprintf(path, sizeof(path), "/sys/class/net/%s/device", nic_name());
	len = readlink(path, target, sizeof(target) - 1);
	ASSERT_LT(0, len);
	target[len] = 0;
	snprintf(pci, sizeof(pci), "%s", strrchr(target, '/') + 1);
	ASSERT_EQ(0, nic_prepare(QUEUE));
	ASSERT_EQ(0, receiver_open(&r, QUEUE, RULE));
	traffic_start(&t, r.pair[1]);
	EXPECT_TRUE(goes_on(&r));
	wait_in_threads(&w, &r);
	EXPECT_EQ(0, sh("echo %s >/sys/bus/pci/drivers/mlx5_core/unbind", pci));
	EXPECT_TRUE(woken(&w));
	/* The context says so, and its counters stay. */
	plain = socket(AF_INET, SOCK_STREAM, 0);
	EXPECT_EQ(-ENODEV, ng_attach_socket(r.fd, plain, RING, RING, &a));
	EXPECT_EQ(-ENODEV, ng_open_queue(r.fd, QUEUE, FILL, &q));
	EXPECT_EQ(-ENODEV, ng_attach_region(r.fd, r.area, 1));
	EXPECT_EQ(0, ng_context_stats(r.fd, &stats));
	EXPECT_EQ(1U, stats.aborted);
	EXPECT_NE(0, sh("rmmod netgpu"));
	traffic_stop(&t);
	close(plain);
	r.rule = 0;
	receiver_close(&r);
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == pinned, 10000));
	EXPECT_EQ(0, sh("echo %s >/sys/bus/pci/drivers/mlx5_core/bind", pci));
	EXPECT_TRUE(WAIT_FOR(!sh("ls /sys/bus/pci/devices/%s/net/*", pci), 60000));
}

TEST_HARNESS_MAIN
