/* SPDX-License-Identifier: GPL-2.0 */
/* The sections that compilers make for -fprofile-instr-generate and -Cinstrument-coverage. */
#ifndef NETGPU_COVERAGE_SECTIONS_H
#define NETGPU_COVERAGE_SECTIONS_H

#include <linux/types.h>

/* struct __llvm_profile_data of LLVM 19 to 22, of which only the size matters here. */
struct coverage_data {
	u64 words[8];
};

/* Where all three are at this place in the order of linking. */
#define COVERAGE_SECTIONS(edge)									\
	struct coverage_data coverage_data_##edge[0] __used __section("__llvm_prf_data");	\
	u64 coverage_counters_##edge[0] __used __section("__llvm_prf_cnts");			\
	const char coverage_names_##edge[0] __used __section("__llvm_prf_names")

extern struct coverage_data coverage_data_begin[], coverage_data_end[];
extern u64 coverage_counters_begin[], coverage_counters_end[];
extern const char coverage_names_begin[], coverage_names_end[];

#endif
