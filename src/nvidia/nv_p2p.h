/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The peer-to-peer interface of NVIDIA's kernel driver, as far as we use it: facts of its binary interface. The area nvidia of tests/
 * compares them with the driver's own header.
 */
#ifndef NETGPU_NV_P2P_H
#define NETGPU_NV_P2P_H

#include <linux/types.h>

struct pci_dev;

/* The major number is the upper half: layouts differ. A higher minor number than ours only has more. */
#define NVIDIA_P2P_PAGE_TABLE_VERSION	0x00010002
#define NVIDIA_P2P_DMA_MAPPING_VERSION	0x00020003

enum nvidia_p2p_page_size_type {
	NVIDIA_P2P_PAGE_SIZE_4KB,
	NVIDIA_P2P_PAGE_SIZE_64KB,
	NVIDIA_P2P_PAGE_SIZE_128KB,
};

struct nvidia_p2p_page {
	u64 physical_address;
	/* Of no use since Fermi. */
	u32 registers[6];
};

struct nvidia_p2p_page_table {
	u32 version;
	u32 page_size;	/* enum nvidia_p2p_page_size_type */
	struct nvidia_p2p_page **pages;
	u32 entries;
	u8 *gpu_uuid;
};

struct nvidia_p2p_dma_mapping {
	u32 version;
	enum nvidia_p2p_page_size_type page_size_type;
	u32 entries;
	u64 *dma_addresses;
	void *private;
	struct pci_dev *pci_dev;
};

/*
 * Both numbers are zero. @free_callback is called when the memory is freed, also by the end of its process. When it returns the driver
 * frees @page_table and all mappings of it, none of which may be in use. The driver's locks are held meanwhile.
 */
int nvidia_p2p_get_pages(u64 p2p_token, u32 va_space, u64 virtual_address, u64 length,
			 struct nvidia_p2p_page_table **page_table, void (*free_callback)(void *data),
			 void *data);
/* Also right when @free_callback has been, or is being, called. */
int nvidia_p2p_put_pages(u64 p2p_token, u32 va_space, u64 virtual_address,
			 struct nvidia_p2p_page_table *page_table);
/* The memory stays until it is put. @flags is zero. -ENOTSUPP with MIG and vGPU. Drivers before 525.105 and 535.14 have neither. */
int nvidia_p2p_get_pages_persistent(u64 virtual_address, u64 length,
				    struct nvidia_p2p_page_table **page_table, u32 flags);
int nvidia_p2p_put_pages_persistent(u64 virtual_address, struct nvidia_p2p_page_table *page_table,
				    u32 flags);
int nvidia_p2p_dma_map_pages(struct pci_dev *peer, struct nvidia_p2p_page_table *page_table,
			     struct nvidia_p2p_dma_mapping **dma_mapping);
int nvidia_p2p_dma_unmap_pages(struct pci_dev *peer, struct nvidia_p2p_page_table *page_table,
			       struct nvidia_p2p_dma_mapping *dma_mapping);

#endif /* NETGPU_NV_P2P_H */
