// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A program that writes anything anywhere, from several threads, while the kernel uses it: its own data are lost, nothing else. A
 * second program, here another context on another queue, receives every byte meanwhile. Needs the ports, with three queues.
 */
#include "helpers.h"
#include "kselftest_harness.h"

#include <poll.h>

#define HOSTILE_QUEUE	1
#define HONEST_QUEUE	2

/* How long, in ms. */
#define STORM	5000

struct storm {
	struct receiver *r;
	struct view completions;
	atomic_bool stop;
	unsigned int seed;
};

static unsigned int next(unsigned int *state)
{
	*state = *state * 1103515245 + 12345;
	return *state >> 8;
}

/* Indices, flags and entries of all rings, at random and close to what is right. */
static void *scribble_on_rings(void *arg)
{
	struct storm *s = arg;
	struct view *rings[] = { &s->r->fill, &s->r->rx, &s->completions };
	unsigned int state = s->seed;

	while (!atomic_load(&s->stop)) {
		struct view *v = rings[next(&state) % 3];
		uint32_t *words = (uint32_t *)v->head;
		unsigned int kind = next(&state) % 8;

		if (kind < 2)
			words[next(&state) % (v->len / 4)] = next(&state) << 9 ^ next(&state);
		else if (kind < 4)
			store(&v->head->producer, load(&v->head->producer) + next(&state) % (2 * v->entries) - v->entries / 2);
		else if (kind < 6)
			store(&v->head->consumer, load(&v->head->consumer) + next(&state) % (2 * v->entries) - v->entries / 2);
		else
			give(&s->r->fill, (uintptr_t)s->r->mem + next(&state) % (s->r->len + 4096));
	}
	return NULL;
}

/* The registered memory: written, and taken from under the addresses. */
static void *scribble_on_memory(void *arg)
{
	struct storm *s = arg;
	unsigned int state = s->seed;

	while (!atomic_load(&s->stop)) {
		char *at = s->r->mem + next(&state) % s->r->len;
		char *page = (char *)((uintptr_t)at & ~4095UL);

		switch (next(&state) % 16) {
		case 0:
			madvise(page, 4096, MADV_DONTNEED);
			break;
		case 1:
			mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			break;
		default:
			*(volatile char *)at = next(&state);
		}
	}
	return NULL;
}

/* Every call there is, with arguments that may be right. */
static void *call_everything(void *arg)
{
	struct storm *s = arg;
	struct receiver *r = s->r;
	unsigned int state = s->seed;

	while (!atomic_load(&s->stop)) {
		struct netgpu_socket_stats socket;
		struct netgpu_context_stats context;
		struct netgpu_region_stats region;
		struct netgpu_queue_stats queue;
		struct pollfd p = { .fd = r->pair[0], .events = POLLIN };
		void *ring;
		char byte;

		switch (next(&state) % 10) {
		case 0:
		case 1:
		case 2:
			recv(r->pair[0], &byte, 1, MSG_DONTWAIT);
			break;
		case 3:
		case 4:
			send(r->pair[0], r->mem + next(&state) % r->len, next(&state) % 70000, MSG_ZEROCOPY | MSG_DONTWAIT | MSG_NOSIGNAL);
			break;
		case 5:
			poll(&p, 1, 0);
			break;
		case 6:
			ng_socket_stats(r->fd, next(&state) % 4, &socket);
			ng_context_stats(r->fd, &context);
			break;
		case 7:
			ng_queue_stats(r->fd, next(&state) % 4, &queue);
			ng_region_stats(r->fd, r->mem + next(&state) % r->len, &region);
			break;
		case 8:
			ring = mmap(NULL, r->rx.len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, r->rx_offset);
			if (ring != MAP_FAILED)
				munmap(ring, r->rx.len);
			break;
		case 9:
			ng_add_region(r->area, r->mem + next(&state) % 64 * 4096, 4096);
			break;
		}
	}
	return NULL;
}

/* The other machine reads what comes, whatever it is. */
static void *sink(void *arg)
{
	struct storm *s = arg;
	static char data[1 << 16];

	while (!atomic_load(&s->stop))
		if (recv(s->r->pair[1], data, sizeof(data), MSG_DONTWAIT) <= 0)
			usleep(500);
	return NULL;
}

FIXTURE(hostile)
{
	struct receiver r;
	struct receiver honest;
	long long pinned;
};

FIXTURE_SETUP(hostile)
{
	self->pinned = pinned_pages();
	ASSERT_EQ(0, nic_prepare(HOSTILE_QUEUE));
	ASSERT_EQ(0, receiver_open(&self->r, HOSTILE_QUEUE, 7));
	ASSERT_EQ(0, receiver_open(&self->honest, HONEST_QUEUE, 8));
}

FIXTURE_TEARDOWN(hostile)
{
	receiver_close(&self->r);
	receiver_close(&self->honest);
	nic_restore();
	EXPECT_TRUE(nic_works());
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
}

TEST_F_TIMEOUT(hostile, threads, 60)
{
	static void *(*const threads[])(void *) = { scribble_on_rings, scribble_on_rings, scribble_on_memory, call_everything,
						    call_everything, sink };
	struct storm storms[ARRAY_LEN(threads)];
	pthread_t ids[ARRAY_LEN(threads)];
	long long end = now_ms() + STORM;
	struct view completions;
	struct traffic t;
	size_t i, good = 0;

	map(&completions, self->r.fd, self->r.completion_offset, self->r.completion_len, RING);
	traffic_start(&t, self->r.pair[1]);
	for (i = 0; i < ARRAY_LEN(threads); i++) {
		storms[i] = (struct storm){ .r = &self->r, .completions = completions, .seed = 1000 + i };
		ASSERT_EQ(0, pthread_create(&ids[i], NULL, threads[i], &storms[i]));
	}
	/* Each stream begins where its pattern does. */
	while (now_ms() < end) {
		size_t n = transfer(self->honest.pair[0], self->honest.pair[1], &self->honest.fill, &self->honest.rx, 1 << 20);

		EXPECT_EQ(1U << 20, n);
		if (n != 1 << 20)
			break;
		good += n;
	}
	for (i = 0; i < ARRAY_LEN(threads); i++)
		atomic_store(&storms[i].stop, true);
	for (i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(ids[i], NULL);
	traffic_stop(&t);
	EXPECT_LT(0U, good);
	munmap(completions.head, completions.len);
}

/* Every field of every argument with numbers at the edges. What succeeds is undone. */
TEST_F_TIMEOUT(hostile, numbers, 60)
{
	static const uint64_t values[] = { 0, 1, 0x7f, 0xfff, 0x1000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff,
		0x100000000, 0x7fffffffffff, 0x7ffffffff000, 0x800000000000, 0xffff888000000000, 0x7fffffffffffffff,
		0x8000000000000000, 0xfffffffffffff000, 0xffffffffffffffff };
	struct netgpu_add_region add = { .addr = (uintptr_t)memory(1 << 16), .len = 1 << 16 };
	struct netgpu_bind bind = { .ifindex = nic_index() };
	struct netgpu_attach_region attach = { .area_fd = self->r.area, .index = 1 };
	struct netgpu_open_queue open = { .queue = HONEST_QUEUE, .fill_entries = FILL };
	struct netgpu_attach_socket socket = { .fd = self->honest.pair[0], .rx_entries = RING };
	struct netgpu_id id = { .id = 77 };
	struct netgpu_queue_stats queue_stats = { .id = 0 };
	struct netgpu_socket_stats socket_stats = { .id = 0 };
	struct netgpu_region_stats region_stats = { .addr = (uintptr_t)self->r.mem };
	const struct {
		unsigned long cmd;
		void *good;
		size_t len;
	} commands[] = {
		{ NETGPU_IOC_ADD_REGION, &add, sizeof(add) },
		{ NETGPU_IOC_BIND, &bind, sizeof(bind) },
		{ NETGPU_IOC_ATTACH_REGION, &attach, sizeof(attach) },
		{ NETGPU_IOC_OPEN_QUEUE, &open, sizeof(open) },
		{ NETGPU_IOC_CLOSE_QUEUE, &id, sizeof(id) },
		{ NETGPU_IOC_ATTACH_SOCKET, &socket, sizeof(socket) },
		{ NETGPU_IOC_DETACH_SOCKET, &id, sizeof(id) },
		{ NETGPU_IOC_QUEUE_STATS, &queue_stats, sizeof(queue_stats) },
		{ NETGPU_IOC_SOCKET_STATS, &socket_stats, sizeof(socket_stats) },
		{ NETGPU_IOC_REGION_STATS, &region_stats, sizeof(region_stats) },
	};
	int files[] = { self->r.fd, self->r.area, -1 };
	size_t c, f, at, v, size;
	union {
		char bytes[256];
		struct netgpu_id id;
		struct netgpu_open_queue open;
	} arg;

	for (c = 0; c < ARRAY_LEN(commands); c++)
		for (f = 0; f < ARRAY_LEN(files); f++)
			for (size = 4; size <= 8; size += 4)
				for (at = 0; at + size <= commands[c].len; at += size)
					for (v = 0; v < ARRAY_LEN(values); v++) {
						/* A file without a role, once for each try. */
						int fd = files[f] < 0 ? ng_open() : files[f];

						memcpy(arg.bytes, commands[c].good, commands[c].len);
						memcpy(arg.bytes + at, &values[v], size);
						/* The receiver's own queue and socket are number 0. */
						if ((commands[c].cmd != NETGPU_IOC_CLOSE_QUEUE &&
						     commands[c].cmd != NETGPU_IOC_DETACH_SOCKET) || arg.id.id) {
							if (!ng_ioctl(fd, commands[c].cmd, &arg) &&
							    commands[c].cmd == NETGPU_IOC_OPEN_QUEUE)
								ng_close_queue(fd, arg.open.id);
						}
						if (files[f] < 0)
							close(fd);
					}
	EXPECT_EQ(1U << 18, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 1 << 18));
	EXPECT_EQ(1U << 18, transfer(self->honest.pair[0], self->honest.pair[1], &self->honest.fill, &self->honest.rx, 1 << 18));
}

TEST_HARNESS_MAIN
