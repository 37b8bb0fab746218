// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What the C library does with a GPU's memory and without the kernel module. Linked with libcuda.so.1, the real one or the stand-in
 * of tests/cuda, and without its headers: what is declared here is theirs. KTAP.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <netgpu.h>

enum { DMA_BUF_SUPPORTED = 124, SYNC_MEMOPS = 6, DEVICE_ORDINAL = 9, DMA_BUF_FD = 1 };

int cuInit(unsigned int flags);
int cuDeviceGetCount(int *count);
int cuDeviceGetAttribute(int *value, int attribute, int device);
int cuDevicePrimaryCtxRetain(void **context, int device);
int cuDevicePrimaryCtxRelease_v2(int device);
int cuCtxSetCurrent(void *context);
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t len);
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t len);
int cuPointerGetAttribute(void *value, int attribute, unsigned long long address);
int cuMemGetHandleForAddressRange(void *handle, unsigned long long address, size_t len, int type, unsigned long long flags);

#define LEN	(16UL << 20)

static int number, failed;

static void result(int ok, const char *name)
{
	number++;
	failed += !ok;
	printf("%sok %d %s\n", ok ? "" : "not ", number, name);
	if (!ok)
		printf("# last error: %s\n", netgpu_last_error());
}

static unsigned long long cuda(const void *address)
{
	return (uintptr_t)address;
}

static int attribute(const void *address, int which)
{
	int value = -1;

	return cuPointerGetAttribute(&value, which, cuda(address)) ? -1 : value;
}

/* The bytes come back as they were, also at the ends. */
static int holds_data(void *gpu)
{
	uint32_t *there = malloc(LEN), *back = calloc(1, LEN);
	int ok;

	for (uint32_t i = 0; i < LEN / 4; i++)
		there[i] = i * 2654435761u;
	ok = !cuMemcpyHtoD_v2(cuda(gpu), there, LEN) && !cuMemcpyDtoH_v2(back, cuda(gpu), LEN) && !memcmp(there, back, LEN);
	free(there);
	free(back);
	return ok;
}

static void export_dma_buf(void *gpu)
{
	int supported = 0, fd = -1, ret;
	char path[64], link[64] = "";

	cuDeviceGetAttribute(&supported, DMA_BUF_SUPPORTED, 0);
	ret = cuMemGetHandleForAddressRange(&fd, cuda(gpu), LEN, DMA_BUF_FD, 0);
	if (!supported) {
		number++;
		printf("ok %d a dma-buf is made of it # SKIP this GPU with this driver cannot\n", number);
		return;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (readlink(path, link, sizeof(link) - 1) < 0)
		link[0] = 0;
	result(!ret && strstr(link, "dmabuf"), "a dma-buf is made of it");
	close(fd);
}

int main(void)
{
	struct netgpu_mem *area = NULL;
	void *gpu, *other, *context;
	int count = 0, ret;

	printf("KTAP version 1\n1..10\n");
	gpu = netgpu_alloc_memory(LEN, MEMTYPE_CUDA);
	result(gpu && cuda(gpu) % 65536 == 0, "memory of a GPU is allocated");
	if (!gpu)
		return 1;
	if (cuInit(0) || cuDeviceGetCount(&count) || cuDevicePrimaryCtxRetain(&context, 0) || cuCtxSetCurrent(context)) {
		printf("Bail out! CUDA cannot be used\n");
		return 1;
	}
	result(attribute(gpu, DEVICE_ORDINAL) == 0, "it is the first GPU's");
	result(attribute(gpu, SYNC_MEMOPS) == 1, "copies of CUDA that touch it are synchronous");
	result(holds_data(gpu), "it holds data");
	export_dma_buf(gpu);

	result(!netgpu_alloc_memory(1UL << 50, MEMTYPE_CUDA) && strstr(netgpu_last_error(), "memory"), "too much is refused");
	result(!netgpu_alloc_memory(0, MEMTYPE_CUDA) && !netgpu_alloc_memory(LEN, MEMTYPE_DMABUF), "so is what is none");

	cuCtxSetCurrent(NULL);
	if (count < 2) {
		number++;
		printf("ok %d memory of the thread's current GPU # SKIP there is one GPU\n", number);
	} else {
		cuDevicePrimaryCtxRetain(&context, 1);
		cuCtxSetCurrent(context);
		other = netgpu_alloc_memory(LEN, MEMTYPE_CUDA);
		result(other && attribute(other, DEVICE_ORDINAL) == 1, "memory of the thread's current GPU");
		netgpu_free_memory(other, LEN, MEMTYPE_CUDA);
		cuCtxSetCurrent(NULL);
		cuDevicePrimaryCtxRelease_v2(1);
	}

	netgpu_free_memory(gpu, LEN, MEMTYPE_CUDA);
	netgpu_free_memory(gpu, LEN, MEMTYPE_CUDA);
	netgpu_free_memory(NULL, LEN, MEMTYPE_CUDA);
	result(attribute(gpu, DEVICE_ORDINAL) < 0, "it can be freed, once");

	ret = netgpu_open_memarea(&area);
	if (access("/dev/netgpu", F_OK))
		result(ret == -ENOENT && !area && strstr(netgpu_last_error(), "modprobe netgpu"), "without the module, that is told");
	else
		result(!ret && netgpu_add_memarea(area, gpu, LEN, MEMTYPE_CUDA) == -EINVAL, "what was freed is not registered");
	netgpu_close_memarea(&area);
	cuDevicePrimaryCtxRelease_v2(0);
	return failed > 0;
}
