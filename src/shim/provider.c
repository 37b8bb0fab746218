// SPDX-License-Identifier: GPL-2.0
/* The memory provider of receive queues. */
#include <linux/ethtool_netlink.h>
#include <linux/netlink.h>
#include <net/netdev_lock.h>
#include <net/netdev_rx_queue.h>
#include <net/page_pool/helpers.h>

#include "shim.h"

static int netgpu_mp_init(struct page_pool *pool)
{
	bool usable = pool->dma_map && pool->p.order == 0 && pool->p.dma_dir == DMA_FROM_DEVICE;

	return netgpu_pool_init(pool->mp_priv, pool->p.dev, usable);
}

static void netgpu_mp_destroy(struct page_pool *pool)
{
	netgpu_pool_destroy(pool->mp_priv);
}

static netmem_ref netgpu_mp_alloc_netmems(struct page_pool *pool, gfp_t gfp)
{
	if (!netgpu_pool_refill(pool->mp_priv, pool, PP_ALLOC_CACHE_REFILL))
		return 0;
	return pool->alloc.cache[--pool->alloc.count];
}

static bool netgpu_mp_release_netmem(struct page_pool *pool, netmem_ref netmem)
{
	struct net_iov *niov = netmem_to_net_iov(netmem);

	net_mp_niov_clear_page_pool(niov);
	page_pool_fragment_netmem(netmem, 1);
	netgpu_pool_release(netgpu_map_of(niov)->attachment, net_iov_idx(niov));
	return false;
}

static int netgpu_mp_nl_fill(void *mp_priv, struct sk_buff *rsp, struct netdev_rx_queue *rxq)
{
	return 0;
}

static void netgpu_mp_uninstall(void *mp_priv, struct netdev_rx_queue *rxq)
{
	rxq->mp_params.mp_ops = NULL;
	rxq->mp_params.mp_priv = NULL;
	netgpu_queue_uninstalled(mp_priv);
}

const struct memory_provider_ops netgpu_mp_ops = {
	.init		= netgpu_mp_init,
	.destroy	= netgpu_mp_destroy,
	.alloc_netmems	= netgpu_mp_alloc_netmems,
	.release_netmem	= netgpu_mp_release_netmem,
	.nl_fill	= netgpu_mp_nl_fill,
	.uninstall	= netgpu_mp_uninstall,
};

int netgpu_queue_open(struct netgpu_device *dev, void *queue, struct netgpu_queue_open *open)
{
	struct pp_memory_provider_params params = {
		.mp_priv	= queue,
		.mp_ops		= &netgpu_mp_ops,
		.hds_offset	= open->hds_offset,
		.hds_headroom	= open->headroom,
	};
	struct netlink_ext_ack extack = {};
	netdevice_tracker tracker;
	struct net_device *netdev = netgpu_netdev_get(dev, &tracker);
	int err = -ENODEV;

	if (!netdev)
		return -ENODEV;
	netdev_lock(netdev);
	if (netdev->reg_state == NETREG_REGISTERED)
		err = netif_mp_open_rxq(netdev, open->queue, &params, &extack);
	strscpy(open->message, extack._msg ?: "");
	/* What the core and the drivers have one error for is several in our contract. */
	if (err == -EINVAL && netdev->cfg->hds_config != ETHTOOL_TCP_DATA_SPLIT_ENABLED)
		snprintf(open->message, sizeof(open->message),
			 "tcp-data-split is off; turn it on: ethtool -G %s tcp-data-split on", netdev->name);
	else if (err == -EEXIST && netif_rxq_has_unreadable_mp(netdev, open->queue))
		err = -EBUSY;
	else if (err == -ERANGE && open->queue < netdev->real_num_rx_queues)
		err = -EINVAL;
	/* A device that merges in hardware ignores the wish: it packs the payload of packets one behind the other. */
	if (netdev->features & NETIF_F_GRO_HW)
		open->headroom = 0;
	netdev_unlock(netdev);
	netdev_put(netdev, &tracker);
	return err;
}

bool netgpu_queue_close(struct netgpu_device *dev, void *queue, u32 index)
{
	struct pp_memory_provider_params params = {
		.mp_priv	= queue,
		.mp_ops		= &netgpu_mp_ops,
	};
	netdevice_tracker tracker;
	struct net_device *netdev = netgpu_netdev_get(dev, &tracker);
	bool ours;

	if (!netdev)
		return false;
	netdev_lock(netdev);
	ours = __netif_get_rx_queue(netdev, index)->mp_params.mp_priv == queue;
	if (ours)
		netif_mp_close_rxq(netdev, index, &params);
	netdev_unlock(netdev);
	netdev_put(netdev, &tracker);
	return ours;
}
