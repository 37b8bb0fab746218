/* SPDX-License-Identifier: GPL-2.0 */
/* How another module gives netgpu.ko the memory of GPUs (NETGPU_REGION_CUDA). */
#ifndef NETGPU_GPU_H
#define NETGPU_GPU_H

#include <linux/types.h>

struct device;
struct module;

/* Memory is pinned and mapped in pages of this size. */
#define NETGPU_GPU_PAGE_SHIFT	16

/**
 * struct netgpu_gpu_ops - what the module offers; all may sleep
 * @owner: the module, which is held while anything of it is in use
 * @pin: pins @len bytes at @addr of the current process as @pages; both are multiples of the page size. The memory may go all the same: then
 *	@revoked is called with @data, once, maybe before this returns. When that returns, no device uses the memory, and no mapping of it is left
 * @unpin: the opposite; no mapping is left. @revoked is not called any more when this returns
 * @physical: the address of a page for the CPU
 * @map: maps all pages for DMA of @dev as @mapping
 * @address: the address of a page for the device
 * @unmap: the opposite of @map
 */
struct netgpu_gpu_ops {
	struct module *owner;
	int (*pin)(u64 addr, u64 len, void (*revoked)(void *data), void *data, void **pages);
	void (*unpin)(void *pages);
	phys_addr_t (*physical)(void *pages, u32 index);
	int (*map)(void *pages, struct device *dev, void **mapping);
	dma_addr_t (*address)(void *mapping, u32 index);
	void (*unmap)(void *pages, void *mapping);
};

/* One at a time: -EBUSY. */
int netgpu_register_gpu(const struct netgpu_gpu_ops *ops);
/* Of the one that is registered, for the end of its module. */
void netgpu_unregister_gpu(void);

#endif /* NETGPU_GPU_H */
