// SPDX-License-Identifier: MIT OR Apache-2.0
/* Prints what HEADER says of NVIDIA's peer-to-peer interface: ours or the driver's own. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;

#include HEADER

#define SIZE(type) printf("sizeof(%s) = %zu\n", #type, sizeof(type))
#define FIELD(type, field) printf("%s.%s: %zu bytes at %zu\n", #type, #field, sizeof(((type *)0)->field), offsetof(type, field))
#define NUMBER(name) printf("%s = %#x\n", #name, (unsigned int)(name))
#define FUNCTION(name, ...) printf("%s: %d\n", #name, __builtin_types_compatible_p(typeof(name), int(__VA_ARGS__)))

typedef struct nvidia_p2p_page_table table;
typedef struct nvidia_p2p_dma_mapping mapping;

int main(void)
{
	NUMBER(NVIDIA_P2P_PAGE_TABLE_VERSION);
	NUMBER(NVIDIA_P2P_DMA_MAPPING_VERSION);
	NUMBER(NVIDIA_P2P_PAGE_SIZE_4KB);
	NUMBER(NVIDIA_P2P_PAGE_SIZE_64KB);
	NUMBER(NVIDIA_P2P_PAGE_SIZE_128KB);

	SIZE(struct nvidia_p2p_page);
	FIELD(struct nvidia_p2p_page, physical_address);

	SIZE(table);
	FIELD(table, version);
	FIELD(table, page_size);
	FIELD(table, pages);
	FIELD(table, entries);
	FIELD(table, gpu_uuid);

	SIZE(mapping);
	FIELD(mapping, version);
	FIELD(mapping, page_size_type);
	FIELD(mapping, entries);
	FIELD(mapping, dma_addresses);
	FIELD(mapping, private);
	FIELD(mapping, pci_dev);

	FUNCTION(nvidia_p2p_get_pages, u64, u32, u64, u64, table **, void (*)(void *), void *);
	FUNCTION(nvidia_p2p_put_pages, u64, u32, u64, table *);
	FUNCTION(nvidia_p2p_get_pages_persistent, u64, u64, table **, u32);
	FUNCTION(nvidia_p2p_put_pages_persistent, u64, table *, u32);
	FUNCTION(nvidia_p2p_dma_map_pages, struct pci_dev *, table *, mapping **);
	FUNCTION(nvidia_p2p_dma_unmap_pages, struct pci_dev *, table *, mapping *);
	return 0;
}
