// SPDX-License-Identifier: GPL-2.0
/*
 * Weak references let the module load on a kernel without patches/, so that it can say which patch is missing instead
 * of "Unknown symbol".
 */
#include "shim.h"

#pragma weak netif_mp_open_rxq
#pragma weak netif_mp_try_close_rxq
#pragma weak net_mp_ops_valid
#pragma weak net_mp_niov_set_page_pool
#pragma weak net_mp_niov_clear_page_pool
#pragma weak netdev_queue_get_dma_dev

const struct netgpu_patched netgpu_patched = {
	.netif_mp_open_rxq		= netif_mp_open_rxq,
	.netif_mp_try_close_rxq		= netif_mp_try_close_rxq,
	.net_mp_ops_valid		= net_mp_ops_valid,
	.net_mp_niov_set_page_pool	= net_mp_niov_set_page_pool,
	.net_mp_niov_clear_page_pool	= net_mp_niov_clear_page_pool,
	.netdev_queue_get_dma_dev	= netdev_queue_get_dma_dev,
};
