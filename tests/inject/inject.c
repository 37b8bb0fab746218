// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Each call of the user API with its first allocation or copy failing, then its second, and so on until it gets through
 * (/proc/thread-self/fail-nth, see fault-injection.rst of the kernel). A call that fails must have changed nothing: the same
 * call without a failure works afterwards. What ends something must end it whatever fails. Likewise with the functions of
 * src/shim/injection.c failing instead of running (fail_function). Needs the ports.
 */
#include "helpers.h"
#include "kselftest_harness.h"

/* The n-th thing that can fail in what this thread does from here on fails. */
static int fail_nth = -1;

static void arm(unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	if (fail_nth < 0)
		fail_nth = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (fail_nth < 0 || pwrite(fail_nth, text, len, 0) != len) {
		perror("/proc/thread-self/fail-nth");
		abort();
	}
}

/* Nothing fails any more. Whether something has failed since arm(). */
static bool disarm(void)
{
	char text[16] = "";
	ssize_t len = pread(fail_nth, text, sizeof(text) - 1, 0);
	/* Where it is still armed, reading it may be what fails. */
	bool failed = len > 0 && atoi(text) == 0;

	/* And so may this, the first time. */
	while (!failed && pwrite(fail_nth, "0", 1, 0) != 1)
		;
	return failed;
}

/*
 * What comes after the @n-th failure of a call. One that @restarts a queue has hundreds in the driver, each of which takes a
 * restart or two to try: without NETGPU_TEST_FAILURES=all most of those are left out.
 */
static unsigned int next_failure(unsigned int n, bool restarts)
{
	const char *text = getenv("NETGPU_TEST_FAILURES");

	return !restarts || n < 16 || (text && !strcmp(text, "all")) ? n + 1 : n + 37;
}

/* Seconds for a case, also on a kernel that checks everything; run.sh has a deadline for all of them. */
#define PATIENCE	1500

/* More than any call has; one that goes on failing is a failure itself. */
#define MOST	5000

/* How often a call failed, by errno, for the log. */
struct tally {
	unsigned int of[256];
};

static void count(struct tally *t, int ret)
{
	if (ret > -256)
		t->of[-ret]++;
}

static void show(const char *what, unsigned int failures, const struct tally *t)
{
	unsigned int i;

	printf("# %s: %u failures", what, failures);
	for (i = 1; i < ARRAY_LEN(t->of); i++)
		if (t->of[i])
			printf(", %u %s", t->of[i], strerrorname_np(i));
	printf("\n");
	fflush(stdout);
}

/* What a receiver is made of, step by step, and what came of each step. */
struct made {
	struct receiver r;
	int queue;
	unsigned int ifindex;
	struct view completions;
	struct netgpu_open_queue open;
	struct netgpu_attach_socket attach;
};

static int map_or_error(struct view *v, int fd, uint64_t offset, uint64_t len, uint32_t entries)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

	if (p == MAP_FAILED)
		return -errno;
	*v = (struct view){ .head = p, .len = len, .entries = entries };
	return 0;
}

static int step_area(struct made *m)
{
	m->r.area = ng_open();
	return m->r.area < 0 ? m->r.area : 0;
}

static int step_context(struct made *m)
{
	m->r.fd = ng_open();
	return m->r.fd < 0 ? m->r.fd : 0;
}

static int step_info(struct made *m)
{
	struct netgpu_info info;

	return ng_info(m->r.fd, &info);
}

static int step_add_region(struct made *m)
{
	int ret = ng_add_region(m->r.area, m->r.mem, m->r.len);

	return ret < 0 ? ret : ret == 1 ? 0 : -EPROTO;
}

static int step_bind(struct made *m)
{
	return ng_bind(m->r.fd, m->ifindex);
}

static int step_attach_region(struct made *m)
{
	return ng_attach_region(m->r.fd, m->r.area, 1);
}

static int step_open_queue(struct made *m)
{
	return ng_open_queue(m->r.fd, m->queue, FILL, &m->open);
}

static int step_map_fill(struct made *m)
{
	return map_or_error(&m->r.fill, m->r.fd, m->open.mmap_offset, m->open.mmap_len, FILL);
}

static int step_attach_socket(struct made *m)
{
	return ng_attach_socket(m->r.fd, m->r.pair[0], RING, RING, &m->attach);
}

static int step_map_rx(struct made *m)
{
	return map_or_error(&m->r.rx, m->r.fd, m->attach.rx_mmap_offset, m->attach.rx_mmap_len, RING);
}

static int step_map_completions(struct made *m)
{
	return map_or_error(&m->completions, m->r.fd, m->attach.completion_mmap_offset, m->attach.completion_mmap_len, RING);
}

static int step_queue_stats(struct made *m)
{
	struct netgpu_queue_stats stats;

	return ng_queue_stats(m->r.fd, m->open.id, &stats);
}

static int step_socket_stats(struct made *m)
{
	struct netgpu_socket_stats stats;

	return ng_socket_stats(m->r.fd, m->attach.id, &stats);
}

static int step_context_stats(struct made *m)
{
	struct netgpu_context_stats stats;

	return ng_context_stats(m->r.fd, &stats);
}

static int step_region_stats(struct made *m)
{
	struct netgpu_region_stats stats;

	return ng_region_stats(m->r.fd, m->r.mem, &stats);
}

static int undo_open_queue(struct made *m)
{
	return ng_close_queue(m->r.fd, m->open.id);
}

static int nothing(struct made *m)
{
	(void)m;
	return 0;
}

static const struct {
	const char *name;
	int (*step)(struct made *m);
	/* Back to before the step, where that is less work than to make all anew. */
	int (*undo)(struct made *m);
} steps[] = {
	{ "open of the area", step_area },
	{ "open of the context", step_context },
	{ "INFO", step_info, nothing },
	{ "ADD_REGION", step_add_region },
	{ "BIND", step_bind },
	{ "ATTACH_REGION", step_attach_region },
	{ "OPEN_QUEUE", step_open_queue, undo_open_queue },
	{ "mmap of the fill ring", step_map_fill },
	{ "ATTACH_SOCKET", step_attach_socket },
	{ "mmap of the rx ring", step_map_rx },
	{ "mmap of the completion ring", step_map_completions },
	{ "QUEUE_STATS", step_queue_stats, nothing },
	{ "SOCKET_STATS", step_socket_stats, nothing },
	{ "CONTEXT_STATS", step_context_stats, nothing },
	{ "REGION_STATS", step_region_stats, nothing },
};

#define RULE	7

/* Memory, and a connection that is steered to the queue: what is not ours to make. */
static int prepare(struct made *m, int queue)
{
	struct sockaddr_in local;
	socklen_t len = sizeof(local);
	int ret;

	/* The driver that fails to apply its RSS table in a restart only says so in the log, and receives nothing from then on. */
	if (sh("ethtool -X %s equal %d", nic_name(), queue))
		return -EIO;
	*m = (struct made){ .queue = queue, .ifindex = nic_index(), .r = { .area = -1, .fd = -1, .pair = { -1, -1 } } };
	m->r.len = BUFFERS * buffer_size();
	m->r.mem = memory(m->r.len);
	ret = tcp_pair(AF_INET, m->r.pair);
	if (ret)
		return ret;
	if (getsockname(m->r.pair[0], (struct sockaddr *)&local, &len))
		return -errno;
	if (sh("ethtool -N %s flow-type tcp4 dst-port %u action %d loc %u", nic_name(), ntohs(local.sin_port), queue, RULE))
		return -EIO;
	m->r.rule = RULE;
	return 0;
}

/* The first @n steps, without a failure. */
static int make(struct made *m, int queue, size_t n)
{
	size_t i;
	int ret = prepare(m, queue);

	for (i = 0; !ret && i < n; i++)
		ret = steps[i].step(m);
	return ret;
}

static void donate(struct made *m)
{
	size_t i;

	for (i = 0; i < BUFFERS; i++)
		give(&m->r.fill, (uintptr_t)m->r.mem + i * (m->r.len / BUFFERS));
}

static void unmake(struct made *m)
{
	if (m->completions.head)
		munmap(m->completions.head, m->completions.len);
	receiver_close(&m->r);
}

/* A whole receiver receives. */
static bool receives(struct made *m)
{
	donate(m);
	return transfer(m->r.pair[0], m->r.pair[1], &m->r.fill, &m->r.rx, 1 << 16) == 1 << 16;
}

FIXTURE(inject)
{
	int queue;
	long long pinned;
};

FIXTURE_SETUP(inject)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	self->pinned = pinned_pages();
}

FIXTURE_TEARDOWN(inject)
{
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
	nic_restore();
	EXPECT_TRUE(nic_works());
}

TEST_F_TIMEOUT(inject, what_fails_changes_nothing, PATIENCE)
{
	size_t s, i;

	for (s = 0; s < ARRAY_LEN(steps); s++) {
		unsigned int n, failures = 0;
		struct tally tally = {};
		struct made m;
		bool failed = true;

		ASSERT_EQ(0, make(&m, self->queue, s));
		for (n = 1; failed; n = next_failure(n, steps[s].step == step_open_queue)) {
			int ret;

			ASSERT_GT(MOST, n) TH_LOG("%s does not get through", steps[s].name);
			arm(n);
			ret = steps[s].step(&m);
			failed = disarm();
			if (failed && ret < 0) {
				/* The same again, with the next failure. */
				failures++;
				count(&tally, ret);
				EXPECT_TRUE(ret == -ENOMEM || ret == -EFAULT) TH_LOG("%s, failure %u: %s", steps[s].name, n,
					strerror(-ret));
				continue;
			}
			ASSERT_EQ(0, ret) TH_LOG("%s, after %u failures: %s", steps[s].name, failures, strerror(-ret));
			if (failed) {
				/* It did without what failed. */
				failures++;
				if (steps[s].undo) {
					ASSERT_EQ(0, steps[s].undo(&m));
				} else {
					unmake(&m);
					ASSERT_EQ(0, make(&m, self->queue, s));
				}
			}
		}
		show(steps[s].name, failures, &tally);
		for (i = s + 1; i < ARRAY_LEN(steps); i++)
			ASSERT_EQ(0, steps[i].step(&m)) TH_LOG("%s after %s", steps[i].name, steps[s].name);
		EXPECT_TRUE(receives(&m)) TH_LOG("after the failures of %s", steps[s].name);
		unmake(&m);
	}
}

/* What ends something. */
static int end_socket(struct made *m)
{
	return ng_detach_socket(m->r.fd, m->attach.id);
}

/* A ring that is mapped holds the context's file. */
static void without_rings(struct made *m)
{
	struct view *rings[] = { &m->r.fill, &m->r.rx, &m->completions };
	size_t i;

	for (i = 0; i < ARRAY_LEN(rings); i++) {
		if (rings[i]->head)
			munmap(rings[i]->head, rings[i]->len);
		rings[i]->head = NULL;
	}
}

static void without_context(struct made *m)
{
	without_rings(m);
	close(m->r.fd);
	m->r.fd = -1;
}

static int end_context(struct made *m)
{
	int ret = close(m->r.fd) ? -errno : 0;

	m->r.fd = -1;
	return ret;
}

static int end_area(struct made *m)
{
	int ret = close(m->r.area) ? -errno : 0;

	m->r.area = -1;
	return ret;
}

static int end_connection(struct made *m)
{
	int ret = close(m->r.pair[0]) ? -errno : 0;

	m->r.pair[0] = -1;
	return ret;
}

static int end_rings(struct made *m)
{
	without_rings(m);
	return 0;
}

/* A queue that cannot be restarted without the context stays open, with all that it had. */
TEST_F_TIMEOUT(inject, a_queue_that_does_not_close_stays, PATIENCE)
{
	unsigned int n, failures = 0;
	struct tally tally = {};
	bool failed = true;
	struct made m;

	ASSERT_EQ(0, make(&m, self->queue, ARRAY_LEN(steps)));
	for (n = 1; failed; n = next_failure(n, true)) {
		int ret;

		ASSERT_GT(MOST, n);
		arm(n);
		ret = ng_close_queue(m.r.fd, m.open.id);
		failed = disarm();
		failures += failed;
		count(&tally, ret);
		if (ret) {
			EXPECT_TRUE(failed && (ret == -ENOMEM || ret == -EFAULT)) TH_LOG("failure %u: %s", n, strerror(-ret));
			/* The first one that is still there after its own kind of failure has to receive. */
			if (tally.of[-ret] == 1)
				EXPECT_TRUE(receives(&m)) TH_LOG("after failure %u", n);
			continue;
		}
		munmap(m.r.fill.head, m.r.fill.len);
		ASSERT_EQ(0, step_open_queue(&m));
		ASSERT_EQ(0, step_map_fill(&m));
	}
	show("CLOSE_QUEUE", failures, &tally);
	unmake(&m);
}

TEST_F_TIMEOUT(inject, what_ends_ends, PATIENCE)
{
	static const struct {
		const char *name;
		int (*end)(struct made *m);
		/* What has ended before. */
		void (*before)(struct made *m);
	} ends[] = {
		{ "DETACH_SOCKET", end_socket },
		{ "close of the context", end_context, without_rings },
		{ "close of the area", end_area, without_context },
		{ "close of the connection", end_connection },
		{ "munmap of the rings", end_rings },
	};
	size_t e;

	for (e = 0; e < ARRAY_LEN(ends); e++) {
		unsigned int n, failures = 0;
		struct tally tally = {};
		bool failed = true;

		for (n = 1; failed; n = next_failure(n, ends[e].end == end_context)) {
			struct made m;
			int ret;

			ASSERT_GT(MOST, n) TH_LOG("%s does not get through", ends[e].name);
			ASSERT_EQ(0, make(&m, self->queue, ARRAY_LEN(steps)));
			donate(&m);
			if (ends[e].before)
				ends[e].before(&m);
			arm(n);
			ret = ends[e].end(&m);
			failed = disarm();
			failures += failed;
			/* Arguments that cannot be read end nothing. */
			if (failed && ret == -EFAULT) {
				count(&tally, ret);
				ret = ends[e].end(&m);
			}
			EXPECT_EQ(0, ret) TH_LOG("%s, failure %u: %s", ends[e].name, n, strerror(-ret));
			unmake(&m);
			EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 5000)) TH_LOG("%s, failure %u", ends[e].name, n);
		}
		show(ends[e].name, failures, &tally);
	}
}

/* Takes what has come on the rx ring, which must go on where @got says. False: it does not. */
static bool drain(struct made *m, size_t *got)
{
	struct netgpu_rx_entry e;
	size_t i;

	while (take(&m->r.rx, &e)) {
		for (i = 0; i < e.len; i++)
			if (((volatile char *)(uintptr_t)e.addr)[i] != pattern(*got + i))
				return false;
		*got += e.len;
		give(&m->r.fill, e.addr);
	}
	return true;
}

/* The kick: what it could not move, the next one moves. */
TEST_F_TIMEOUT(inject, receiving, PATIENCE)
{
	unsigned int n, failures = 0;
	struct tally tally = {};
	bool failed = true;
	size_t sent = 0, got = 0;
	struct made m;

	ASSERT_EQ(0, make(&m, self->queue, ARRAY_LEN(steps)));
	donate(&m);
	for (n = 1; failed; n++) {
		char chunk[3000], byte;
		size_t i;
		int ret;

		ASSERT_GT(MOST, n);
		for (i = 0; i < sizeof(chunk); i++)
			chunk[i] = pattern(sent + i);
		ASSERT_EQ((ssize_t)sizeof(chunk), send(m.r.pair[1], chunk, sizeof(chunk), MSG_NOSIGNAL));
		sent += sizeof(chunk);
		usleep(2000);
		arm(n);
		ret = recv(m.r.pair[0], &byte, 1, MSG_DONTWAIT) < 0 ? -errno : 0;
		failed = disarm();
		failures += failed;
		count(&tally, ret);
		EXPECT_TRUE(ret == -EAGAIN || (failed && ret == -ENOMEM)) TH_LOG("failure %u: %s", n, strerror(-ret));
		ASSERT_TRUE(WAIT_FOR((recv(m.r.pair[0], &byte, 1, MSG_DONTWAIT), drain(&m, &got)) && got == sent, 5000))
			TH_LOG("%zu bytes of %zu", got, sent);
	}
	show("recv", failures, &tally);
	unmake(&m);
}

/* A send that fails has sent nothing, one that is accepted arrives and has its completion. */
TEST_F_TIMEOUT(inject, sending, PATIENCE)
{
	unsigned int n, failures = 0, accepted = 0;
	struct netgpu_completion *done;
	struct tally tally = {};
	bool failed = true;
	size_t sent = 0, got = 0, i;
	char back[20000];
	struct made m;

	ASSERT_EQ(0, make(&m, self->queue, ARRAY_LEN(steps)));
	/* Acknowledgements, too, need buffers to come in. */
	donate(&m);
	for (n = 1; failed; n++) {
		const size_t len = 20000;
		ssize_t ret;

		ASSERT_GT(MOST, n);
		for (i = 0; i < len; i++)
			m.r.mem[i] = pattern(sent + i);
		arm(n);
		ret = send(m.r.pair[0], m.r.mem, len, MSG_ZEROCOPY | MSG_DONTWAIT | MSG_NOSIGNAL);
		if (ret < 0)
			ret = -errno;
		failed = disarm();
		failures += failed;
		if (ret < 0) {
			count(&tally, ret);
			EXPECT_TRUE(failed && (ret == -ENOMEM || ret == -ENOBUFS || ret == -EAGAIN || ret == -EFAULT))
				TH_LOG("failure %u: %s", n, strerror(-ret));
			continue;
		}
		accepted++;
		sent += ret;
		while (got < sent) {
			ssize_t more = recv(m.r.pair[1], back, sizeof(back), 0);

			ASSERT_LT(0, more);
			for (i = 0; i < (size_t)more; i++)
				ASSERT_EQ(pattern(got + i), back[i]) TH_LOG("byte %zu after failure %u", got + i, n);
			got += more;
		}
		/* It may be written again only when it is complete. */
		ASSERT_TRUE(WAIT_FOR(load(&m.completions.head->producer) == accepted, 5000))
			TH_LOG("%u completions of %u", load(&m.completions.head->producer), accepted);
		done = (void *)((char *)m.completions.head + NETGPU_RING_ENTRIES);
		EXPECT_EQ(accepted - 1, done[(accepted - 1) & (RING - 1)].id);
		store(&m.completions.head->consumer, accepted);
	}
	show("send", failures, &tally);
	EXPECT_EQ(-1, recv(m.r.pair[1], back, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	unmake(&m);
}

#define FAIL_FUNCTION	"/sys/kernel/debug/fail_function/"

/* @percent of the next calls of @function return @value instead, @times of them at most. */
static int fail_function(const char *function, long long value, int percent, int times)
{
	return sh("cd " FAIL_FUNCTION " && echo 0 >verbose && echo %s >inject && echo 0x%llx >%s/retval && echo %d >probability && "
		  "echo %d >times", function, value, function, percent, times);
}

static int fail_no_function(void)
{
	return sh("cd " FAIL_FUNCTION " && echo 0 >probability && echo >inject");
}

static int kick(struct made *m)
{
	char byte;

	return recv(m->r.pair[0], &byte, 1, MSG_DONTWAIT) < 0 && errno != EAGAIN ? -errno : 0;
}

static int send_page(struct made *m)
{
	ssize_t n = send(m->r.pair[0], m->r.mem, 4096, MSG_ZEROCOPY | MSG_DONTWAIT | MSG_NOSIGNAL);

	return n < 0 ? -errno : n != 4096;
}

TEST_F_TIMEOUT(inject, functions, PATIENCE)
{
	static const struct {
		const char *function;
		int error;	/* one that it can really have */
		int result;	/* of a call that comes to it */
		size_t made;	/* how many steps come before */
		int (*call)(struct made *m);
		size_t bytes;	/* what the peer has after that and a call that got through */
	} cases[] = {
		{ "netgpu_pool_init", -ENOMEM, -ENOMEM, 6, step_open_queue },
		{ "netgpu_ulp_init", -ENOMEM, -ENOMEM, 8, step_attach_socket },
		{ "netgpu_recvmsg", -ENOMEM, -ENOMEM, ARRAY_LEN(steps), kick },
		{ "netgpu_sendmsg", -ENOMEM, -ENOMEM, ARRAY_LEN(steps), send_page, 4096 },
		{ "netgpu_send_fill", -EFAULT, -EFAULT, ARRAY_LEN(steps), send_page, 4096 },
		/* Two sends that were to share a packet do not. */
		{ "netgpu_send_link", -EEXIST, 0, ARRAY_LEN(steps), send_page, 100 + 2 * 4096 },
	};
	size_t c, i;

	for (c = 0; c < ARRAY_LEN(cases); c++) {
		static char back[8192];
		struct made m;

		ASSERT_EQ(0, make(&m, self->queue, cases[c].made));
		if (!cases[c].result)
			ASSERT_EQ(100, send(m.r.pair[0], m.r.mem, 100, MSG_ZEROCOPY | MSG_MORE));
		ASSERT_EQ(0, fail_function(cases[c].function, cases[c].error, 100, 1));
		EXPECT_EQ(cases[c].result, cases[c].call(&m)) TH_LOG("%s", cases[c].function);
		ASSERT_EQ(0, sh("grep -qx 0 " FAIL_FUNCTION "times")) TH_LOG("%s was not called", cases[c].function);
		EXPECT_EQ(0, cases[c].call(&m)) TH_LOG("%s", cases[c].function);
		ASSERT_EQ(0, fail_no_function());
		for (i = cases[c].made + 1; i < ARRAY_LEN(steps); i++)
			ASSERT_EQ(0, steps[i].step(&m)) TH_LOG("after %s", cases[c].function);
		/* Acknowledgements, too, need buffers to come in. */
		donate(&m);
		for (i = 0; i < cases[c].bytes; ) {
			ssize_t n = recv(m.r.pair[1], back, sizeof(back), 0);

			ASSERT_LT(0, n) TH_LOG("%s", cases[c].function);
			i += n;
		}
		EXPECT_EQ(cases[c].bytes, i) TH_LOG("%s", cases[c].function);
		EXPECT_EQ(1 << 16, transfer(m.r.pair[0], m.r.pair[1], &m.r.fill, &m.r.rx, 1 << 16)) TH_LOG("after %s", cases[c].function);
		unmake(&m);
	}
}

/* The NIC asks for buffers again when it gets none. */
TEST_F_TIMEOUT(inject, refills, PATIENCE)
{
	struct made m;

	ASSERT_EQ(0, make(&m, self->queue, ARRAY_LEN(steps)));
	ASSERT_EQ(0, fail_function("netgpu_alloc_netmems", 0, 30, 1000000));
	donate(&m);
	EXPECT_EQ(4 << 20, transfer(m.r.pair[0], m.r.pair[1], &m.r.fill, &m.r.rx, 4 << 20));
	EXPECT_NE(0, sh("grep -qx 1000000 " FAIL_FUNCTION "times")) TH_LOG("it was not called");
	ASSERT_EQ(0, fail_no_function());
	unmake(&m);
}

TEST_HARNESS_MAIN
