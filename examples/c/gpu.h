/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Copies between a GPU's memory and the host's, for the examples. A program that uses CUDA anyway calls cudaMemcpy(); this one finds
 * libcuda.so.1 when it runs, so that the examples start where there is none.
 */
#ifndef GPU_H
#define GPU_H

#include <dlfcn.h>
#include <err.h>
#include <stdint.h>
#include <stdlib.h>

static int (*gpu_to_host)(void *to, unsigned long long from, size_t len);
static int (*gpu_from_host)(unsigned long long to, const void *from, size_t len);

/* Makes the first GPU this thread's, where netgpu_alloc_memory() allocates. */
static inline void gpu_open(void)
{
	void *cuda = dlopen("libcuda.so.1", RTLD_NOW);
	int (*init)(unsigned int flags), (*retain)(void **context, int device), (*set)(void *context);
	void *context;

	if (!cuda)
		errx(1, "%s; install NVIDIA's driver, or use host memory", dlerror());
	init = (int (*)(unsigned int))dlsym(cuda, "cuInit");
	retain = (int (*)(void **, int))dlsym(cuda, "cuDevicePrimaryCtxRetain");
	set = (int (*)(void *))dlsym(cuda, "cuCtxSetCurrent");
	gpu_to_host = (int (*)(void *, unsigned long long, size_t))dlsym(cuda, "cuMemcpyDtoH_v2");
	gpu_from_host = (int (*)(unsigned long long, const void *, size_t))dlsym(cuda, "cuMemcpyHtoD_v2");
	if (!init || !retain || !set || !gpu_to_host || !gpu_from_host)
		errx(1, "libcuda.so.1 is too old");
	if (init(0) || retain(&context, 0) || set(context))
		errx(1, "CUDA cannot use the first GPU; `nvidia-smi` tells more");
}

static inline void gpu_read(void *to, const void *from, size_t len)
{
	if (gpu_to_host(to, (uintptr_t)from, len))
		errx(1, "CUDA cannot copy from the GPU");
}

static inline void gpu_write(void *to, const void *from, size_t len)
{
	if (gpu_from_host((uintptr_t)to, from, len))
		errx(1, "CUDA cannot copy to the GPU");
}

#endif
