// SPDX-License-Identifier: GPL-2.0
/* A packet that tells when the driver lets go of it: see ../ffi/drain.rs. */
#include <linux/etherdevice.h>
#include <linux/local_lock.h>

#include "shim.h"

/* The marker that this CPU is handing to a driver, until that has dropped it. */
struct handing {
	local_lock_t bh_lock;
	struct sk_buff *skb;
};

static DEFINE_PER_CPU(struct handing, handing) = {
	.bh_lock = INIT_LOCAL_LOCK(bh_lock),
};

static void passed(struct sk_buff *skb)
{
	/* Dropped at once, for example as it could not be mapped: packets before it may be under way. */
	if (this_cpu_read(handing.skb) == skb)
		this_cpu_write(handing.skb, NULL);
	else
		netgpu_marker_passed(skb_shinfo(skb)->destructor_arg);
}

/* A frame without a payload, to ourselves, so that a switch has nowhere to forward it. */
static struct sk_buff *marker(struct net_device *dev, void *arg)
{
	struct sk_buff *skb = alloc_skb(LL_RESERVED_SPACE(dev) + ETH_ZLEN, GFP_ATOMIC);
	struct ethhdr *eth;

	if (!skb)
		return NULL;
	skb_reserve(skb, LL_RESERVED_SPACE(dev));
	eth = skb_put_zero(skb, ETH_ZLEN);
	ether_addr_copy(eth->h_dest, dev->dev_addr);
	ether_addr_copy(eth->h_source, dev->dev_addr);
	eth->h_proto = htons(ETH_P_802_EX1);
	skb_reset_mac_header(skb);
	skb_set_network_header(skb, ETH_HLEN);
	skb->protocol = eth->h_proto;
	skb->dev = dev;
	skb_shinfo(skb)->destructor_arg = arg;
	skb->destructor = passed;
	return skb;
}

/*
 * Sends a marker on queue @index, past the qdisc and also without a carrier, which dev_direct_xmit() does not. False: it was not
 * sent, as there was no room or no memory, and netgpu_marker_passed() is not called.
 */
bool netgpu_send_marker(struct net_device *dev, unsigned int index, void *arg)
{
	struct netdev_queue *txq = netdev_get_tx_queue(dev, index);
	struct sk_buff *skb = marker(dev, arg);
	netdev_tx_t ret = NETDEV_TX_BUSY;
	bool dropped;

	if (!skb)
		return false;
	skb_set_queue_mapping(skb, index);
	local_bh_disable();
	local_lock_nested_bh(&handing.bh_lock);
	HARD_TX_LOCK(dev, txq, smp_processor_id());
	this_cpu_write(handing.skb, skb);
	if (!netif_xmit_frozen_or_drv_stopped(txq))
		ret = netdev_start_xmit(skb, dev, txq, false);
	dropped = !this_cpu_read(handing.skb);
	this_cpu_write(handing.skb, NULL);
	HARD_TX_UNLOCK(dev, txq);
	local_unlock_nested_bh(&handing.bh_lock);
	local_bh_enable();
	if (dropped)
		return false;
	if (dev_xmit_complete(ret))
		return true;
	skb->destructor = NULL;
	kfree_skb(skb);
	return false;
}
