// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A stand-in for libcuda.so.1, with the functions that crates/netgpu-cuda calls: memory of the stand-in GPU. Its addresses are nothing
 * that the CPU could use, as with a real one. NETGPU_TEST_NO_DMABUF: the GPU cannot export dma-bufs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "standin_gpu.h"
#include "standin_nvidia.h"

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_SUPPORTED = 801 };
enum { ATTRIBUTE_DMA_BUF_SUPPORTED = 124, POINTER_SYNC_MEMOPS = 6, POINTER_DEVICE_ORDINAL = 9, HANDLE_DMA_BUF_FD = 1 };

#define ALIGN	(2UL << 20)
#define ALLOCS	64

static int nvidia = -1, gpu = -1;
static char *memory;
static uint64_t memory_len;

static struct {
	uint64_t addr, len, offset;
} allocs[ALLOCS];

/* Where in the GPU's memory the @len bytes at @addr are; -1: they are not. */
static int64_t place(uint64_t addr, size_t len)
{
	for (int i = 0; i < ALLOCS; i++)
		if (allocs[i].len && addr >= allocs[i].addr && addr - allocs[i].addr <= allocs[i].len &&
		    len <= allocs[i].len - (addr - allocs[i].addr))
			return allocs[i].offset + (addr - allocs[i].addr);
	return -1;
}

int cuInit(unsigned int flags)
{
	if (flags)
		return INVALID_VALUE;
	if (memory)
		return SUCCESS;
	nvidia = open(STANDIN_NVIDIA_PATH, O_RDWR | O_CLOEXEC);
	gpu = open(STANDIN_GPU_PATH, O_RDWR | O_CLOEXEC);
	if (nvidia < 0 || gpu < 0 || ioctl(gpu, STANDIN_SIZE, &memory_len))
		return NO_DEVICE;
	/* For copies, which a real GPU makes itself. */
	memory = mmap(NULL, memory_len, PROT_READ | PROT_WRITE, MAP_SHARED, gpu, memory_len);
	if (memory == MAP_FAILED) {
		memory = NULL;
		return NO_DEVICE;
	}
	return SUCCESS;
}

int cuDriverGetVersion(int *version)
{
	*version = 13000;
	return SUCCESS;
}

int cuDeviceGetCount(int *count)
{
	*count = 1;
	return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal)
{
	*device = 0;
	return ordinal ? INVALID_VALUE : SUCCESS;
}

int cuDeviceGetName(char *name, int len, int device)
{
	(void)device;
	strncpy(name, "Stand-in GPU", len);
	return SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
	(void)device;
	if (attribute != ATTRIBUTE_DMA_BUF_SUPPORTED)
		return INVALID_VALUE;
	*value = !getenv("NETGPU_TEST_NO_DMABUF");
	return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
	(void)device;
	*context = &gpu;
	return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device)
{
	(void)device;
	return SUCCESS;
}

/* The contexts of a thread; the last one is current. */
static __thread void *contexts[8];
static __thread unsigned int depth;

int cuCtxPushCurrent_v2(void *context)
{
	if (context != &gpu || depth == sizeof(contexts) / sizeof(contexts[0]))
		return INVALID_VALUE;
	contexts[depth++] = context;
	return SUCCESS;
}

int cuCtxPopCurrent_v2(void **context)
{
	if (!depth)
		return INVALID_CONTEXT;
	*context = contexts[--depth];
	return SUCCESS;
}

int cuCtxSetCurrent(void *context)
{
	depth = 0;
	return context ? cuCtxPushCurrent_v2(context) : SUCCESS;
}

int cuCtxGetDevice(int *device)
{
	*device = 0;
	return depth ? SUCCESS : INVALID_CONTEXT;
}

/* How often; nothing runs on this GPU for which it would have to wait. */
unsigned int standin_synchronized;

int cuCtxSynchronize(void)
{
	if (!depth)
		return INVALID_CONTEXT;
	__atomic_add_fetch(&standin_synchronized, 1, __ATOMIC_RELAXED);
	return SUCCESS;
}

int cuGetErrorString(int error, const char **text)
{
	switch (error) {
	case SUCCESS: *text = "no error"; break;
	case OUT_OF_MEMORY: *text = "out of memory"; break;
	case NO_DEVICE: *text = "no CUDA-capable device is detected"; break;
	case INVALID_CONTEXT: *text = "invalid device context"; break;
	case NOT_SUPPORTED: *text = "operation not supported"; break;
	default: *text = "invalid argument"; break;
	}
	return SUCCESS;
}

int cuMemAlloc_v2(uint64_t *addr, size_t len)
{
	struct standin_alloc arg = { .len = (len + STANDIN_NVIDIA_PAGE - 1) / STANDIN_NVIDIA_PAGE * STANDIN_NVIDIA_PAGE };
	char *hole;

	for (int i = 0; i < ALLOCS; i++) {
		if (allocs[i].len)
			continue;
		hole = mmap(NULL, arg.len + ALIGN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (hole == MAP_FAILED)
			return OUT_OF_MEMORY;
		arg.addr = ((uintptr_t)hole + ALIGN - 1) / ALIGN * ALIGN;
		if (ioctl(nvidia, STANDIN_ALLOC, &arg)) {
			munmap(hole, arg.len + ALIGN);
			return OUT_OF_MEMORY;
		}
		allocs[i].addr = arg.addr;
		allocs[i].len = arg.len;
		allocs[i].offset = arg.offset;
		*addr = arg.addr;
		return SUCCESS;
	}
	return OUT_OF_MEMORY;
}

int cuMemFree_v2(uint64_t addr)
{
	for (int i = 0; i < ALLOCS; i++)
		if (allocs[i].len && allocs[i].addr == addr) {
			allocs[i].len = 0;
			return ioctl(nvidia, STANDIN_FREE, &addr) ? INVALID_VALUE : SUCCESS;
		}
	return INVALID_VALUE;
}

/* What the GPU was given before, if anything: copies come after it. */
void (*standin_work)(void);

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t len)
{
	int64_t at = place(to, len);

	if (at < 0)
		return INVALID_VALUE;
	if (standin_work)
		standin_work();
	memcpy(memory + at, from, len);
	return SUCCESS;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t len)
{
	int64_t at = place(from, len);

	if (at < 0)
		return INVALID_VALUE;
	if (standin_work)
		standin_work();
	memcpy(to, memory + at, len);
	return SUCCESS;
}

int cuPointerSetAttribute(const void *value, int attribute, uint64_t addr)
{
	(void)value;
	return attribute == POINTER_SYNC_MEMOPS && place(addr, 1) >= 0 ? SUCCESS : INVALID_VALUE;
}

int cuPointerGetAttribute(void *value, int attribute, uint64_t addr)
{
	if (place(addr, 1) < 0)
		return INVALID_VALUE;
	switch (attribute) {
	case POINTER_SYNC_MEMOPS: *(unsigned int *)value = 1; return SUCCESS;
	case POINTER_DEVICE_ORDINAL: *(int *)value = 0; return SUCCESS;
	default: return INVALID_VALUE;
	}
}

int cuMemGetHandleForAddressRange(void *handle, uint64_t addr, size_t len, int kind, unsigned long long flags)
{
	int64_t at = place(addr, len);
	struct standin_export export = { .offset = at, .len = len };

	if (kind != HANDLE_DMA_BUF_FD || flags || at < 0)
		return INVALID_VALUE;
	if (getenv("NETGPU_TEST_NO_DMABUF") || ioctl(gpu, STANDIN_EXPORT, &export))
		return NOT_SUPPORTED;
	*(int *)handle = export.fd;
	return SUCCESS;
}
