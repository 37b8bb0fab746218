// SPDX-License-Identifier: GPL-2.0
/* Whether this kernel will do, and its locks. */
#include <linux/module.h>
#include <linux/spinlock.h>

#include "shim.h"

MODULE_IMPORT_NS("NETDEV_INTERNAL");
MODULE_ALIAS_TCP_ULP(NETGPU_ULP_NAME);

const char *netgpu_missing_patch(void)
{
	if (!net_mp_ops_valid || !net_mp_ops_valid(&netgpu_mp_ops))
		return "page_pool: accept memory provider ops of a module";
	if (!netif_mp_open_rxq || !netif_mp_close_rxq || !net_mp_niov_set_dma_addr || !net_mp_niov_set_page_pool ||
	    !net_mp_niov_clear_page_pool || !netdev_queue_get_dma_dev)
		return "net: export the memory provider interface";
	return NULL;
}

void netgpu_lock_bh(struct spinlock *lock)
{
	spin_lock_bh(lock);
}

void netgpu_unlock_bh(struct spinlock *lock)
{
	spin_unlock_bh(lock);
}
