// SPDX-License-Identifier: GPL-2.0
/*
 * What stands for a driver that has only one receive queue for a while: mlx5 makes it one when the card becomes a switch (devlink dev
 * eswitch), which this card cannot. As there, the device has to be down, so that the driver has closed all queues.
 */
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <net/netdev_lock.h>

static int index;
module_param(index, int, 0444);
MODULE_PARM_DESC(index, "of the device");

static unsigned int before;

/* Returns how many the device had, or an error. */
static int set_queues(unsigned int count)
{
	struct net_device *dev;
	int ret = -ENODEV;

	rtnl_lock();
	dev = __dev_get_by_index(&init_net, index);
	if (dev) {
		netdev_lock_ops(dev);
		ret = dev->real_num_rx_queues;
		if (netif_running(dev))
			ret = -EBUSY;
		else if (netif_set_real_num_rx_queues(dev, count))
			ret = -EINVAL;
		netdev_unlock_ops(dev);
	}
	rtnl_unlock();
	return ret;
}

static int __init fewer_queues_init(void)
{
	int ret = set_queues(1);

	if (ret < 0)
		return ret;
	before = ret;
	return 0;
}
module_init(fewer_queues_init);

/* The device may have gone meanwhile. */
static void __exit fewer_queues_exit(void)
{
	set_queues(before);
}
module_exit(fewer_queues_exit);

MODULE_DESCRIPTION("Makes a network device have fewer queues, for tests of netgpu");
MODULE_LICENSE("GPL");
