// SPDX-License-Identifier: GPL-2.0
/* The DMA mapping of pinned pages, and a net_iov for each. */
#include <linux/backing-dev.h>
#include <linux/dma-mapping.h>
#include <linux/hugetlb_inline.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <net/page_pool/helpers.h>

#include "shim.h"

static_assert(PAGE_SIZE == NETGPU_BUFFER_SIZE && PAGE_SHIFT == NETGPU_BUFFER_SHIFT);

/* As gup decides: pages that a file system writes back cannot stay writable for ever. */
bool netgpu_vma_written_back(struct vm_area_struct *vma)
{
	return vma->vm_file && (vma->vm_flags & VM_SHARED) && !is_vm_hugetlb_page(vma) &&
	       mapping_can_writeback(vma->vm_file->f_mapping);
}

static void netgpu_niov_get(struct net_iov *niov)
{
	netgpu_context_get(netgpu_map_of(niov)->context);
}

static void netgpu_niov_put(struct net_iov *niov)
{
	netgpu_context_put(netgpu_map_of(niov)->context);
}

static const struct net_device *netgpu_niov_tx_dev(const struct net_iov *niov)
{
	return READ_ONCE(netgpu_map_of(niov)->tx_dev);
}

static const struct net_iov_area_ops netgpu_area_ops = {
	.get	= netgpu_niov_get,
	.put	= netgpu_niov_put,
	.tx_dev	= netgpu_niov_tx_dev,
};

struct netgpu_map *netgpu_map_of(const struct net_iov *niov)
{
	struct net_iov_area *nia = net_iov_owner(niov);

	if (niov->type != NET_IOV_PROVIDER || nia->ops != &netgpu_area_ops)
		return NULL;
	return container_of(nia, struct netgpu_map, nia);
}

/* Cuts the DMA segments into buffers. */
static int netgpu_map_fill(struct netgpu_map *map)
{
	struct net_iov *niov = map->nia.niovs;
	struct scatterlist *sg;
	unsigned int i, off;

	for_each_sgtable_dma_sg(&map->sgt, sg, i) {
		for (off = 0; off < sg_dma_len(sg); off += PAGE_SIZE, niov++) {
			dma_addr_t dma = sg_dma_address(sg) + off;

			if (dma_need_sync(map->dma, dma))
				return -EIO;
			net_iov_init(niov, &map->nia, NET_IOV_PROVIDER);
			page_pool_fragment_netmem(net_iov_to_netmem(niov), 1);
			if (net_mp_niov_set_dma_addr(niov, dma))
				return -EIO;
		}
	}
	return 0;
}

int netgpu_map_create(struct netgpu_device *dev, struct page **pages, u32 n, void *context, void *attachment,
		      struct netgpu_map **out)
{
	struct netgpu_map *map;
	int err;

	map = kzalloc_obj(*map, GFP_KERNEL_ACCOUNT);
	if (!map)
		return -ENOMEM;
	map->pages = pages;
	map->context = context;
	map->attachment = attachment;
	map->dma = dev->dma;
	map->tx_dev = dev->netdev;
	map->nia.ops = &netgpu_area_ops;
	map->nia.num_niovs = n;

	err = -ENOMEM;
	map->nia.niovs = kvzalloc_objs(map->nia.niovs[0], n, GFP_KERNEL_ACCOUNT);
	if (!map->nia.niovs)
		goto err;
	if (sg_alloc_table_from_pages(&map->sgt, pages, n, 0, (unsigned long)n << PAGE_SHIFT, GFP_KERNEL_ACCOUNT))
		goto err;
	if (dma_map_sgtable(map->dma, &map->sgt, DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC)) {
		err = -EIO;
		goto err;
	}
	map->mapped = true;
	err = netgpu_map_fill(map);
	if (err)
		goto err;
	*out = map;
	return 0;

err:
	netgpu_map_destroy(map);
	return err;
}

void netgpu_map_revoke(struct netgpu_map *map)
{
	WRITE_ONCE(map->tx_dev, NULL);
}

void netgpu_map_unmap(struct netgpu_map *map)
{
	if (map->mapped)
		dma_unmap_sgtable(map->dma, &map->sgt, DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC);
	map->mapped = false;
}

void netgpu_map_destroy(struct netgpu_map *map)
{
	netgpu_map_unmap(map);
	sg_free_table(&map->sgt);
	kvfree(map->nia.niovs);
	kfree(map);
}

static netmem_ref netgpu_netmem(struct netgpu_map *map, u32 index)
{
	return net_iov_to_netmem(&map->nia.niovs[index]);
}

void netgpu_buffer_get(struct netgpu_map *map, u32 index)
{
	page_pool_ref_netmem(netgpu_netmem(map, index));
}

u32 netgpu_buffer_put(struct netgpu_map *map, u32 index, struct page_pool *pool)
{
	netmem_ref netmem = netgpu_netmem(map, index);
	struct page_pool *home;

	if (!page_pool_unref_and_test(netmem))
		return NETGPU_BUFFER_IN_USE;
	home = netmem_get_pp(netmem);
	if (!home)
		return NETGPU_BUFFER_FREE;
	if (home != pool) {
		page_pool_put_unrefed_netmem(home, netmem, -1, false);
		return NETGPU_BUFFER_IN_USE;
	}
	net_mp_netmem_place_in_cache(pool, netmem);
	return NETGPU_BUFFER_POOLED;
}

void netgpu_buffer_give(struct netgpu_map *map, u32 index, struct page_pool *pool)
{
	net_mp_niov_set_page_pool(pool, &map->nia.niovs[index]);
	net_mp_netmem_place_in_cache(pool, netgpu_netmem(map, index));
}

void netgpu_buffer_write(struct netgpu_map *map, u32 index, u32 offset, const void *src, u32 len)
{
	memcpy_to_page(map->pages[index], offset, src, len);
}
