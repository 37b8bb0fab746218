// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Regions of a GPU's memory by NVIDIA's peer-to-peer interface, with the stand-in for its driver.
 */
#include "helpers.h"
#include "kselftest_harness.h"
#include "memory.h"

/* Adding. */

FIXTURE(add)
{
	int gpu, area;
	char *mem;
};

FIXTURE_SETUP(add)
{
	self->gpu = nvidia_open();
	self->area = ng_open();
	self->mem = nvidia_alloc(self->gpu, 4 * PAGE);
	ASSERT_NE(NULL, self->mem);
}

FIXTURE_TEARDOWN(add)
{
	close(self->area);
	EXPECT_TRUE(WAIT_FOR(nvidia_unused(), 5000));
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
	EXPECT_EQ(NULL, nvidia_alloc(self->gpu, 1UL << 30));
	EXPECT_EQ(-EFAULT, ng_add_cuda(self->area, self->mem, 1UL << 30));
	/* All of it is there, but other devices can be shown less. */
	set(PARAMETER("shown"), "131072");
	EXPECT_EQ(-ENOMEM, ng_add_cuda(self->area, self->mem, 4 * PAGE));
	EXPECT_EQ(1, ng_add_cuda(self->area, self->mem, 2 * PAGE));
	set(PARAMETER("shown"), "18446744073709551615");
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
	ASSERT_EQ(0, nvidia_free(self->gpu, self->mem));
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
	ASSERT_EQ(0, nvidia_free(self->gpu, self->mem));
	EXPECT_TRUE(nvidia_unused());
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	EXPECT_EQ(-ENODEV, ng_attach_region(fd, self->area, 1));
	close(fd);
}

/* Memory that is pinned for good, and memory that is not. */

FIXTURE(freed)
{
	int gpu, queue;
	char *mem;
	struct receiver r;
};

FIXTURE_VARIANT(freed)
{
	const char *persistent;
};

FIXTURE_VARIANT_ADD(freed, persistent)
{
	.persistent = "Y",
};

FIXTURE_VARIANT_ADD(freed, revocable)
{
	.persistent = "N",
};

FIXTURE_SETUP(freed)
{
	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	self->gpu = nvidia_open();
	/* So that what is used does not begin where the memory does. */
	ASSERT_NE(NULL, nvidia_alloc(self->gpu, 3 * PAGE));
	self->mem = nvidia_alloc(self->gpu, LEN);
	ASSERT_NE(NULL, self->mem);
	set(PARAMETER("persistent"), variant->persistent);
	ASSERT_EQ(0, receiver_open_on(&self->r, self->queue, RULE, self->mem, CUDA_MEMORY));
	set(PARAMETER("persistent"), "Y");
}

FIXTURE_TEARDOWN(freed)
{
	receiver_close(&self->r);
	EXPECT_TRUE(WAIT_FOR(nvidia_unused(), 5000));
	close(self->gpu);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

/* Freed in the middle of it: at once when it was pinned for good, and then the NIC goes on; else nothing writes to it afterwards. */
TEST_F_TIMEOUT(freed, under_traffic, 60)
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
	EXPECT_EQ(0, nvidia_free(self->gpu, self->mem));
	EXPECT_EQ(stays, !nvidia_unused());
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

TEST_HARNESS_MAIN
