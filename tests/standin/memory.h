/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Memory that is not this machine's, from the stand-ins, and the same of udmabuf. */
#ifndef MEMORY_H
#define MEMORY_H

#include "helpers.h"
#include "standin_gpu.h"
#include "standin_nvidia.h"

#include <linux/udmabuf.h>

/* Bytes of what the cases use: as much as struct receiver takes. */
#define LEN	(BUFFERS * buffer_size())
/* Location of the steering rule. */
#define RULE	7
#define PAGE	STANDIN_NVIDIA_PAGE
#define PARAMETER(name)	"/sys/module/standin_nvidia/parameters/" name
#define DEBUGFS(name)	"/sys/kernel/debug/standin_nvidia/" name

static inline int udmabuf(size_t len, char **mem)
{
	int memfd = memfd_create("udmabuf", MFD_CLOEXEC | MFD_ALLOW_SEALING), dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), fd;
	struct udmabuf_create create = { .memfd = memfd, .flags = UDMABUF_FLAGS_CLOEXEC, .size = len };

	if (memfd < 0 || dev < 0 || ftruncate(memfd, len) || fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		abort();
	fd = ioctl(dev, UDMABUF_CREATE, &create);
	if (fd < 0)
		abort();
	*mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	close(dev);
	close(memfd);
	return fd;
}

/* The GPU, and the driver that exports dma-bufs. */

static int gpu = -1;
static char *bar;
static uint64_t bar_len;

static inline void gpu_open(void)
{
	if (gpu >= 0)
		return;
	gpu = open(STANDIN_GPU_PATH, O_RDWR | O_CLOEXEC);
	if (gpu < 0 || ioctl(gpu, STANDIN_SIZE, &bar_len))
		abort();
	bar = mmap(NULL, bar_len, PROT_READ | PROT_WRITE, MAP_SHARED, gpu, 0);
	if (bar == MAP_FAILED)
		abort();
}

/* A dma-buf of the GPU's memory from @offset on, or -errno. */
static inline int gpu_export(uint64_t offset, uint64_t len, unsigned int flags)
{
	struct standin_export export = { .offset = offset, .len = len, .flags = flags };

	gpu_open();
	return ioctl(gpu, STANDIN_EXPORT, &export) ? -errno : export.fd;
}

static inline int gpu_revoke(int fd)
{
	return ioctl(gpu, STANDIN_REVOKE, &fd) ? -errno : 0;
}

static inline struct standin_state gpu_state(int fd)
{
	struct standin_state state = { .fd = fd };

	if (ioctl(gpu, STANDIN_STATE, &state))
		abort();
	return state;
}

static inline bool gpu_unused(int fd)
{
	struct standin_state state = gpu_state(fd);

	return !state.mappings && !state.pins;
}

/* NVIDIA's driver. */

static inline int nvidia_open(void)
{
	int fd = open(STANDIN_NVIDIA_PATH, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		abort();
	return fd;
}

/*
 * Memory of the GPU that lives as long as @fd, or NULL, and where in the GPU's memory it is. Unlike with a real GPU, the CPU reaches it
 * at the address that CUDA has for it.
 */
static inline char *nvidia_alloc_at(int fd, size_t len, uint64_t *offset)
{
	char *hole = mmap(NULL, len + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct standin_alloc alloc = { .addr = ((uintptr_t)hole + PAGE - 1) / PAGE * PAGE, .len = len };
	char *mem = (char *)(uintptr_t)alloc.addr;

	if (hole == MAP_FAILED)
		abort();
	if (ioctl(fd, STANDIN_ALLOC, &alloc))
		return NULL;
	gpu_open();
	if (mmap(mem, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, gpu, alloc.offset) != mem)
		abort();
	*offset = alloc.offset;
	return mem;
}

static inline char *nvidia_alloc(int fd, size_t len)
{
	uint64_t offset;

	return nvidia_alloc_at(fd, len, &offset);
}

static inline int nvidia_free(int fd, const char *mem)
{
	uint64_t addr = (uintptr_t)mem;

	return ioctl(fd, STANDIN_FREE, &addr) ? -errno : 0;
}

static inline unsigned int number(const char *path)
{
	unsigned int n;
	FILE *f = fopen(path, "r");

	if (!f || fscanf(f, "%u", &n) != 1)
		abort();
	fclose(f);
	return n;
}

static inline void set(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		abort();
	close(fd);
}

static inline bool nvidia_unused(void)
{
	return !number(DEBUGFS("tables")) && !number(DEBUGFS("mappings"));
}

#endif
