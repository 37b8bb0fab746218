/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/standin_gpu, see standin_gpu.c. mmap(2) of it gives the GPU's memory, and from the offset on that is its size, the same memory
 * through the window for copies. mmap(2) of a dma-buf gives its part, each page when it is touched, under the reservation lock; none once
 * it was taken back.
 */
#ifndef STANDIN_GPU_H
#define STANDIN_GPU_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define STANDIN_GPU_PATH	"/dev/standin_gpu"

/* The CPU cannot reach the memory by way of the dma-buf. */
#define STANDIN_NO_CPU		(1U << 0)
/* The dma-buf can be had by importers that cannot give it back. */
#define STANDIN_STATIC		(1U << 1)
/* The descriptor is for reading only. */
#define STANDIN_READ_ONLY	(1U << 2)

/* A part of the memory as a dma-buf: -EINVAL if there is no such part. */
struct standin_export {
	__aligned_u64 offset;
	__aligned_u64 len;
	__u32 flags;
	__s32 fd;		/* out */
};

/* What importers have of a dma-buf. */
struct standin_state {
	__s32 fd;
	__u32 mappings;		/* out */
	__u32 pins;		/* out */
	__u32 revoked;		/* out */
};

/* Bytes of memory. */
#define STANDIN_SIZE	_IOR(0xEA, 0x00, __u64)
#define STANDIN_EXPORT	_IOWR(0xEA, 0x01, struct standin_export)
#define STANDIN_STATE	_IOWR(0xEA, 0x02, struct standin_state)
/*
 * Takes a dma-buf back: invalidates its mappings, waits until no importer uses it and until every mapping is undone;
 * -ETIMEDOUT when that takes too long.
 */
#define STANDIN_REVOKE	_IOW(0xEA, 0x03, __s32)
/*
 * The same, but first waits, with the reservation lock held, until somebody faults on a mapping of the dma-buf and waits for
 * that lock.
 */
#define STANDIN_REVOKE_FAULTED	_IOW(0xEA, 0x04, __s32)

#ifdef __KERNEL__
/* Where the memory is, for other modules, and its length; zero: there is no GPU. */
phys_addr_t standin_gpu_bar(u64 *len);
#endif

#endif
