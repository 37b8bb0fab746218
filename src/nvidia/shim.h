/* SPDX-License-Identifier: GPL-2.0 */
/* What netgpu_nvidia.ko has of C; compare src/shim/shim.h. */
#ifndef NETGPU_NVIDIA_SHIM_H
#define NETGPU_NVIDIA_SHIM_H

#include <linux/dma-mapping.h>
#include <linux/pci.h>

#include "../shim/gpu.h"
#include "nv_p2p.h"

/* The driver's functions, found when the module is loaded: nothing may depend on that driver before. */
struct netgpu_nvidia_driver {
	typeof(nvidia_p2p_get_pages) *get_pages;
	typeof(nvidia_p2p_put_pages) *put_pages;
	typeof(nvidia_p2p_dma_map_pages) *dma_map_pages;
	typeof(nvidia_p2p_dma_unmap_pages) *dma_unmap_pages;
	/* NULL: the driver is too old for them. */
	typeof(nvidia_p2p_get_pages_persistent) *get_pages_persistent;
	typeof(nvidia_p2p_put_pages_persistent) *put_pages_persistent;
};

/* helpers.c: inlines and macros of the kernel. NULL: no PCI device. */
struct pci_dev *netgpu_nvidia_pci_dev(struct device *dev);
bool netgpu_nvidia_dma_mapping_error(struct device *dev, dma_addr_t addr);

#endif /* NETGPU_NVIDIA_SHIM_H */
