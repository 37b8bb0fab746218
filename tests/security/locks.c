// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A program keeps the lock of a socket for as long as it likes: it sends from memory that is a file of its own making, in FUSE, which does
 * not answer. That is its own loss. Needs the ports, with three queues.
 */
#include "helpers.h"
#include "kselftest_harness.h"

#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define KEEPING_QUEUE	1
#define HONEST_QUEUE	2

#define PLACE	"/tmp/kept"

/* A page that is not there before it is answered for. */
struct kept {
	int fuse;
	char *page;
	atomic_bool asked;
	atomic_bool answer;
	pthread_t server;
};

static void reply(int fuse, uint64_t unique, int error, const void *data, size_t len)
{
	static char out[sizeof(struct fuse_out_header) + 4096];
	struct fuse_out_header head = { .len = sizeof(head) + len, .error = error, .unique = unique };

	memcpy(out, &head, sizeof(head));
	memcpy(out + sizeof(head), data, len);
	if (write(fuse, out, head.len) != (ssize_t)head.len && errno != ENOENT)
		perror("# fuse");
}

/* One regular file, of a page. */
static void *serve(void *arg)
{
	static const char zeros[4096];
	static char in[FUSE_MIN_READ_BUFFER + 4096];
	struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096 };
	struct fuse_attr_out attr = { .attr_valid = 1000,
		.attr = { .ino = 1, .size = 4096, .blocks = 8, .mode = S_IFREG | 0600, .nlink = 1, .blksize = 4096 } };
	struct fuse_open_out open = {};
	struct kept *k = arg;

	while (read(k->fuse, in, sizeof(in)) > 0) {
		struct fuse_in_header *head = (void *)in;

		switch (head->opcode) {
		case FUSE_INIT:
			reply(k->fuse, head->unique, 0, &init, sizeof(init));
			break;
		case FUSE_GETATTR:
			reply(k->fuse, head->unique, 0, &attr, sizeof(attr));
			break;
		case FUSE_OPEN:
			reply(k->fuse, head->unique, 0, &open, sizeof(open));
			break;
		case FUSE_READ:
			atomic_store(&k->asked, true);
			while (!atomic_load(&k->answer))
				usleep(1000);
			reply(k->fuse, head->unique, 0, zeros, sizeof(zeros));
			break;
		case FUSE_RELEASE:
		case FUSE_FLUSH:
			reply(k->fuse, head->unique, 0, NULL, 0);
			break;
		case FUSE_FORGET:
			break;
		default:
			reply(k->fuse, head->unique, -ENOSYS, NULL, 0);
		}
	}
	return NULL;
}

static int kept_start(struct kept *k)
{
	char options[64];
	struct stat stat;
	int fd;

	*k = (struct kept){ .fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC) };
	if (k->fuse < 0)
		return -errno;
	close(open(PLACE, O_CREAT | O_WRONLY, 0600));
	snprintf(options, sizeof(options), "fd=%d,rootmode=100600,user_id=0,group_id=0", k->fuse);
	if (mount("kept", PLACE, "fuse", MS_NOSUID | MS_NODEV, options) || pthread_create(&k->server, NULL, serve, k))
		return -errno;
	fd = open(PLACE, O_RDONLY | O_CLOEXEC);
	/* Before it was asked, the kernel takes it for empty. */
	if (fd < 0 || fstat(fd, &stat))
		return -errno;
	k->page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	return k->page == MAP_FAILED ? -errno : 0;
}

static void kept_end(struct kept *k)
{
	munmap(k->page, 4096);
	umount2(PLACE, MNT_DETACH);
	pthread_join(k->server, NULL);
	close(k->fuse);
	unlink(PLACE);
}

FIXTURE(locks)
{
	struct receiver r;
	struct receiver honest;
	struct kept kept;
	long long pinned;
};

FIXTURE_SETUP(locks)
{
	self->pinned = pinned_pages();
	ASSERT_EQ(0, nic_prepare(KEEPING_QUEUE));
	ASSERT_EQ(0, receiver_open(&self->r, KEEPING_QUEUE, 7));
	ASSERT_EQ(0, receiver_open(&self->honest, HONEST_QUEUE, 8));
	ASSERT_EQ(0, kept_start(&self->kept));
}

FIXTURE_TEARDOWN(locks)
{
	kept_end(&self->kept);
	receiver_close(&self->r);
	receiver_close(&self->honest);
	nic_restore();
	EXPECT_TRUE(nic_works());
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 10000));
}

/* A call, in a thread of its own. */
struct call {
	int context;
	int sock;
	const char *page;
	int result;
	atomic_bool done;
	pthread_t thread;
};

static void *send_page(void *arg)
{
	struct call *c = arg;

	c->result = send(c->sock, c->page, 4096, MSG_NOSIGNAL);
	atomic_store(&c->done, true);
	return NULL;
}

static void *attach(void *arg)
{
	struct netgpu_attach_socket a;
	struct call *c = arg;

	c->result = ng_attach_socket(c->context, c->sock, RING, RING, &a);
	atomic_store(&c->done, true);
	return NULL;
}

/* Nobody else's attaching waits for it. */
TEST_F_TIMEOUT(locks, while_a_socket_is_attached, 60)
{
	struct call sending, waiting, honest;
	int kept[2], other[2];

	ASSERT_EQ(0, tcp_pair(AF_INET, kept));
	ASSERT_EQ(0, tcp_pair(AF_INET, other));
	sending = (struct call){ .sock = kept[0], .page = self->kept.page };
	waiting = (struct call){ .context = self->r.fd, .sock = kept[0] };
	honest = (struct call){ .context = self->honest.fd, .sock = other[0] };
	ASSERT_EQ(0, pthread_create(&sending.thread, NULL, send_page, &sending));
	EXPECT_TRUE(WAIT_FOR(atomic_load(&self->kept.asked), 5000));
	ASSERT_EQ(0, pthread_create(&waiting.thread, NULL, attach, &waiting));
	/* It sleeps. */
	usleep(300000);
	EXPECT_FALSE(atomic_load(&waiting.done));
	ASSERT_EQ(0, pthread_create(&honest.thread, NULL, attach, &honest));
	EXPECT_TRUE(WAIT_FOR(atomic_load(&honest.done), 5000));
	EXPECT_FALSE(atomic_load(&waiting.done));
	atomic_store(&self->kept.answer, true);
	pthread_join(sending.thread, NULL);
	pthread_join(waiting.thread, NULL);
	pthread_join(honest.thread, NULL);
	EXPECT_EQ(4096, sending.result);
	EXPECT_EQ(0, waiting.result);
	EXPECT_EQ(0, honest.result);
	close(kept[0]);
	close(kept[1]);
	close(other[0]);
	close(other[1]);
}

/* Nor does the delivery of what others receive, while packets come for a socket with such a lock. */
TEST_F_TIMEOUT(locks, while_bytes_arrive, 60)
{
	struct call sending = { .sock = self->r.pair[0], .page = self->kept.page };
	struct netgpu_rx_entry e;
	size_t got = 0, i;

	ASSERT_EQ(1U << 16, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, 1 << 16));
	ASSERT_EQ(0, pthread_create(&sending.thread, NULL, send_page, &sending));
	EXPECT_TRUE(WAIT_FOR(atomic_load(&self->kept.asked), 5000));
	for (i = 0; i < 10; i++)
		EXPECT_EQ(1000, send(self->r.pair[1], self->honest.mem, 1000, MSG_NOSIGNAL));
	EXPECT_EQ(1U << 20, transfer(self->honest.pair[0], self->honest.pair[1], &self->honest.fill, &self->honest.rx, 1 << 20));
	EXPECT_FALSE(take(&self->r.rx, &e));
	atomic_store(&self->kept.answer, true);
	pthread_join(sending.thread, NULL);
	EXPECT_EQ(4096, sending.result);
	/* Its own bytes come when it gives the lock back, without being asked for. */
	while (WAIT_FOR(got == 10000 || take(&self->r.rx, &e), 5000) && got < 10000)
		got += e.len;
	EXPECT_EQ(10000U, got);
}

TEST_HARNESS_MAIN
