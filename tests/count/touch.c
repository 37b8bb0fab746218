// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * touch gpu|copies store N VALUE: puts VALUE into the first N words of 8 bytes of the stand-in GPU's memory, through one of its windows.
 * touch gpu|copies load N: prints the sum of them.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "standin_gpu.h"

int main(int argc, char **argv)
{
	int gpu = open(STANDIN_GPU_PATH, O_RDWR | O_CLOEXEC);
	volatile uint64_t *memory;
	uint64_t len, sum = 0;
	long i, n;

	if (argc < 4)
		errx(1, "usage: touch gpu|copies load|store N [VALUE]");
	if (gpu < 0 || ioctl(gpu, STANDIN_SIZE, &len))
		err(1, STANDIN_GPU_PATH);
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, gpu, strcmp(argv[1], "copies") ? 0 : len);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	n = atol(argv[3]);
	if (argc > 4)
		for (i = 0; i < n; i++)
			memory[i] = atol(argv[4]);
	else
		for (i = 0; i < n; i++)
			sum += memory[i];
	printf("%ju\n", (uintmax_t)sum);
	return 0;
}
