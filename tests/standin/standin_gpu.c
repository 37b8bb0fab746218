// SPDX-License-Identifier: GPL-2.0
/*
 * A stand-in for a GPU and its driver. The memory is BAR 2 of QEMU's ivshmem-plain device, so MMIO to this machine, and
 * devices reach it by peer-to-peer DMA. Parts of it are exported as dma-bufs, in the segments of 64 KiB that GPUs have,
 * and can be taken back. A second such device is another window on the same memory, for copies that a real GPU makes itself:
 * who counts what CPUs do to the memory looks at the first window only. /proc/iomem has both, by different names.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/iosys-map.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/wait.h>

#include "standin_gpu.h"

#define BAR		2
#define SEGMENT		SZ_64K
#define REVOKE_TIMEOUT	(30 * HZ)

static unsigned long shown = ULONG_MAX;
module_param(shown, ulong, 0644);
MODULE_PARM_DESC(shown, "bytes of the memory that other devices can be shown");

/* The one GPU of the machine, and the window for its copies. */
static struct pci_dev *gpu, *copies;

phys_addr_t standin_gpu_bar(u64 *len)
{
	*len = gpu ? pci_resource_len(gpu, BAR) : 0;
	return gpu ? pci_resource_start(gpu, BAR) : 0;
}
EXPORT_SYMBOL_GPL(standin_gpu_bar);

/* What a dma-buf is of; what changes of it is guarded by the reservation lock. */
struct standin_buffer {
	phys_addr_t start;
	u64 len;
	u32 flags;
	bool revoked;
	u32 pins;
	u32 mappings;
	wait_queue_head_t unmapped;
	/* Faults that wait for the lock. */
	atomic_t faults;
	wait_queue_head_t faulted;
};

static int standin_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct standin_buffer *buffer = dmabuf->priv;

	if (!(buffer->flags & STANDIN_STATIC) && !(attach->peer2peer && dma_buf_attach_revocable(attach)))
		return -EOPNOTSUPP;
	return 0;
}

static int standin_pin(struct dma_buf_attachment *attach)
{
	struct standin_buffer *buffer = attach->dmabuf->priv;

	if (buffer->revoked)
		return -ENODEV;
	buffer->pins++;
	return 0;
}

static void standin_unpin(struct dma_buf_attachment *attach)
{
	struct standin_buffer *buffer = attach->dmabuf->priv;

	buffer->pins--;
}

static void standin_free_sgt(struct device *dev, struct sg_table *sgt, enum dma_data_direction dir)
{
	struct scatterlist *sg;
	unsigned int i;

	for_each_sgtable_dma_sg(sgt, sg, i)
		if (sg_dma_len(sg))
			dma_unmap_resource(dev, sg_dma_address(sg), sg_dma_len(sg), dir, 0);
	sg_free_table(sgt);
	kfree(sgt);
}

static struct sg_table *standin_map(struct dma_buf_attachment *attach, enum dma_data_direction dir)
{
	struct standin_buffer *buffer = attach->dmabuf->priv;
	struct scatterlist *sg;
	struct sg_table *sgt;
	unsigned int i;
	u64 done = 0;

	if (buffer->revoked)
		return ERR_PTR(-ENODEV);
	if (buffer->len > shown)
		return ERR_PTR(-ENOMEM);
	sgt = kzalloc_obj(*sgt, GFP_KERNEL);
	if (!sgt)
		return ERR_PTR(-ENOMEM);
	if (sg_alloc_table(sgt, DIV_ROUND_UP(buffer->len, SEGMENT), GFP_KERNEL)) {
		kfree(sgt);
		return ERR_PTR(-ENOMEM);
	}
	for_each_sgtable_dma_sg(sgt, sg, i) {
		u32 len = min_t(u64, SEGMENT, buffer->len - done);
		/* No CPU caches it, so it may be mapped as often as anybody likes. */
		dma_addr_t dma = dma_map_resource(attach->dev, buffer->start + done, len, dir, DMA_ATTR_DEBUGGING_IGNORE_CACHELINES);

		if (dma_mapping_error(attach->dev, dma)) {
			standin_free_sgt(attach->dev, sgt, dir);
			return ERR_PTR(-EIO);
		}
		/* There are no pages. */
		sg_set_page(sg, NULL, 0, 0);
		sg_dma_address(sg) = dma;
		sg_dma_len(sg) = len;
		done += len;
	}
	buffer->mappings++;
	return sgt;
}

static void standin_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt, enum dma_data_direction dir)
{
	struct standin_buffer *buffer = attach->dmabuf->priv;

	standin_free_sgt(attach->dev, sgt, dir);
	WRITE_ONCE(buffer->mappings, buffer->mappings - 1);
	if (!buffer->mappings)
		wake_up_all(&buffer->unmapped);
}

static int standin_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct standin_buffer *buffer = dmabuf->priv;
	void __iomem *addr = ioremap_wc(buffer->start, buffer->len);

	if (!addr)
		return -ENOMEM;
	iosys_map_set_vaddr_iomem(map, addr);
	return 0;
}

static void standin_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	iounmap(map->vaddr_iomem);
}

static vm_fault_t standin_fault(struct vm_fault *vmf)
{
	struct dma_buf *dmabuf = vmf->vma->vm_private_data;
	struct standin_buffer *buffer = dmabuf->priv;
	vm_fault_t ret = VM_FAULT_SIGBUS;

	atomic_inc(&buffer->faults);
	wake_up_all(&buffer->faulted);
	dma_resv_lock(dmabuf->resv, NULL);
	atomic_dec(&buffer->faults);
	if (!buffer->revoked && vmf->pgoff < buffer->len >> PAGE_SHIFT)
		ret = vmf_insert_pfn(vmf->vma, vmf->address, (buffer->start >> PAGE_SHIFT) + vmf->pgoff);
	dma_resv_unlock(dmabuf->resv);
	return ret;
}

static const struct vm_operations_struct standin_vm_ops = {
	.fault	= standin_fault,
};

static int standin_mmap_buffer(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_page_prot = pgprot_writecombine(vma->vm_page_prot);
	vma->vm_ops = &standin_vm_ops;
	vma->vm_private_data = dmabuf;
	return 0;
}

static void standin_release(struct dma_buf *dmabuf)
{
	kfree(dmabuf->priv);
}

static const struct dma_buf_ops standin_ops = {
	.attach		= standin_attach,
	.pin		= standin_pin,
	.unpin		= standin_unpin,
	.map_dma_buf	= standin_map,
	.unmap_dma_buf	= standin_unmap,
	.vmap		= standin_vmap,
	.vunmap		= standin_vunmap,
	.mmap		= standin_mmap_buffer,
	.release	= standin_release,
};

/* The same without vmap and vunmap: that is how an exporter says that the CPU is not to reach the memory. */
static struct dma_buf_ops standin_no_cpu_ops;

static int standin_export(struct standin_export *arg)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	u64 size = pci_resource_len(gpu, BAR);
	struct standin_buffer *buffer;
	struct dma_buf *dmabuf;

	if (!PAGE_ALIGNED(arg->offset | arg->len) || !arg->len || arg->offset > size || arg->len > size - arg->offset)
		return -EINVAL;
	buffer = kzalloc_obj(*buffer, GFP_KERNEL);
	if (!buffer)
		return -ENOMEM;
	buffer->start = pci_resource_start(gpu, BAR) + arg->offset;
	buffer->len = arg->len;
	buffer->flags = arg->flags;
	init_waitqueue_head(&buffer->unmapped);
	init_waitqueue_head(&buffer->faulted);

	info.ops = arg->flags & STANDIN_NO_CPU ? &standin_no_cpu_ops : &standin_ops;
	info.size = arg->len;
	info.flags = (arg->flags & STANDIN_READ_ONLY ? O_RDONLY : O_RDWR) | O_CLOEXEC;
	info.priv = buffer;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		kfree(buffer);
		return PTR_ERR(dmabuf);
	}
	arg->fd = dma_buf_fd(dmabuf, O_CLOEXEC);
	if (arg->fd < 0)
		dma_buf_put(dmabuf);
	return min(arg->fd, 0);
}

/* The dma-buf with descriptor @fd, if it is one of ours. */
static struct dma_buf *standin_get(int fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);

	if (IS_ERR(dmabuf) || dmabuf->ops == &standin_ops || dmabuf->ops == &standin_no_cpu_ops)
		return dmabuf;
	dma_buf_put(dmabuf);
	return ERR_PTR(-EINVAL);
}

static int standin_revoke(struct dma_buf *dmabuf, bool faulted)
{
	struct standin_buffer *buffer = dmabuf->priv;
	long left;

	dma_resv_lock(dmabuf->resv, NULL);
	if (faulted && !wait_event_timeout(buffer->faulted, atomic_read(&buffer->faults), REVOKE_TIMEOUT)) {
		dma_resv_unlock(dmabuf->resv);
		return -ETIME;
	}
	buffer->revoked = true;
	dma_buf_invalidate_mappings(dmabuf);
	left = dma_resv_wait_timeout(dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP, false, REVOKE_TIMEOUT);
	dma_resv_unlock(dmabuf->resv);
	if (left <= 0)
		return left ?: -ETIMEDOUT;
	return wait_event_timeout(buffer->unmapped, !READ_ONCE(buffer->mappings), REVOKE_TIMEOUT) ? 0 : -ETIMEDOUT;
}

static void standin_state(struct dma_buf *dmabuf, struct standin_state *state)
{
	struct standin_buffer *buffer = dmabuf->priv;

	dma_resv_lock(dmabuf->resv, NULL);
	state->mappings = buffer->mappings;
	state->pins = buffer->pins;
	state->revoked = buffer->revoked;
	dma_resv_unlock(dmabuf->resv);
}

static long standin_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	union {
		u64 size;
		struct standin_export export;
		struct standin_state state;
		s32 fd;
	} u = {};
	struct dma_buf *dmabuf;
	int err = 0;

	if (copy_from_user(&u, (void __user *)arg, min(_IOC_SIZE(cmd), sizeof(u))))
		return -EFAULT;
	switch (cmd) {
	case STANDIN_SIZE:
		u.size = pci_resource_len(gpu, BAR);
		break;
	case STANDIN_EXPORT:
		err = standin_export(&u.export);
		break;
	case STANDIN_STATE:
	case STANDIN_REVOKE:
	case STANDIN_REVOKE_FAULTED:
		dmabuf = standin_get(u.fd);
		if (IS_ERR(dmabuf))
			return PTR_ERR(dmabuf);
		if (cmd == STANDIN_STATE)
			standin_state(dmabuf, &u.state);
		else
			err = standin_revoke(dmabuf, cmd == STANDIN_REVOKE_FAULTED);
		dma_buf_put(dmabuf);
		break;
	default:
		return -ENOTTY;
	}
	if (!err && _IOC_DIR(cmd) & _IOC_READ && copy_to_user((void __user *)arg, &u, _IOC_SIZE(cmd)))
		return -EFAULT;
	return err;
}

static int standin_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long pages = pci_resource_len(gpu, BAR) >> PAGE_SHIFT;
	struct pci_dev *pdev = gpu;

	if (vma->vm_pgoff >= pages) {
		if (!copies)
			return -ENXIO;
		pdev = copies;
		vma->vm_pgoff -= pages;
	}
	vma->vm_page_prot = pgprot_writecombine(vma->vm_page_prot);
	return vm_iomap_memory(vma, pci_resource_start(pdev, BAR), pci_resource_len(pdev, BAR));
}

static const struct file_operations standin_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= standin_ioctl,
	.mmap		= standin_mmap,
};

static struct miscdevice standin_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "standin_gpu",
	.fops	= &standin_fops,
	.mode	= 0666,
};

static int standin_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int err;

	if (copies)
		return -EBUSY;
	err = pcim_enable_device(pdev);
	if (err)
		return err;
	err = pcim_request_region(pdev, BAR, gpu ? "standin_gpu copies" : "standin_gpu");
	if (err)
		return err;
	if (gpu) {
		copies = pdev;
		return 0;
	}
	standin_no_cpu_ops = standin_ops;
	standin_no_cpu_ops.vmap = NULL;
	standin_no_cpu_ops.vunmap = NULL;
	gpu = pdev;
	err = misc_register(&standin_misc);
	if (err)
		gpu = NULL;
	return err;
}

static void standin_remove(struct pci_dev *pdev)
{
	if (pdev == copies) {
		copies = NULL;
		return;
	}
	misc_deregister(&standin_misc);
	gpu = NULL;
}

static const struct pci_device_id standin_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, 0x1110) },
	{}
};
MODULE_DEVICE_TABLE(pci, standin_ids);

static struct pci_driver standin_driver = {
	.name		= "standin_gpu",
	.id_table	= standin_ids,
	.probe		= standin_probe,
	.remove		= standin_remove,
	/* Files and dma-bufs hold the module, not the device. */
	.driver		= { .suppress_bind_attrs = true },
};
module_pci_driver(standin_driver);

MODULE_IMPORT_NS("DMA_BUF");
MODULE_DESCRIPTION("Stand-in for a GPU, for tests");
MODULE_LICENSE("GPL");
