// SPDX-License-Identifier: MIT OR Apache-2.0
/* Sockets: which can be attached, what attaching changes, and sending. Needs the ports. */
#include "helpers.h"
#include "kselftest_harness.h"
#include "taker.h"

#include <linux/io_uring.h>
#include <linux/tls.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>

FIXTURE(sock)
{
	int fd;
	int area;
	size_t unit;
	char *mem;
	int pair[2];
};

FIXTURE_VARIANT(sock)
{
	int domain;
};

FIXTURE_VARIANT_ADD(sock, ipv4)
{
	.domain = AF_INET,
};

FIXTURE_VARIANT_ADD(sock, ipv6)
{
	.domain = AF_INET6,
};

FIXTURE_SETUP(sock)
{
	self->unit = buffer_size();
	self->mem = memory(64 * self->unit);
	self->area = ng_open();
	self->fd = ng_open();
	ASSERT_EQ(1, ng_add_region(self->area, self->mem, 64 * self->unit));
	ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
	ASSERT_EQ(0, ng_attach_region(self->fd, self->area, 1));
	ASSERT_EQ(0, tcp_pair(variant->domain, self->pair));
}

FIXTURE_TEARDOWN(sock)
{
	close(self->pair[0]);
	close(self->pair[1]);
	close(self->fd);
	close(self->area);
}

/* Sockets that cannot be attached. */

TEST_F(sock, no_socket)
{
	struct netgpu_attach_socket a;
	int file = open("/proc/self/exe", O_RDONLY), path = open("/tmp", O_PATH);

	EXPECT_EQ(-EBADF, ng_attach_socket(self->fd, -1, RING, RING, &a));
	EXPECT_EQ(-EBADF, ng_attach_socket(self->fd, INT_MIN, RING, RING, &a));
	EXPECT_EQ(-EBADF, ng_attach_socket(self->fd, 999, RING, RING, &a));
	EXPECT_EQ(-EBADF, ng_attach_socket(self->fd, path, RING, RING, &a));
	EXPECT_EQ(-ENOTSOCK, ng_attach_socket(self->fd, file, RING, RING, &a));
	EXPECT_EQ(-ENOTSOCK, ng_attach_socket(self->fd, self->fd, RING, RING, &a));
	EXPECT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	close(file);
	close(path);
}

TEST_F(sock, other_protocols)
{
	struct netgpu_attach_socket a;
	int domain = variant->domain, udp = socket(domain, SOCK_DGRAM, 0);
	int raw = socket(domain, SOCK_RAW, IPPROTO_ICMP), local[2], netlink = socket(AF_NETLINK, SOCK_RAW, 0);
	int packet = socket(AF_PACKET, SOCK_RAW, 0), mptcp = socket(domain, SOCK_STREAM, IPPROTO_MPTCP);

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, local));
	EXPECT_EQ(-EOPNOTSUPP, ng_attach_socket(self->fd, udp, RING, RING, &a));
	EXPECT_EQ(-EOPNOTSUPP, ng_attach_socket(self->fd, raw, RING, RING, &a));
	EXPECT_EQ(-EOPNOTSUPP, ng_attach_socket(self->fd, local[0], RING, RING, &a));
	EXPECT_EQ(-EOPNOTSUPP, ng_attach_socket(self->fd, netlink, RING, RING, &a));
	EXPECT_EQ(-EOPNOTSUPP, ng_attach_socket(self->fd, packet, RING, RING, &a));
	/* A kernel without MPTCP has no such socket. */
	if (mptcp >= 0)
		EXPECT_EQ(-EOPNOTSUPP, ng_attach_socket(self->fd, mptcp, RING, RING, &a));
	EXPECT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
}

TEST_F(sock, listening)
{
	struct netgpu_attach_socket a;
	int fd = socket(variant->domain, SOCK_STREAM, 0);

	ASSERT_EQ(0, listen(fd, 1));
	EXPECT_EQ(-EINVAL, ng_attach_socket(self->fd, fd, RING, RING, &a));
	close(fd);
}

/* Attached first, it must not become a listener. */
TEST_F(sock, listening_afterwards)
{
	struct netgpu_attach_socket a;
	int fd = socket(variant->domain, SOCK_STREAM, 0);

	ASSERT_EQ(0, ng_attach_socket(self->fd, fd, RING, RING, &a));
	EXPECT_EQ(-1, listen(fd, 1));
	close(fd);
}

TEST_F(sock, with_tls)
{
	struct tls12_crypto_info_aes_gcm_128 key = { .info = { TLS_1_2_VERSION, TLS_CIPHER_AES_GCM_128 } };
	struct netgpu_attach_socket a;
	int fd = self->pair[0];

	if (setsockopt(fd, SOL_TCP, TCP_ULP, "tls", sizeof("tls")))
		SKIP(return, "no TLS in this kernel: %s", strerror(errno));
	EXPECT_EQ(-EEXIST, ng_attach_socket(self->fd, fd, RING, RING, &a));
	ASSERT_EQ(0, setsockopt(fd, SOL_TLS, TLS_TX, &key, sizeof(key))) TH_LOG("%s", strerror(errno));
	EXPECT_EQ(-EEXIST, ng_attach_socket(self->fd, fd, RING, RING, &a));
}

TEST_F(sock, tls_afterwards)
{
	struct netgpu_attach_socket a;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	EXPECT_EQ(-1, setsockopt(self->pair[0], SOL_TCP, TCP_ULP, "tls", sizeof("tls")));
	EXPECT_EQ(EEXIST, errno);
}

/* Another part of the kernel has it: attaching changes nothing then, whoever asks. */
TEST_F(sock, taken)
{
	int taker = open(TAKER_PATH, O_RDWR | O_CLOEXEC);
	struct netgpu_attach_socket a;
	char name[IFNAMSIZ];
	socklen_t len = sizeof(name);

	ASSERT_EQ(0, ioctl(taker, TAKER_TAKE, &self->pair[0]));
	ASSERT_EQ(0, become_nobody());
	EXPECT_EQ(-EBUSY, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	ASSERT_EQ(0, getsockopt(self->pair[0], SOL_SOCKET, SO_BINDTODEVICE, name, &len));
	EXPECT_EQ(0U, len) TH_LOG("it is bound to %s", name);
	ASSERT_EQ(0, ioctl(taker, TAKER_GIVE_BACK));
	EXPECT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	len = sizeof(name);
	ASSERT_EQ(0, getsockopt(self->pair[0], SOL_SOCKET, SO_BINDTODEVICE, name, &len));
	EXPECT_STREQ(nic_name(), name);
	close(taker);
}

/* Another part of the kernel takes one that is attached, and gives it back: closing it does what it always does. */
TEST_F(sock, taken_in_between)
{
	int taker = open(TAKER_PATH, O_RDWR | O_CLOEXEC);
	struct netgpu_attach_socket a;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	ASSERT_EQ(0, ioctl(taker, TAKER_TAKE, &self->pair[0]));
	ASSERT_EQ(0, ioctl(taker, TAKER_GIVE_BACK));
	close(self->pair[0]);
	self->pair[0] = -1;
	EXPECT_EQ(-ENOENT, ng_detach_socket(self->fd, a.id));
	close(taker);
}

/* It is detached before it is given back, and an ordinary socket afterwards: what comes wakes who waits for it. */
TEST_F(sock, taken_when_detached)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int taker = open(TAKER_PATH, O_RDWR | O_CLOEXEC), listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), other, status;
	struct netgpu_attach_socket a;
	socklen_t len = sizeof(addr);
	pid_t child;

	ASSERT_EQ(0, ng_attach_socket(self->fd, fd, RING, RING, &a));
	ASSERT_EQ(0, ioctl(taker, TAKER_TAKE, &fd));
	EXPECT_EQ(0, ng_detach_socket(self->fd, a.id));
	ASSERT_EQ(0, ioctl(taker, TAKER_GIVE_BACK));
	close(taker);
	ASSERT_EQ(0, setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0));
	ASSERT_EQ(0, bind(listener, (struct sockaddr *)&addr, len));
	ASSERT_EQ(0, listen(listener, 1));
	ASSERT_EQ(0, getsockname(listener, (struct sockaddr *)&addr, &len));
	ASSERT_EQ(0, connect(fd, (struct sockaddr *)&addr, len));
	other = accept(listener, NULL, NULL);
	ASSERT_LE(0, other);
	child = fork();
	if (!child) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		_exit(poll(&p, 1, 5000) != 1);
	}
	/* It waits. */
	usleep(200000);
	ASSERT_EQ(5, send(other, "hello", 5, 0));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	close(fd);
	close(other);
	close(listener);
}

/* The ULP is not for setsockopt(2): it comes with a context only. */
TEST_F(sock, ulp_by_name)
{
	struct netgpu_attach_socket a;

	EXPECT_EQ(-1, setsockopt(self->pair[0], SOL_TCP, TCP_ULP, NETGPU_ULP_NAME, strlen(NETGPU_ULP_NAME)));
	EXPECT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
}

TEST_F(sock, attached_already)
{
	struct netgpu_attach_socket a, b;
	int other = ng_open();

	ASSERT_EQ(0, ng_bind(other, nic_index()));
	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	EXPECT_EQ(-EEXIST, ng_attach_socket(self->fd, self->pair[0], RING, RING, &b));
	EXPECT_EQ(-EEXIST, ng_attach_socket(self->fd, self->pair[0], 0, RING, &b));
	EXPECT_EQ(-EEXIST, ng_attach_socket(other, self->pair[0], RING, RING, &b));
	close(other);
}

TEST_F(sock, of_another_namespace)
{
	struct netgpu_attach_socket a;

	EXPECT_EQ(-EXDEV, ng_attach_socket(self->fd, self->pair[1], RING, RING, &a));
}

TEST_F(sock, of_another_device)
{
	struct netgpu_attach_socket a;
	int fd = socket(variant->domain, SOCK_STREAM, 0);

	ASSERT_EQ(0, setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
	EXPECT_EQ(-EXDEV, ng_attach_socket(self->fd, fd, RING, RING, &a));
	ASSERT_EQ(0, setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, nic_name(), strlen(nic_name())));
	EXPECT_EQ(0, ng_attach_socket(self->fd, fd, RING, RING, &a));
	close(fd);
}

TEST_F(sock, becomes_bound)
{
	struct netgpu_attach_socket a;
	char name[64] = "";
	socklen_t len = sizeof(name);

	ASSERT_EQ(0, getsockopt(self->pair[0], SOL_SOCKET, SO_BINDTODEVICE, name, &len));
	ASSERT_STREQ("", name);
	/* A failure must not bind it. */
	EXPECT_EQ(-EINVAL, ng_attach_socket(self->fd, self->pair[0], 17, RING, &a));
	len = sizeof(name);
	ASSERT_EQ(0, getsockopt(self->pair[0], SOL_SOCKET, SO_BINDTODEVICE, name, &len));
	EXPECT_STREQ("", name);
	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	len = sizeof(name);
	ASSERT_EQ(0, getsockopt(self->pair[0], SOL_SOCKET, SO_BINDTODEVICE, name, &len));
	EXPECT_STREQ(nic_name(), name);
}

/* Arguments. */

TEST_F(sock, ring_sizes)
{
	static const unsigned int bad[] = { 1, 2, 8, 15, 17, 24, 255, 768, NETGPU_MAX_RING_ENTRIES - 1,
		NETGPU_MAX_RING_ENTRIES + 1, 2 * NETGPU_MAX_RING_ENTRIES, 1U << 31, 0xffffffff };
	struct netgpu_attach_socket a;
	int fd;
	size_t i;

	EXPECT_EQ(-EINVAL, ng_attach_socket(self->fd, self->pair[0], 0, 0, &a));
	for (i = 0; i < ARRAY_LEN(bad); i++) {
		EXPECT_EQ(-EINVAL, ng_attach_socket(self->fd, self->pair[0], bad[i], RING, &a)) TH_LOG("rx %u", bad[i]);
		EXPECT_EQ(-EINVAL, ng_attach_socket(self->fd, self->pair[0], RING, bad[i], &a)) TH_LOG("completion %u", bad[i]);
		EXPECT_EQ(-EINVAL, ng_attach_socket(self->fd, self->pair[0], bad[i], 0, &a)) TH_LOG("rx %u", bad[i]);
	}
	fd = socket(variant->domain, SOCK_STREAM, 0);
	EXPECT_EQ(0, ng_attach_socket(self->fd, fd, NETGPU_MAX_RING_ENTRIES, NETGPU_MAX_RING_ENTRIES, &a));
	EXPECT_LE(NETGPU_RING_ENTRIES + NETGPU_MAX_RING_ENTRIES * sizeof(struct netgpu_rx_entry), a.rx_mmap_len);
	EXPECT_LE(NETGPU_RING_ENTRIES + NETGPU_MAX_RING_ENTRIES * sizeof(struct netgpu_completion), a.completion_mmap_len);
	EXPECT_NE(a.rx_mmap_offset, a.completion_mmap_offset);
	close(fd);
	/* One side only. */
	fd = socket(variant->domain, SOCK_STREAM, 0);
	EXPECT_EQ(0, ng_attach_socket(self->fd, fd, NETGPU_MIN_RING_ENTRIES, 0, &a));
	EXPECT_EQ(0U, a.completion_mmap_len);
	close(fd);
	EXPECT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, NETGPU_MIN_RING_ENTRIES, &a));
	EXPECT_EQ(0U, a.rx_mmap_len);
}

TEST_F(sock, reserved)
{
	struct netgpu_attach_socket good = { .fd = self->pair[0], .rx_entries = RING, .completion_entries = RING }, bad;
	struct netgpu_socket_stats stats;
	struct netgpu_id id;
	size_t i;

	for (i = 0; i < 32; i++) {
		bad = good;
		bad.flags = 1U << i;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_SOCKET, &bad)) TH_LOG("flags bit %zu", i);
		bad = good;
		bad.reserved = 1U << i;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_SOCKET, &bad)) TH_LOG("reserved bit %zu", i);
	}
	for (i = 0; i < sizeof(bad.reserved2); i++) {
		bad = good;
		((char *)bad.reserved2)[i] = 1;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_SOCKET, &bad)) TH_LOG("reserved2 byte %zu", i);
	}
	ASSERT_EQ(0, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_SOCKET, &good));
	for (i = 0; i < ARRAY_LEN(good.reserved2); i++)
		EXPECT_EQ(0U, good.reserved2[i]);
	for (i = 0; i < 32; i++) {
		id = (struct netgpu_id){ .id = good.id, .reserved = 1U << i };
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_DETACH_SOCKET, &id)) TH_LOG("reserved bit %zu", i);
		stats = (struct netgpu_socket_stats){ .id = good.id, .reserved = 1U << i };
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_SOCKET_STATS, &stats)) TH_LOG("reserved bit %zu", i);
	}
	for (i = 0; i < sizeof(stats.reserved2); i++) {
		stats = (struct netgpu_socket_stats){ .id = good.id };
		((char *)stats.reserved2)[i] = 1;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_SOCKET_STATS, &stats)) TH_LOG("reserved2 byte %zu", i);
	}
	EXPECT_EQ(0, ng_socket_stats(self->fd, good.id, &stats));
	EXPECT_EQ(0U, stats.rx_zerocopy + stats.rx_copied + stats.rx_stalled + stats.tx_zerocopy + stats.tx_copied + stats.tx_pending);
	EXPECT_EQ(0, ng_detach_socket(self->fd, good.id));
	EXPECT_EQ(-ENOENT, ng_detach_socket(self->fd, good.id));
	EXPECT_EQ(-ENOENT, ng_socket_stats(self->fd, good.id, &stats));
}

/* The answer cannot be written: the socket must not be attached. */
TEST_F(sock, bad_pointers)
{
	size_t page = sysconf(_SC_PAGESIZE);
	struct netgpu_attach_socket *arg = memory(page), a;
	char name[64] = "";
	socklen_t len = sizeof(name);

	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_SOCKET, NULL));
	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_SOCKET, hole(page)));
	*arg = (struct netgpu_attach_socket){ .fd = self->pair[0], .rx_entries = RING, .completion_entries = RING };
	ASSERT_EQ(0, mprotect(arg, page, PROT_READ));
	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_SOCKET, arg));
	ASSERT_EQ(0, getsockopt(self->pair[0], SOL_SOCKET, SO_BINDTODEVICE, name, &len));
	EXPECT_STREQ("", name);
	EXPECT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
}

TEST_F(sock, mapping)
{
	size_t page = sysconf(_SC_PAGESIZE);
	int rw = PROT_READ | PROT_WRITE;
	struct netgpu_attach_socket a;
	struct netgpu_ring *rx, *completion;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, a.rx_mmap_len + page, rw, MAP_SHARED, self->fd, a.rx_mmap_offset));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, a.rx_mmap_len, rw, MAP_PRIVATE, self->fd, a.rx_mmap_offset));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, a.rx_mmap_len, rw | PROT_EXEC, MAP_SHARED, self->fd, a.rx_mmap_offset));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, a.completion_mmap_len + page, rw, MAP_SHARED, self->fd, a.completion_mmap_offset));
	rx = mmap(NULL, a.rx_mmap_len, rw, MAP_SHARED, self->fd, a.rx_mmap_offset);
	ASSERT_NE(MAP_FAILED, (void *)rx);
	completion = mmap(NULL, a.completion_mmap_len, rw, MAP_SHARED, self->fd, a.completion_mmap_offset);
	ASSERT_NE(MAP_FAILED, (void *)completion);
	EXPECT_EQ(0U, rx->producer | rx->consumer | rx->flags);
	EXPECT_EQ(0U, completion->producer | completion->consumer | completion->flags);
	/* Dead mappings stay. */
	EXPECT_EQ(0, ng_detach_socket(self->fd, a.id));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, a.rx_mmap_len, rw, MAP_SHARED, self->fd, a.rx_mmap_offset));
	rx->consumer = 1;
	completion->consumer = 1;
	close(self->fd);
	self->fd = -1;
	rx->consumer = 2;
	EXPECT_EQ(0, munmap(rx, a.rx_mmap_len));
	EXPECT_EQ(0, munmap(completion, a.completion_mmap_len));
}

/* Without an rx ring receiving stays as it was, and so does plain sending with a completion ring. */
TEST_F(sock, plain_calls_stay)
{
	struct netgpu_attach_socket a;
	char buf[6] = "";

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, RING, &a));
	ASSERT_EQ(5, send(self->pair[1], "hello", 5, 0));
	EXPECT_EQ(5, recv(self->pair[0], buf, 5, MSG_WAITALL));
	EXPECT_STREQ("hello", buf);
	ASSERT_EQ(5, send(self->pair[0], "world", 5, 0));
	EXPECT_EQ(5, recv(self->pair[1], buf, 5, MSG_WAITALL));
	EXPECT_STREQ("world", buf);
}

/* Who reads @page for the first time waits until show_page(). The descriptor that it takes, or -errno. */
static int hide_page(void *page)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register missing = { .range = { (uintptr_t)page, getpagesize() }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &missing))
		return -errno;
	return uffd;
}

static int show_page(int uffd, void *page)
{
	struct uffdio_zeropage zero = { .range = { (uintptr_t)page, getpagesize() } };

	return ioctl(uffd, UFFDIO_ZEROPAGE, &zero) ? -errno : 0;
}

struct caller {
	int fd;
	int sock;
	void *page;
	atomic_int tid;
	struct netgpu_attach_socket a;
	int result;
};

static void *send_page(void *arg)
{
	struct caller *c = arg;

	c->result = send(c->sock, c->page, 100, 0);
	return NULL;
}

static void *attach(void *arg)
{
	struct caller *c = arg;

	atomic_store(&c->tid, gettid());
	c->result = ng_attach_socket(c->fd, c->sock, RING, 0, &c->a);
	return NULL;
}

/* Whether a thread of ours waits for something that no signal ends, as the lock of a socket. */
static bool waits(int tid)
{
	char path[64], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%*d %*s %c", &state) != 1)
		state = 0;
	if (f)
		fclose(f);
	return state == 'D';
}

/* The number that a socket is going to have is its own already, and no socket's for anybody else. */
TEST_F(sock, others_come_while_it_is_attached)
{
	char *page = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct caller sends = { .sock = self->pair[0], .page = page };
	struct caller attaches = { .fd = self->fd, .sock = self->pair[0] };
	struct netgpu_attach_socket other;
	int pair[2], uffd = hide_page(page);
	struct pollfd p = { .fd = uffd, .events = POLLIN };
	pthread_t sender, attacher;

	ASSERT_LE(0, uffd);
	ASSERT_EQ(0, tcp_pair(variant->domain, pair));
	/* The lock of the socket is taken, and kept. */
	ASSERT_EQ(0, pthread_create(&sender, NULL, send_page, &sends));
	ASSERT_EQ(1, poll(&p, 1, 5000 * slowness()));
	ASSERT_EQ(0, pthread_create(&attacher, NULL, attach, &attaches));
	ASSERT_TRUE(WAIT_FOR(atomic_load(&attaches.tid) && waits(attaches.tid), 5000));
	ASSERT_EQ(0, ng_attach_socket(self->fd, pair[0], RING, 0, &other));
	/* They are counted from zero. */
	EXPECT_EQ(1U, other.id);
	EXPECT_EQ(-ENOENT, ng_detach_socket(self->fd, 0));
	ASSERT_EQ(0, show_page(uffd, page));
	ASSERT_EQ(0, pthread_join(sender, NULL));
	ASSERT_EQ(0, pthread_join(attacher, NULL));
	EXPECT_EQ(100, sends.result);
	EXPECT_EQ(0, attaches.result);
	EXPECT_EQ(0U, attaches.a.id);
	EXPECT_EQ(0, ng_detach_socket(self->fd, 0));
	EXPECT_EQ(0, ng_detach_socket(self->fd, 1));
	close(uffd);
	close(pair[0]);
	close(pair[1]);
	munmap(page, getpagesize());
}

/* The end. */

TEST_F(sock, context_goes)
{
	struct pollfd poll_in = { .fd = self->pair[0], .events = POLLIN };
	struct netgpu_attach_socket a;
	char byte;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(1, poll(&poll_in, 1, 5000));
	EXPECT_EQ(-1, recv(self->pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(ECONNABORTED, errno);
}

TEST_F(sock, context_goes_while_a_thread_waits)
{
	struct pollfd poll_in = { .fd = self->pair[0], .events = POLLIN };
	struct netgpu_attach_socket a;
	pid_t child;
	int status;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	child = fork();
	if (!child) {
		close(self->fd);
		_exit(poll(&poll_in, 1, 10000) == 1 ? 0 : 1);
	}
	close(self->fd);
	self->fd = -1;
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

/* Whether anything that was sent can still be received on the other end, both ways round. */
static bool still_connected(const int pair[2])
{
	char byte = 0;

	return send(pair[0], "x", 1, MSG_NOSIGNAL) == 1 && recv(pair[1], &byte, 1, 0) == 1 && byte == 'x' &&
	       send(pair[1], "y", 1, MSG_NOSIGNAL) == 1 && recv(pair[0], &byte, 1, 0) == 1 && byte == 'y';
}

/* Nothing of the stream can be missing where netgpu received nothing and all sends have finished: it goes on. */
TEST_F(sock, sender_is_ordinary_again)
{
	struct netgpu_attach_socket a;
	struct netgpu_socket_stats stats;
	char sink[1000];

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, RING, &a));
	ASSERT_EQ(1000, send(self->pair[0], self->mem, 1000, MSG_ZEROCOPY));
	ASSERT_EQ(1000, recv(self->pair[1], sink, 1000, MSG_WAITALL));
	ASSERT_TRUE(WAIT_FOR((ng_socket_stats(self->fd, a.id, &stats), stats.tx_pending == 0), 5000));
	EXPECT_EQ(0, ng_detach_socket(self->fd, a.id));
	EXPECT_TRUE(still_connected(self->pair));
}

TEST_F(sock, sender_outlives_its_context)
{
	struct netgpu_attach_socket a;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, RING, &a));
	close(self->fd);
	self->fd = -1;
	EXPECT_TRUE(still_connected(self->pair));
}

TEST_F(sock, detached_receiver_is_aborted)
{
	struct netgpu_attach_socket a;
	char byte;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	EXPECT_EQ(0, ng_detach_socket(self->fd, a.id));
	EXPECT_EQ(-1, recv(self->pair[0], &byte, 1, MSG_DONTWAIT));
	EXPECT_EQ(ECONNABORTED, errno);
	/* And the peer learns of it. */
	EXPECT_EQ(-1, recv(self->pair[1], &byte, 1, 0));
	EXPECT_EQ(ECONNRESET, errno);
}

/* The stream has ended and was delivered: nothing is lost, the other direction stays open. */
TEST_F(sock, receiver_after_the_end_is_ordinary_again)
{
	struct netgpu_attach_socket a;
	int error = -1;
	socklen_t len = sizeof(error);
	char byte;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, 0, &a));
	ASSERT_EQ(0, shutdown(self->pair[1], SHUT_WR));
	ASSERT_TRUE(WAIT_FOR(recv(self->pair[0], &byte, 1, MSG_DONTWAIT) == 0, 5000));
	EXPECT_EQ(0, ng_detach_socket(self->fd, a.id));
	ASSERT_EQ(0, getsockopt(self->pair[0], SOL_SOCKET, SO_ERROR, &error, &len));
	EXPECT_EQ(0, error);
	EXPECT_EQ(0, recv(self->pair[0], &byte, 1, 0));
	EXPECT_EQ(1, send(self->pair[0], "x", 1, MSG_NOSIGNAL));
	EXPECT_EQ(1, recv(self->pair[1], &byte, 1, 0));
}

TEST_F(sock, socket_goes_first)
{
	struct netgpu_attach_socket a;
	struct netgpu_socket_stats stats;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	close(self->pair[0]);
	self->pair[0] = -1;
	/* Its number may live until it is detached or not, but nothing else. */
	(void)ng_socket_stats(self->fd, a.id, &stats);
	(void)ng_detach_socket(self->fd, a.id);
	EXPECT_EQ(-ENOENT, ng_detach_socket(self->fd, a.id));
}

TEST_F(sock, attach_and_detach_many_times)
{
	struct netgpu_attach_socket a;
	int round;

	for (round = 0; round < 200; round++) {
		int fd = socket(variant->domain, SOCK_STREAM, 0);

		ASSERT_EQ(0, ng_attach_socket(self->fd, fd, RING, RING, &a)) TH_LOG("round %d", round);
		if (round & 1)
			ASSERT_EQ(0, ng_detach_socket(self->fd, a.id));
		close(fd);
	}
}

struct racer {
	int fd;
	int sock;
	int ret;
};

static void *race_attach(void *arg)
{
	struct netgpu_attach_socket a;
	struct racer *r = arg;

	r->ret = ng_attach_socket(r->fd, r->sock, RING, RING, &a);
	return NULL;
}

TEST_F(sock, attaching_races)
{
	int other = ng_open(), round;

	ASSERT_EQ(0, ng_bind(other, nic_index()));
	for (round = 0; round < 50; round++) {
		int fd = socket(variant->domain, SOCK_STREAM, 0);
		struct racer r[2] = { { self->fd, fd, 0 }, { other, fd, 0 } };
		pthread_t thread;

		ASSERT_EQ(0, pthread_create(&thread, NULL, race_attach, &r[0]));
		race_attach(&r[1]);
		ASSERT_EQ(0, pthread_join(thread, NULL));
		ASSERT_EQ(-EEXIST, r[0].ret + r[1].ret) TH_LOG("answers %d and %d", r[0].ret, r[1].ret);
		close(fd);
	}
	close(other);
}

/* Sending. */

static int send_zerocopy(int fd, const void *p, size_t len)
{
	ssize_t n = send(fd, p, len, MSG_ZEROCOPY | MSG_DONTWAIT | MSG_NOSIGNAL);

	return n < 0 ? -errno : n;
}

/* The same, waiting for room in the socket's send buffer, for five seconds at most. */
static int send_patiently(int fd, const void *p, size_t len)
{
	int ret;

	WAIT_FOR((ret = send_zerocopy(fd, p, len)) != -EAGAIN, 5000);
	return ret;
}

TEST_F(sock, send_from_outside)
{
	struct netgpu_attach_socket a;
	struct netgpu_socket_stats stats;
	size_t unit = self->unit;
	char *end = self->mem + 64 * unit;
	struct iovec mixed[] = { { self->mem, 100 }, { memory(unit), 100 } };
	struct msghdr msg = { .msg_iov = mixed, .msg_iovlen = 2 };
	char got;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], RING, RING, &a));
	EXPECT_EQ(-EFAULT, send_zerocopy(self->pair[0], memory(unit), 100));
	EXPECT_EQ(-EFAULT, send_zerocopy(self->pair[0], NULL, 100));
	EXPECT_EQ(-EFAULT, send_zerocopy(self->pair[0], end - 99, 100));
	EXPECT_EQ(-EFAULT, send_zerocopy(self->pair[0], self->mem - 1, 100));
	EXPECT_EQ(-EFAULT, send_zerocopy(self->pair[0], (void *)0xffff888000000000, 100));
	EXPECT_EQ(-EFAULT, send_zerocopy(self->pair[0], (void *)-100, 200));
	EXPECT_EQ(-1, sendmsg(self->pair[0], &msg, MSG_ZEROCOPY | MSG_DONTWAIT));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, recv(self->pair[1], &got, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(0, ng_socket_stats(self->fd, a.id, &stats));
	EXPECT_EQ(0U, stats.tx_zerocopy + stats.tx_copied + stats.tx_pending);
	/* The last byte of the region is inside. */
	EXPECT_EQ(100, send_zerocopy(self->pair[0], end - 100, 100));
}

TEST_F(sock, completions)
{
	struct netgpu_attach_socket a;
	struct netgpu_socket_stats stats;
	volatile struct netgpu_ring *ring;
	volatile struct netgpu_completion *entries;
	char *got = memory(4 * self->unit);
	unsigned int i;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, 16, &a));
	ring = mmap(NULL, a.completion_mmap_len, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, a.completion_mmap_offset);
	ASSERT_NE(MAP_FAILED, (void *)ring);
	entries = (void *)((char *)ring + NETGPU_RING_ENTRIES);
	for (i = 0; i < 4 * self->unit; i++)
		self->mem[i] = i * 7 + (i >> 12);
	ASSERT_EQ((int)(4 * self->unit), send_zerocopy(self->pair[0], self->mem, 4 * self->unit));
	ASSERT_EQ((ssize_t)(4 * self->unit), recv(self->pair[1], got, 4 * self->unit, MSG_WAITALL));
	EXPECT_EQ(0, memcmp(self->mem, got, 4 * self->unit));
	EXPECT_TRUE(WAIT_FOR(ring->producer == 1, 5000));
	EXPECT_EQ(0U, entries[0].id);
	EXPECT_EQ(0U, entries[0].flags);
	EXPECT_EQ(0, ng_socket_stats(self->fd, a.id, &stats));
	EXPECT_EQ(4 * self->unit, stats.tx_zerocopy);
	EXPECT_EQ(0U, stats.tx_copied);
	EXPECT_EQ(0U, stats.tx_pending);
	/* Fifteen more fit, then the ring is full of unread entries. */
	for (i = 1; i < 16; i++)
		EXPECT_EQ(100, send_patiently(self->pair[0], self->mem, 100)) TH_LOG("send %u", i);
	EXPECT_EQ(-ENOBUFS, send_patiently(self->pair[0], self->mem, 100));
	EXPECT_TRUE(WAIT_FOR(ring->producer == 16, 5000));
	EXPECT_EQ(-ENOBUFS, send_patiently(self->pair[0], self->mem, 100));
	for (i = 1; i < 16; i++)
		EXPECT_EQ(0U, entries[i].flags);
	/* One read, one more. */
	ring->consumer = 1;
	EXPECT_EQ(100, send_patiently(self->pair[0], self->mem, 100));
	EXPECT_EQ(-ENOBUFS, send_patiently(self->pair[0], self->mem, 100));
	EXPECT_TRUE(WAIT_FOR(ring->producer == 17, 5000));
	EXPECT_EQ(16U, entries[0].id);
}

/* A send of zero bytes queues nothing and has no number. */
TEST_F(sock, empty_sends)
{
	struct netgpu_attach_socket a;
	volatile struct netgpu_ring *ring;
	int i;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, 16, &a));
	ring = mmap(NULL, a.completion_mmap_len, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, a.completion_mmap_offset);
	ASSERT_NE(MAP_FAILED, (void *)ring);
	for (i = 0; i < 40; i++)
		EXPECT_EQ(0, send_zerocopy(self->pair[0], self->mem, 0));
	EXPECT_EQ(1, send_zerocopy(self->pair[0], self->mem, 1));
	EXPECT_TRUE(WAIT_FOR(ring->producer == 1, 5000));
	EXPECT_EQ(0U, ((volatile struct netgpu_completion *)((char *)ring + NETGPU_RING_ENTRIES))->id);
}

/* An io_uring for one request at a time. */
struct uring {
	int fd;
	struct io_uring_params params;
	char *rings;
	struct io_uring_sqe *sqe;
};

static bool uring_open(struct uring *u)
{
	u->params = (struct io_uring_params){ .flags = 0 };
	u->fd = syscall(SYS_io_uring_setup, 1, &u->params);
	if (u->fd < 0)
		return false;
	u->rings = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQ_RING);
	u->sqe = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQES);
	return u->rings != MAP_FAILED && (void *)u->sqe != MAP_FAILED;
}

static uint32_t *uring_word(struct uring *u, uint32_t offset)
{
	return (uint32_t *)(u->rings + offset);
}

/* Submits send(2). */
static int uring_send(struct uring *u, int fd, const void *p, size_t len, int flags)
{
	uint32_t tail = *uring_word(u, u->params.sq_off.tail);

	*u->sqe = (struct io_uring_sqe){
		.opcode = IORING_OP_SEND, .fd = fd, .addr = (uintptr_t)p, .len = len, .msg_flags = flags,
	};
	uring_word(u, u->params.sq_off.array)[0] = 0;
	store(uring_word(u, u->params.sq_off.tail), tail + 1);
	return syscall(SYS_io_uring_enter, u->fd, 1, 0, 0, NULL, 0);
}

/* Whether it is done: @result is what it came to. */
static bool uring_done(struct uring *u, int *result)
{
	uint32_t *head = uring_word(u, u->params.cq_off.head);

	/* What waits for room is tried again in a call. */
	syscall(SYS_io_uring_enter, u->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0);
	if (load(uring_word(u, u->params.cq_off.tail)) == *head)
		return false;
	*result = ((struct io_uring_cqe *)(u->rings + u->params.cq_off.cqes))[*head & 1].res;
	store(head, *head + 1);
	return true;
}

struct drain {
	int fd;
	size_t total;
};

static void *drain_all(void *arg)
{
	static char sink[65536];
	struct drain *d = arg;
	ssize_t n;

	while ((n = recv(d->fd, sink, sizeof(sink), 0)) > 0)
		d->total += n;
	return NULL;
}

/* io_uring sends the same message again when there was no room, or room for a part only: each time it is a send of its own. */
TEST_F(sock, io_uring_tries_again)
{
	size_t whole = 64 * self->unit, sent = 0;
	struct drain drain = { .fd = self->pair[1] };
	struct netgpu_socket_stats stats;
	struct netgpu_attach_socket a;
	volatile struct netgpu_ring *ring;
	int small = 4096, got, result = 0, tries;
	struct uring u;
	pthread_t thread;

	ASSERT_TRUE(uring_open(&u)) TH_LOG("%s", strerror(errno));
	setsockopt(self->pair[1], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, 1024, &a));
	ring = mmap(NULL, a.completion_mmap_len, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, a.completion_mmap_offset);
	ASSERT_NE(MAP_FAILED, (void *)ring);
	/* No acknowledgement makes room. */
	ASSERT_EQ(0, deaf(self->pair[1], true));
	for (tries = 0; tries < 20; tries++) {
		while ((got = send_zerocopy(self->pair[0], self->mem, whole)) > 0)
			sent += got;
		ASSERT_EQ(-EAGAIN, got);
		ASSERT_EQ(1, uring_send(&u, self->pair[0], self->mem, whole, MSG_ZEROCOPY | MSG_NOSIGNAL));
		usleep(50000);
		if (!uring_done(&u, &result))
			break;
		/* But what TCP cuts anew to send it again may be smaller by a packet. */
		ASSERT_LT(0, result) TH_LOG("%s", strerror(-result));
		sent += result;
	}
	ASSERT_GT(20, tries) TH_LOG("there is always room");

	ASSERT_EQ(0, deaf(self->pair[1], false));
	ASSERT_EQ(0, pthread_create(&thread, NULL, drain_all, &drain));
	ASSERT_TRUE(WAIT_FOR(uring_done(&u, &result), 10000));
	ASSERT_LT(0, result) TH_LOG("%s", strerror(-result));
	sent += result;
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(1, uring_send(&u, self->pair[0], self->mem, whole, MSG_ZEROCOPY | MSG_WAITALL | MSG_NOSIGNAL));
		ASSERT_TRUE(WAIT_FOR(uring_done(&u, &result), 10000));
		ASSERT_EQ((int)whole, result);
		sent += whole;
	}
	ASSERT_TRUE(WAIT_FOR((ng_socket_stats(self->fd, a.id, &stats), stats.tx_pending == 0), 10000));
	EXPECT_EQ(sent, stats.tx_zerocopy);
	EXPECT_EQ(0U, stats.tx_copied);
	EXPECT_EQ(stats.tx_sends, ring->producer);
	shutdown(self->pair[0], SHUT_WR);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(sent, drain.total);
	close(u.fd);
}

/* What is signed the CPU has to read. */

TEST_F(sock, signed_connections)
{
	struct netgpu_attach_socket a;
	char got[6] = "";

	ASSERT_EQ(0, sign(self->pair[0], true));
	ASSERT_EQ(0, sign(self->pair[1], true));
	EXPECT_EQ(-EOPNOTSUPP, ng_attach_socket(self->fd, self->pair[0], RING, 0, &a));
	EXPECT_EQ(-EOPNOTSUPP, ng_attach_socket(self->fd, self->pair[0], 0, RING, &a));
	ASSERT_EQ(5, send(self->pair[0], "hello", 5, 0));
	EXPECT_EQ(5, recv(self->pair[1], got, 5, MSG_WAITALL));
	EXPECT_STREQ("hello", got);
}

TEST_F(sock, signed_afterwards)
{
	struct netgpu_attach_socket a;
	struct netgpu_socket_stats stats;

	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, RING, &a));
	ASSERT_EQ(0, sign(self->pair[0], true));
	EXPECT_EQ(-EOPNOTSUPP, send_zerocopy(self->pair[0], self->mem, 100));
	EXPECT_EQ(0, ng_socket_stats(self->fd, a.id, &stats));
	EXPECT_EQ(0U, stats.tx_sends + stats.tx_pending);
	ASSERT_EQ(0, sign(self->pair[0], false));
	EXPECT_EQ(100, send_zerocopy(self->pair[0], self->mem, 100));
}

/* Sent, and to be sent again: not as long as that would have to be signed. */
TEST_F(sock, signed_with_sends_under_way)
{
	struct netgpu_attach_socket a;
	size_t len = 8 * self->unit;
	char *got = memory(len);

	pattern_fill(self->mem, 0, len);
	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, RING, &a));
	ASSERT_EQ(0, deaf(self->pair[1], true));
	ASSERT_EQ((int)len, send_zerocopy(self->pair[0], self->mem, len));
	ASSERT_EQ(0, sign(self->pair[0], true));
	/* A retransmission timeout, and the next. */
	usleep(700000);
	ASSERT_EQ(0, deaf(self->pair[1], false));
	ASSERT_EQ(0, sign(self->pair[0], false));
	ASSERT_EQ((ssize_t)len, recv(self->pair[1], got, len, MSG_WAITALL));
	EXPECT_EQ(len, pattern_match(got, 0, len));
}

/* The connection breaks with sends under way: every one of them completes. */
TEST_F(sock, reset_completes_everything)
{
	struct netgpu_attach_socket a;
	struct linger now = { 1, 0 };
	struct netgpu_socket_stats stats;
	volatile struct netgpu_ring *ring;
	unsigned int sent = 0;
	int small = 4096;

	setsockopt(self->pair[1], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, RING, &a));
	ring = mmap(NULL, a.completion_mmap_len, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, a.completion_mmap_offset);
	ASSERT_NE(MAP_FAILED, (void *)ring);
	while (sent < RING && send_zerocopy(self->pair[0], self->mem, 64 * self->unit) > 0)
		sent++;
	ASSERT_LT(0U, sent);
	ASSERT_EQ(0, setsockopt(self->pair[1], SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
	close(self->pair[1]);
	self->pair[1] = -1;
	EXPECT_TRUE(WAIT_FOR(ring->producer == sent, 10000)) TH_LOG("%u of %u", ring->producer, sent);
	EXPECT_EQ(0, ng_socket_stats(self->fd, a.id, &stats));
	EXPECT_EQ(0U, stats.tx_pending);
	EXPECT_GT(0, send_zerocopy(self->pair[0], self->mem, 100));
}

/* A socket closed with sends that the peer does not take: they keep their memory until the context goes, and no longer. */
TEST_F(sock, closed_sender_ends_with_its_context)
{
	struct netgpu_attach_socket a;
	long long pinned = pinned_pages();
	unsigned int sent = 0;
	int small = 4096;
	char sink[4096];
	ssize_t n;

	setsockopt(self->pair[1], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, RING, &a));
	while (sent < RING && send_zerocopy(self->pair[0], self->mem, 64 * self->unit) > 0)
		sent++;
	ASSERT_LT(0U, sent);
	close(self->pair[0]);
	self->pair[0] = -1;
	EXPECT_EQ(-ENOENT, ng_detach_socket(self->fd, a.id));
	close(self->area);
	self->area = -1;
	/* Those of the case before may have gone meanwhile, these not. */
	EXPECT_LE(64, pinned_pages());
	close(self->fd);
	self->fd = -1;
	EXPECT_TRUE(WAIT_FOR(pinned_pages() <= pinned - 64, 5000)) TH_LOG("%lld before, %lld after", pinned, pinned_pages());
	/* And the peer learns of it. */
	while ((n = recv(self->pair[1], sink, sizeof(sink), 0)) > 0)
		;
	EXPECT_EQ(-1, n);
	EXPECT_EQ(ECONNRESET, errno);
}

TEST_HARNESS_MAIN
