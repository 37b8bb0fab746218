// SPDX-License-Identifier: GPL-2.0
/*
 * A stand-in for NVIDIA's driver: allocations of the stand-in GPU's memory, and the peer-to-peer interface to them. As in the real one,
 * memory goes when it is freed or its file is closed, callbacks are called with a lock that the other functions take, and what they were
 * told about is freed when they return. Writing to revoke in debugfs makes all memory go that is not pinned for good.
 */
#include <linux/bitmap.h>
#include <linux/debugfs.h>
#include <linux/dma-mapping.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sched/mm.h>

#include "nv_p2p.h"
#include "standin_gpu.h"
#include "standin_nvidia.h"

#define PAGE	STANDIN_NVIDIA_PAGE

static bool persistent = true;
module_param(persistent, bool, 0644);
MODULE_PARM_DESC(persistent, "whether memory can be pinned for good");

static unsigned long shown = ULONG_MAX;
module_param(shown, ulong, 0644);
MODULE_PARM_DESC(shown, "bytes of the memory that other devices can be shown");

static unsigned int table_version = NVIDIA_P2P_PAGE_TABLE_VERSION;
module_param(table_version, uint, 0644);

static unsigned int mapping_version = NVIDIA_P2P_DMA_MAPPING_VERSION;
module_param(mapping_version, uint, 0644);

/* Guards everything below, and is held while callbacks run. */
static DEFINE_MUTEX(rm);
static LIST_HEAD(allocs);
static unsigned long *used;
static unsigned int pages;
static phys_addr_t bar;
static u32 tables, mappings;

struct standin_memory {
	struct list_head node;
	struct file *file;	/* NULL: it was freed, and is pinned still */
	struct mm_struct *mm;
	u64 addr;
	unsigned int first, count;
	struct list_head tables;
};

struct standin_table {
	struct list_head node;
	struct standin_memory *memory;
	struct nvidia_p2p_page_table table;
	struct nvidia_p2p_page *page;
	void (*free_callback)(void *data);	/* NULL: pinned for good */
	void *data;
	struct list_head mappings;
	u8 uuid[16];
};

struct standin_mapping {
	struct list_head node;
	struct nvidia_p2p_dma_mapping mapping;
};

static void standin_free_mapping(struct standin_mapping *m)
{
	unsigned int i;

	for (i = 0; i < m->mapping.entries; i++)
		dma_unmap_resource(&m->mapping.pci_dev->dev, m->mapping.dma_addresses[i], PAGE, DMA_BIDIRECTIONAL, 0);
	list_del(&m->node);
	kvfree(m->mapping.dma_addresses);
	kfree(m);
	mappings--;
}

static void standin_free_table(struct standin_table *t)
{
	struct standin_mapping *m, *next;

	list_for_each_entry_safe(m, next, &t->mappings, node)
		standin_free_mapping(m);
	list_del(&t->node);
	kvfree(t->table.pages);
	kvfree(t->page);
	/* Who looks at it still shall find nothing that could pass. */
	memset(t, 0x6b, sizeof(*t));
	kfree(t);
	tables--;
}

static void standin_put_memory(struct standin_memory *memory)
{
	if (memory->file || !list_empty(&memory->tables))
		return;
	bitmap_clear(used, memory->first, memory->count);
	list_del(&memory->node);
	mmdrop(memory->mm);
	kfree(memory);
}

/* All who can be told are told, and let go. */
static void standin_revoke(struct standin_memory *memory)
{
	struct standin_table *t, *next;

	list_for_each_entry_safe(t, next, &memory->tables, node) {
		if (!t->free_callback)
			continue;
		t->free_callback(t->data);
		standin_free_table(t);
	}
}

static void standin_free(struct standin_memory *memory)
{
	standin_revoke(memory);
	memory->file = NULL;
	standin_put_memory(memory);
}

static int standin_get(u64 addr, u64 len, struct nvidia_p2p_page_table **out, void (*callback)(void *data), void *data)
{
	struct standin_memory *memory;
	struct standin_table *t;
	unsigned int i, first;

	if (!len || (addr | len) % PAGE)
		return -EINVAL;
	guard(mutex)(&rm);
	list_for_each_entry(memory, &allocs, node)
		if (memory->file && memory->mm == current->mm && addr >= memory->addr &&
		    addr - memory->addr < (u64)memory->count * PAGE &&
		    len <= (u64)memory->count * PAGE - (addr - memory->addr))
			goto found;
	return -EINVAL;
found:
	if (len > shown)
		return -ENOMEM;
	t = kzalloc_obj(*t, GFP_KERNEL);
	if (!t)
		return -ENOMEM;
	t->table.version = table_version;
	t->table.page_size = NVIDIA_P2P_PAGE_SIZE_64KB;
	t->table.entries = len / PAGE;
	t->table.gpu_uuid = t->uuid;
	t->table.pages = kvcalloc(t->table.entries, sizeof(*t->table.pages), GFP_KERNEL);
	t->page = kvcalloc(t->table.entries, sizeof(*t->page), GFP_KERNEL);
	if (!t->table.pages || !t->page) {
		kvfree(t->table.pages);
		kvfree(t->page);
		kfree(t);
		return -ENOMEM;
	}
	first = memory->first + (addr - memory->addr) / PAGE;
	for (i = 0; i < t->table.entries; i++) {
		t->page[i].physical_address = bar + (u64)(first + i) * PAGE;
		t->table.pages[i] = &t->page[i];
	}
	t->memory = memory;
	t->free_callback = callback;
	t->data = data;
	INIT_LIST_HEAD(&t->mappings);
	list_add_tail(&t->node, &memory->tables);
	tables++;
	*out = &t->table;
	return 0;
}

/* The table, if it is there still. */
static struct standin_table *standin_table(struct nvidia_p2p_page_table *table)
{
	struct standin_memory *memory;
	struct standin_table *t;

	list_for_each_entry(memory, &allocs, node)
		list_for_each_entry(t, &memory->tables, node)
			if (&t->table == table)
				return t;
	return NULL;
}

static int standin_put(struct nvidia_p2p_page_table *table, bool for_good)
{
	struct standin_memory *memory;
	struct standin_table *t;

	guard(mutex)(&rm);
	t = standin_table(table);
	if (WARN_ON(t && !t->free_callback != for_good))
		return -EINVAL;
	if (!t)
		return WARN_ON(for_good) ? -EINVAL : 0;
	memory = t->memory;
	standin_free_table(t);
	standin_put_memory(memory);
	return 0;
}

int nvidia_p2p_get_pages(u64 p2p_token, u32 va_space, u64 virtual_address, u64 length,
			 struct nvidia_p2p_page_table **page_table, void (*free_callback)(void *data), void *data)
{
	if (p2p_token || va_space || !free_callback || !data)
		return -EINVAL;
	return standin_get(virtual_address, length, page_table, free_callback, data);
}
EXPORT_SYMBOL_GPL(nvidia_p2p_get_pages);

int nvidia_p2p_put_pages(u64 p2p_token, u32 va_space, u64 virtual_address, struct nvidia_p2p_page_table *page_table)
{
	return standin_put(page_table, false);
}
EXPORT_SYMBOL_GPL(nvidia_p2p_put_pages);

int nvidia_p2p_get_pages_persistent(u64 virtual_address, u64 length, struct nvidia_p2p_page_table **page_table, u32 flags)
{
	if (!persistent)
		return -ENOTSUPP;
	return flags ? -EINVAL : standin_get(virtual_address, length, page_table, NULL, NULL);
}
EXPORT_SYMBOL_GPL(nvidia_p2p_get_pages_persistent);

int nvidia_p2p_put_pages_persistent(u64 virtual_address, struct nvidia_p2p_page_table *page_table, u32 flags)
{
	return standin_put(page_table, true);
}
EXPORT_SYMBOL_GPL(nvidia_p2p_put_pages_persistent);

int nvidia_p2p_dma_map_pages(struct pci_dev *peer, struct nvidia_p2p_page_table *page_table,
			     struct nvidia_p2p_dma_mapping **dma_mapping)
{
	struct standin_mapping *m;
	struct standin_table *t;

	guard(mutex)(&rm);
	t = standin_table(page_table);
	if (WARN_ON(!t))
		return -EINVAL;
	m = kzalloc_obj(*m, GFP_KERNEL);
	if (!m)
		return -ENOMEM;
	m->mapping.version = mapping_version;
	m->mapping.page_size_type = NVIDIA_P2P_PAGE_SIZE_64KB;
	m->mapping.pci_dev = peer;
	m->mapping.dma_addresses = kvcalloc(t->table.entries, sizeof(u64), GFP_KERNEL);
	list_add_tail(&m->node, &t->mappings);
	mappings++;
	while (m->mapping.dma_addresses && m->mapping.entries < t->table.entries) {
		u64 *dma = &m->mapping.dma_addresses[m->mapping.entries];

		*dma = dma_map_resource(&peer->dev, t->page[m->mapping.entries].physical_address, PAGE, DMA_BIDIRECTIONAL, 0);
		if (dma_mapping_error(&peer->dev, *dma))
			break;
		m->mapping.entries++;
	}
	if (m->mapping.entries < t->table.entries) {
		standin_free_mapping(m);
		return -EIO;
	}
	*dma_mapping = &m->mapping;
	return 0;
}
EXPORT_SYMBOL_GPL(nvidia_p2p_dma_map_pages);

int nvidia_p2p_dma_unmap_pages(struct pci_dev *peer, struct nvidia_p2p_page_table *page_table,
			       struct nvidia_p2p_dma_mapping *dma_mapping)
{
	struct standin_mapping *m = container_of(dma_mapping, struct standin_mapping, mapping);

	guard(mutex)(&rm);
	if (WARN_ON(!standin_table(page_table) || m->mapping.pci_dev != peer))
		return -EINVAL;
	standin_free_mapping(m);
	return 0;
}
EXPORT_SYMBOL_GPL(nvidia_p2p_dma_unmap_pages);

static int standin_alloc(struct file *file, struct standin_alloc *arg)
{
	struct standin_memory *memory;
	unsigned long first;

	if (!arg->len || (arg->addr | arg->len) % PAGE)
		return -EINVAL;
	memory = kzalloc_obj(*memory, GFP_KERNEL);
	if (!memory)
		return -ENOMEM;
	guard(mutex)(&rm);
	first = bitmap_find_next_zero_area(used, pages, 0, arg->len / PAGE, 0);
	if (first >= pages || arg->len / PAGE > pages - first) {
		kfree(memory);
		return -ENOMEM;
	}
	memory->file = file;
	memory->mm = current->mm;
	mmgrab(memory->mm);
	memory->addr = arg->addr;
	memory->first = first;
	memory->count = arg->len / PAGE;
	INIT_LIST_HEAD(&memory->tables);
	bitmap_set(used, first, memory->count);
	list_add_tail(&memory->node, &allocs);
	arg->offset = (u64)first * PAGE;
	return 0;
}

static long standin_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct standin_memory *memory, *next;
	struct standin_alloc alloc;
	u64 addr;
	int err;

	switch (cmd) {
	case STANDIN_ALLOC:
		if (copy_from_user(&alloc, (void __user *)arg, sizeof(alloc)))
			return -EFAULT;
		err = standin_alloc(file, &alloc);
		if (!err && copy_to_user((void __user *)arg, &alloc, sizeof(alloc)))
			err = -EFAULT;
		return err;
	case STANDIN_FREE:
		if (copy_from_user(&addr, (void __user *)arg, sizeof(addr)))
			return -EFAULT;
		guard(mutex)(&rm);
		list_for_each_entry_safe(memory, next, &allocs, node)
			if (memory->file == file && memory->addr == addr) {
				standin_free(memory);
				return 0;
			}
		return -EINVAL;
	}
	return -ENOTTY;
}

static int standin_release(struct inode *inode, struct file *file)
{
	struct standin_memory *memory, *next;

	guard(mutex)(&rm);
	list_for_each_entry_safe(memory, next, &allocs, node)
		if (memory->file == file)
			standin_free(memory);
	return 0;
}

static const struct file_operations standin_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= standin_ioctl,
	.release	= standin_release,
};

static struct miscdevice standin_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "standin_nvidia",
	.fops	= &standin_fops,
	.mode	= 0666,
};

static ssize_t standin_revoke_write(struct file *file, const char __user *data, size_t len, loff_t *pos)
{
	struct standin_memory *memory;

	guard(mutex)(&rm);
	list_for_each_entry(memory, &allocs, node)
		standin_revoke(memory);
	return len;
}

static const struct file_operations standin_revoke_fops = {
	.owner	= THIS_MODULE,
	.write	= standin_revoke_write,
};

static struct dentry *standin_dir;

static int __init standin_init(void)
{
	u64 len;
	int err;

	bar = standin_gpu_bar(&len);
	if (!len)
		return -ENODEV;
	pages = len / PAGE;
	used = bitmap_zalloc(pages, GFP_KERNEL);
	if (!used)
		return -ENOMEM;
	err = misc_register(&standin_misc);
	if (err) {
		bitmap_free(used);
		return err;
	}
	standin_dir = debugfs_create_dir("standin_nvidia", NULL);
	debugfs_create_file("revoke", 0200, standin_dir, NULL, &standin_revoke_fops);
	debugfs_create_u32("tables", 0400, standin_dir, &tables);
	debugfs_create_u32("mappings", 0400, standin_dir, &mappings);
	return 0;
}
module_init(standin_init);

static void __exit standin_exit(void)
{
	debugfs_remove(standin_dir);
	misc_deregister(&standin_misc);
	WARN_ON(!list_empty(&allocs) || tables || mappings);
	bitmap_free(used);
}
module_exit(standin_exit);

MODULE_DESCRIPTION("Stand-in for NVIDIA's driver, for tests");
MODULE_LICENSE("GPL");
