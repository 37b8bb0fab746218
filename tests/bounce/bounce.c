// SPDX-License-Identifier: MIT OR Apache-2.0
/* A machine whose devices reach memory through bounce buffers only. Needs the ports, and swiotlb=force. */
#include "helpers.h"
#include "kselftest_harness.h"

TEST(attach)
{
	size_t len = 16 * buffer_size();
	long long pinned = pinned_pages();
	int area = ng_open(), fd = ng_open();
	void *mem = memory(len);

	ASSERT_EQ(1, ng_add_region(area, mem, len));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	EXPECT_EQ(-EIO, ng_attach_region(fd, area, 1));
	/* Nothing stayed mapped: the same answer again, and not that the addresses overlap. */
	EXPECT_EQ(-EIO, ng_attach_region(fd, area, 1));
	close(area);
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == pinned, 5000));
	close(fd);
}

TEST_HARNESS_MAIN
