// SPDX-License-Identifier: GPL-2.0
/* Inlines and macros of the kernel as functions, for Rust. */
#include "shim.h"

struct pci_dev *netgpu_nvidia_pci_dev(struct device *dev)
{
	return dev_is_pci(dev) ? to_pci_dev(dev) : NULL;
}

bool netgpu_nvidia_dma_mapping_error(struct device *dev, dma_addr_t addr)
{
	return dma_mapping_error(dev, addr);
}
