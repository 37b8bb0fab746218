// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Regions of a dma-buf that the kernel's own vfio-pci exports: the BAR of a device that user space drives. The CPU cannot reach the
 * memory by way of it. NETGPU_TEST_GPU names the PCI device, which is bound to vfio-pci.
 */
#include "helpers.h"
#include "kselftest_harness.h"

#include <linux/vfio.h>

#define LEN	(BUFFERS * buffer_size())
#define BAR	2
#define RULE	7
/* Of configuration space. */
#define COMMAND		4
#define COMMAND_MEMORY	2

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF
#define VFIO_DEVICE_FEATURE_DMA_BUF 11
struct vfio_region_dma_range {
	__u64 offset;
	__u64 length;
};
struct vfio_device_feature_dma_buf {
	__u32 region_index;
	__u32 open_flags;
	__u32 flags;
	__u32 nr_ranges;
	struct vfio_region_dma_range dma_ranges[];
};
#endif

FIXTURE(vfio)
{
	int container, group, device;
	uint64_t config;	/* where the device's file has it */
	char *bar;
	int buf;		/* LEN bytes of the BAR from LEN on */
	int queue;
	int area;		/* of ordinary memory */
	struct receiver r;
};

/* The dma-buf of @len bytes of the BAR from @offset on, or -errno. */
static int export(int device, uint64_t offset, uint64_t len)
{
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_feature_dma_buf dma_buf;
		struct vfio_region_dma_range range;
	} arg = {
		.feature = { .argsz = sizeof(arg), .flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF },
		.dma_buf = { .region_index = BAR, .open_flags = O_RDWR | O_CLOEXEC, .nr_ranges = 1 },
		.range = { .offset = offset, .length = len },
	};
	int fd = ioctl(device, VFIO_DEVICE_FEATURE, &arg);

	return fd < 0 ? -errno : fd;
}

FIXTURE_SETUP(vfio)
{
	struct vfio_region_info region = { .argsz = sizeof(region), .index = BAR };
	const char *name = getenv("NETGPU_TEST_GPU");
	char path[128], link[128], *host;
	ssize_t n;
	size_t i;

	ASSERT_NE(NULL, name);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", name);
	n = readlink(path, link, sizeof(link) - 1);
	ASSERT_LT(0, n);
	link[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%s", strrchr(link, '/') + 1);
	self->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->container);
	self->group = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->group) TH_LOG("%s: %s", path, strerror(errno));
	ASSERT_EQ(0, ioctl(self->group, VFIO_GROUP_SET_CONTAINER, &self->container));
	ASSERT_EQ(0, ioctl(self->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
	self->device = ioctl(self->group, VFIO_GROUP_GET_DEVICE_FD, name);
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, ioctl(self->device, VFIO_DEVICE_GET_REGION_INFO, &region));
	self->bar = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, self->device, region.offset);
	ASSERT_NE(MAP_FAILED, self->bar);
	region.index = VFIO_PCI_CONFIG_REGION_INDEX;
	ASSERT_EQ(0, ioctl(self->device, VFIO_DEVICE_GET_REGION_INFO, &region));
	self->config = region.offset;
	self->buf = export(self->device, LEN, LEN);
	ASSERT_LE(0, self->buf) TH_LOG("%s", strerror(-self->buf));

	self->queue = nic_queues() - 1;
	ASSERT_EQ(0, nic_prepare(self->queue));
	ASSERT_EQ(0, receiver_open_on(&self->r, self->queue, RULE, self->bar + LEN, self->buf));
	/* For what has to be copied. */
	self->area = ng_open();
	host = memory(LEN);
	ASSERT_EQ(1, ng_add_region(self->area, host, LEN));
	ASSERT_EQ(0, ng_attach_region(self->r.fd, self->area, 1));
	for (i = 0; i < BUFFERS; i++)
		ASSERT_TRUE(give(&self->r.fill, (uintptr_t)host + i * buffer_size()));
}

FIXTURE_TEARDOWN(vfio)
{
	receiver_close(&self->r);
	close(self->area);
	close(self->buf);
	close(self->device);
	close(self->group);
	close(self->container);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

TEST_F_TIMEOUT(vfio, receive, 120)
{
	struct netgpu_socket_stats stats;
	size_t total = 1 << 20;

	ASSERT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	ASSERT_EQ(0, ng_socket_stats(self->r.fd, self->r.socket_id, &stats));
	EXPECT_EQ(total, stats.rx_zerocopy + stats.rx_copied);
	EXPECT_LE(stats.rx_copied, total / 20);
}

/* The device's memory is switched off, as before a reset: vfio-pci takes the dma-buf back, and waits. */
TEST_F_TIMEOUT(vfio, revoke, 120)
{
	size_t total = 1 << 18;
	uint16_t command;

	ASSERT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	ASSERT_EQ(2, pread(self->device, &command, 2, self->config + COMMAND));
	ASSERT_NE(0, command & COMMAND_MEMORY);
	command &= ~COMMAND_MEMORY;
	ASSERT_EQ(2, pwrite(self->device, &command, 2, self->config + COMMAND));
	/* The other region goes on. */
	EXPECT_EQ(total, transfer(self->r.pair[0], self->r.pair[1], &self->r.fill, &self->r.rx, total));
	command |= COMMAND_MEMORY;
	ASSERT_EQ(2, pwrite(self->device, &command, 2, self->config + COMMAND));
}

TEST_HARNESS_MAIN
