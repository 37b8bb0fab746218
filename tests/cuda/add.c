// SPDX-License-Identifier: MIT OR Apache-2.0
/* add [hold]: adds a region of a GPU's memory, if there is a GPU; else of something else. With hold, keeps it. */
#include "helpers.h"
#include "standin_nvidia.h"

#define LEN	STANDIN_NVIDIA_PAGE

int main(int argc, char **argv)
{
	int gpu = open(STANDIN_NVIDIA_PATH, O_RDWR | O_CLOEXEC), fd = ng_open(), ret;
	struct standin_alloc alloc = { .addr = 1UL << 40, .len = LEN };

	(void)argv;
	if (gpu >= 0 && ioctl(gpu, STANDIN_ALLOC, &alloc)) {
		perror(STANDIN_NVIDIA_PATH);
		return 1;
	}
	ret = ng_add_cuda(fd, (void *)(uintptr_t)alloc.addr, LEN);
	if (ret != 1) {
		fprintf(stderr, "%s\n", strerror(-ret));
		return 1;
	}
	if (argc > 1) {
		puts("held");
		fflush(stdout);
		pause();
	}
	return 0;
}
