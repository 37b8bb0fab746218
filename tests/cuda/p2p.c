// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Regions of a GPU's memory by NVIDIA's peer-to-peer interface, with the stand-in for its driver. Unlike on a real one, the CPU reaches
 * the memory at the addresses that CUDA has for it.
 */
#include "helpers.h"
#include "kselftest_harness.h"
#include "standin_gpu.h"
#include "standin_nvidia.h"

#include <pthread.h>

#define LEN	(BUFFERS * buffer_size())
#define PAGE	STANDIN_NVIDIA_PAGE
#define RULE	7
#define PARAMETER(name)	"/sys/module/standin_nvidia/parameters/" name
#define DEBUGFS(name)	"/sys/kernel/debug/standin_nvidia/" name

static int gpu_open(void)
{
	int fd = open(STANDIN_NVIDIA_PATH, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		abort();
	return fd;
}

/* Memory of the GPU that lives as long as @fd, or NULL. */
static char *gpu_alloc(int fd, size_t len)
{
	char *hole = mmap(NULL, len + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct standin_alloc alloc = { .addr = ((uintptr_t)hole + PAGE - 1) / PAGE * PAGE, .len = len };
	char *mem = (char *)(uintptr_t)alloc.addr;
	int gpu;

	if (hole == MAP_FAILED)
		abort();
	if (ioctl(fd, STANDIN_ALLOC, &alloc))
		return NULL;
	gpu = open(STANDIN_GPU_PATH, O_RDWR | O_CLOEXEC);
	if (gpu < 0 || mmap(mem, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, gpu, alloc.offset) != mem)
		abort();
	close(gpu);
	return mem;
}

static int gpu_free(int fd, const char *mem)
{
	uint64_t addr = (uintptr_t)mem;

	return ioctl(fd, STANDIN_FREE, &addr) ? -errno : 0;
}

static unsigned int number(const char *path)
{
	unsigned int n;
	FILE *f = fopen(path, "r");

	if (!f || fscanf(f, "%u", &n) != 1)
		abort();
	fclose(f);
	return n;
}

static void set(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		abort();
	close(fd);
}

static bool gpu_unused(void)
{
	return !number(DEBUGFS("tables")) && !number(DEBUGFS("mappings"));
}

/* Adding. */

FIXTURE(add)
{
	int gpu, area;
	char *mem;
};

FIXTURE_SETUP(add)
{
	self->gpu = gpu_open();
	self->area = ng_open();
	self->mem = gpu_alloc(self->gpu, 4 * PAGE);
	ASSERT_NE(NULL, self->mem);
}

FIXTURE_TEARDOWN(add)
{
	close(self->area);
	EXPECT_TRUE(WAIT_FOR(gpu_unused(), 5000));
	close(self->gpu);
}

TEST_F(add, parts)
{
	EXPECT_EQ(1, ng_add_cuda(self->area, self->mem, PAGE));
	EXPECT_EQ(2, ng_add_cuda(self->area, self->mem + PAGE, 3 * PAGE));
	EXPECT_EQ(2U, number(DEBUGFS("tables")));
	EXPECT_EQ(-EEXIST, ng_add_cuda(self->area, self->mem, 2 * PAGE));
	EXPECT_EQ(2U, number(DEBUGFS("tables")));
}

TEST_F(add, what_is_not_the_gpus)
{
	char *host = memory(2 * PAGE), *aligned = (char *)(((uintptr_t)host + PAGE - 1) / PAGE * PAGE);

	EXPECT_EQ(-EFAULT, ng_add_cuda(self->area, aligned, PAGE));
	EXPECT_EQ(-EFAULT, ng_add_cuda(self->area, self->mem, 8 * PAGE));
	EXPECT_EQ(-EINVAL, ng_add_cuda(self->area, self->mem + 4096, PAGE));
	EXPECT_EQ(-EINVAL, ng_add_cuda(self->area, self->mem, PAGE + 4096));
	EXPECT_EQ(-EINVAL, ng_add_cuda(self->area, self->mem, 0));
	EXPECT_EQ(1, ng_add_cuda(self->area, self->mem, 4 * PAGE));
}

TEST_F(add, larger_than_the_bar)
{
	EXPECT_EQ(NULL, gpu_alloc(self->gpu, 1UL << 30));
	EXPECT_EQ(-EFAULT, ng_add_cuda(self->area, self->mem, 1UL << 30));
}

/* Those of a driver that has changed. */
TEST_F(add, unknown_layouts)
{
	int fd = ng_open();

	set(PARAMETER("table_version"), "0x20000");
	EXPECT_EQ(-EOPNOTSUPP, ng_add_cuda(self->area, self->mem, PAGE));
	set(PARAMETER("table_version"), "0x10001");
	EXPECT_EQ(-EOPNOTSUPP, ng_add_cuda(self->area, self->mem, PAGE));
	set(PARAMETER("table_version"), "0x10003");
	EXPECT_EQ(1, ng_add_cuda(self->area, self->mem, PAGE));
	set(PARAMETER("table_version"), "0x10002");
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	set(PARAMETER("mapping_version"), "0x30000");
	EXPECT_EQ(-EOPNOTSUPP, ng_attach_region(fd, self->area, 1));
	EXPECT_EQ(0U, number(DEBUGFS("mappings")));
	set(PARAMETER("mapping_version"), "0x20003");
	EXPECT_EQ(0, ng_attach_region(fd, self->area, 1));
	EXPECT_EQ(1U, number(DEBUGFS("mappings")));
	close(fd);
}

/* Memory that was pinned for good stays when it is freed, and its address is nobody's. */
TEST_F(add, freed_while_pinned)
{
	int fd = ng_open();

	ASSERT_EQ(1, ng_add_cuda(self->area, self->mem, 4 * PAGE));
	ASSERT_EQ(0, gpu_free(self->gpu, self->mem));
	EXPECT_EQ(1U, number(DEBUGFS("tables")));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	EXPECT_EQ(0, ng_attach_region(fd, self->area, 1));
	EXPECT_EQ(-EFAULT, ng_add_cuda(ng_open(), self->mem, 4 * PAGE));
	close(fd);
}

/* Memory that goes when it is freed cannot be attached any more. */
TEST_F(add, gone_before_it_is_attached)
{
	int fd = ng_open();

	set(PARAMETER("persistent"), "N");
	ASSERT_EQ(1, ng_add_cuda(self->area, self->mem, 4 * PAGE));
	set(PARAMETER("persistent"), "Y");
	ASSERT_EQ(0, gpu_free(self->gpu, self->mem));
	EXPECT_TRUE(gpu_unused());
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	EXPECT_EQ(-ENODEV, ng_attach_region(fd, self->area, 1));
	close(fd);
}

/* Data, with memory that is pinned for good and with memory that is not. */

FIXTURE(data)
{
	int gpu, queue;
	char *mem;
	struct receiver r;
};

FIXTURE_VARIANT(data)
{
	const char *persistent;
};

FIXTURE_VARIANT_ADD(data, persistent)
{
	.persistent = "Y",
};

FIXTURE_VARIANT_ADD(data, revocable)
{
	.persistent = "N",
};

FIXTURE_SETUP(data)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	self->gpu = gpu_open();
	/* So that what is used does not begin where the memory does. */
	ASSERT_NE(NULL, gpu_alloc(self->gpu, 3 * PAGE));
	self->mem = gpu_alloc(self->gpu, LEN);
	ASSERT_NE(NULL, self->mem);
	set(PARAMETER("persistent"), variant->persistent);
	ASSERT_EQ(0, receiver_open_on(&self->r, self->queue, RULE, self->mem, CUDA_MEMORY));
	set(PARAMETER("persistent"), "Y");
}

FIXTURE_TEARDOWN(data)
{
	receiver_close(&self->r);
	EXPECT_TRUE(WAIT_FOR(gpu_unused(), 5000));
	close(self->gpu);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

TEST_F_TIMEOUT(data, receive, 120)
{
	struct netgpu_socket_stats stats;
	size_t total = 4 << 20;

	ASSERT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	EXPECT_EQ(total, stats.rx_zerocopy + stats.rx_copied);
	EXPECT_LE(stats.rx_copied, total / 20);
}

/* Through a queue that is not ours: the CPU writes all of it to the GPU. */
TEST_F(data, receive_by_copy)
{
	struct netgpu_socket_stats stats;
	size_t total = 1 << 20;

	ASSERT_EQ(0, sh("ethtool -N %s delete %d", nic_name(), RULE));
	self->r.rule = 0;
	ASSERT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	EXPECT_EQ(total, stats.rx_copied);
}

TEST_F(data, send)
{
	struct timeval patience = { .tv_sec = 10 };
	struct netgpu_socket_stats stats;
	struct netgpu_attach_socket a;
	static char got[1 << 16];
	size_t done, i;
	int pair[2];

	ASSERT_EQ(0, tcp_pair(AF_INET6, pair));
	ASSERT_EQ(0, setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	ASSERT_EQ(0, ng_attach_socket(self->r.fd, pair[0], 0, 256, &a));
	for (i = 0; i < sizeof(got); i++)
		((volatile char *)self->mem)[4097 + i] = pattern(i);
	for (done = 0; done < sizeof(got);) {
		ssize_t n = send(pair[0], self->mem + 4097 + done, sizeof(got) - done, MSG_ZEROCOPY | MSG_NOSIGNAL);

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
	EXPECT_TRUE(WAIT_FOR(!ng_socket_stats(self->r.fd, a.id, &stats) && !stats.tx_pending, 5000));
	EXPECT_EQ(0U, stats.tx_copied);
	close(pair[0]);
	close(pair[1]);
}

/* Freed in the middle of it: at once when it was pinned for good, and then the NIC goes on; else nothing writes to it afterwards. */
TEST_F_TIMEOUT(data, free_under_traffic, 60)
{
	size_t got = 0, i, len = LEN, wrong = 0;
	struct traffic t;
	bool stays = variant->persistent[0] == 'Y';
	struct netgpu_rx_entry e;
	long long end;
	char byte;

	traffic_start(&t, self->r.pair[1]);
	for (end = now_ms() + 10000; got < 1 << 16 && now_ms() < end;) {
		while (take(&self->r.rx, &e)) {
			got += e.len;
			give(&self->r.fill, e.addr);
		}
		recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT);
	}
	EXPECT_LE(1U << 16, got);
	EXPECT_EQ(0, gpu_free(self->gpu, self->mem));
	EXPECT_EQ(stays, !gpu_unused());
	if (!stays) {
		memset(self->mem, 0xa5, len);
		usleep(200000);
		for (i = 0; i < len; i++)
			wrong += ((volatile unsigned char *)self->mem)[i] != 0xa5;
		EXPECT_EQ(0U, wrong);
		EXPECT_TRUE(WAIT_FOR(recv(self->r.pair[0], &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNABORTED, 5000));
	}
	traffic_stop(&t);
}

/* At any moment: with the memory just being pinned and attached, with traffic, with everything on its way out. */
FIXTURE(storm)
{
	int queue;
};

FIXTURE_SETUP(storm)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	set(PARAMETER("persistent"), "N");
}

FIXTURE_TEARDOWN(storm)
{
	set(PARAMETER("persistent"), "Y");
	nic_restore();
	EXPECT_TRUE(nic_works());
}

static void *revoke_soon(void *arg)
{
	usleep((intptr_t)arg);
	set(DEBUGFS("revoke"), "1");
	return NULL;
}

TEST_F_TIMEOUT(storm, revoke, 900)
{
	int rounds = getenv("NETGPU_TEST_REVOKES") ? atoi(getenv("NETGPU_TEST_REVOKES")) : 20, n;

	srand(1);
	for (n = 0; n < rounds; n++) {
		int gpu = gpu_open(), area = ng_open(), fd = ng_open();
		char *mem = gpu_alloc(gpu, LEN);
		struct receiver r;
		struct traffic t;
		pthread_t thread;
		int ret;

		ASSERT_NE(NULL, mem) TH_LOG("round %d", n);
		if (n % 2) {
			ASSERT_EQ(0, pthread_create(&thread, NULL, revoke_soon, (void *)(intptr_t)(rand() % 2000)));
			ret = ng_add_cuda(area, mem, LEN);
			EXPECT_TRUE(ret == 1 || ret == -ENODEV) TH_LOG("round %d: %d", n, ret);
			ASSERT_EQ(0, ng_bind(fd, nic_index()));
			if (ret == 1) {
				ret = ng_attach_region(fd, area, 1);
				EXPECT_TRUE(!ret || ret == -ENODEV) TH_LOG("round %d: %d", n, ret);
			}
			close(fd);
			pthread_join(thread, NULL);
		} else {
			ASSERT_EQ(0, receiver_open_on(&r, self->queue, RULE, mem, CUDA_MEMORY)) TH_LOG("round %d", n);
			traffic_start(&t, r.pair[1]);
			usleep(rand() % 50000);
			if (n % 4)
				close(r.fd);
			/* The end of the process that has it, as far as the driver can tell. */
			close(gpu);
			EXPECT_TRUE(WAIT_FOR(gpu_unused(), 5000)) TH_LOG("round %d", n);
			traffic_stop(&t);
			if (n % 4)
				r.fd = -1;
			receiver_close(&r);
			close(fd);
		}
		close(area);
		if (n % 2)
			close(gpu);
		ASSERT_TRUE(WAIT_FOR(gpu_unused(), 5000)) TH_LOG("round %d", n);
	}
}

TEST_HARNESS_MAIN
