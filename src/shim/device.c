// SPDX-License-Identifier: GPL-2.0
/* The network device of a context. */
#include <linux/capability.h>
#include <linux/nsproxy.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <net/netdev_lock.h>

#include "shim.h"

struct net_device *netgpu_netdev_get(struct netgpu_device *dev, netdevice_tracker *tracker)
{
	struct net_device *netdev;

	guard(mutex)(&dev->lock);
	netdev = dev->netdev;
	netdev_hold(netdev, tracker, GFP_KERNEL);
	return netdev;
}

static int netgpu_netdev_event(struct notifier_block *nb, unsigned long event, void *ptr)
{
	struct netgpu_device *dev = container_of(nb, struct netgpu_device, nb);
	struct net_device *netdev = netdev_notifier_info_to_dev(ptr);

	/* A device that moves to another namespace is unregistered for show only. */
	if (event == NETDEV_UNREGISTER && netdev == dev->netdev && netdev->reg_state == NETREG_UNREGISTERING)
		netgpu_device_gone(dev->context);
	return NOTIFY_DONE;
}

int netgpu_device_open(u32 ifindex, void *context, struct netgpu_device **out)
{
	struct netgpu_device *dev;
	int err;

	dev = kzalloc_obj(*dev, GFP_KERNEL_ACCOUNT);
	if (!dev)
		return -ENOMEM;
	mutex_init(&dev->lock);
	dev->context = context;
	dev->nb.notifier_call = netgpu_netdev_event;

	dev->netdev = netdev_get_by_index(current->nsproxy->net_ns, ifindex, &dev->tracker, GFP_KERNEL);
	if (!dev->netdev) {
		err = -ENODEV;
		goto err_free;
	}

	netdev_lock(dev->netdev);
	dev->dma = netdev_queue_get_dma_dev(dev->netdev, 0, NETDEV_QUEUE_TYPE_RX);
	/* A device that is down may have no queues to ask. Opening one checks again. */
	if (!dev->dma && !netif_running(dev->netdev) && dev->netdev->dev.parent && dev->netdev->dev.parent->dma_mask)
		dev->dma = dev->netdev->dev.parent;
	get_device(dev->dma);
	netdev_unlock(dev->netdev);
	if (!dev->dma) {
		err = -EOPNOTSUPP;
		goto err_put;
	}

	*out = dev;
	return 0;

err_put:
	netdev_put(dev->netdev, &dev->tracker);
err_free:
	kfree(dev);
	return err;
}

int netgpu_device_watch(struct netgpu_device *dev)
{
	int err = register_netdevice_notifier(&dev->nb);

	if (err)
		return err;
	dev->watched = true;
	/* It may have begun to go before anyone watched. */
	rtnl_lock();
	err = dev->netdev && dev->netdev->reg_state == NETREG_REGISTERED ? 0 : -ENODEV;
	rtnl_unlock();
	return err;
}

void netgpu_device_unwatch(struct netgpu_device *dev)
{
	if (dev->watched)
		unregister_netdevice_notifier(&dev->nb);
	dev->watched = false;
}

void netgpu_device_drop(struct netgpu_device *dev)
{
	guard(mutex)(&dev->lock);
	netdev_put(dev->netdev, &dev->tracker);
	dev->netdev = NULL;
}

void netgpu_device_free(struct netgpu_device *dev)
{
	put_device(dev->dma);
	kfree(dev);
}

int netgpu_device_permit(struct netgpu_device *dev)
{
	netdevice_tracker tracker;
	struct net_device *netdev = netgpu_netdev_get(dev, &tracker);
	bool capable;

	if (!netdev)
		return -ENODEV;
	capable = ns_capable(dev_net(netdev)->user_ns, CAP_NET_ADMIN);
	netdev_put(netdev, &tracker);
	return capable ? 0 : -EPERM;
}

const void *netgpu_device_dma(struct netgpu_device *dev)
{
	return dev->dma;
}
