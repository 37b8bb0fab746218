# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Included by an area's Makefile after `programs := NAME...`: builds each NAME.c with the kernel's test harness.
#
#	make OUT=DIR KSRC=DIR      the programs into OUT; KSRC is the kernel source
lib := $(dir $(lastword $(MAKEFILE_LIST)))
KSRC ?= /kernel
OUT ?= .
CFLAGS ?= -O2 -g
CFLAGS += -std=gnu11 -Wall -Wextra -Wno-missing-field-initializers -Werror -static -pthread
CPPFLAGS += -I $(lib) -I $(lib)../../include/uapi -isystem $(KSRC)/tools/testing/selftests

.PHONY: all
all: $(programs:%=$(OUT)/%)

$(OUT)/%: %.c $(lib)helpers.c $(lib)helpers.h $(lib)../../include/uapi/linux/netgpu.h $(MAKEFILE_LIST)
	@mkdir -p $(OUT)
	$(CC) $(CPPFLAGS) $(CFLAGS) -o $@ $< $(lib)helpers.c
