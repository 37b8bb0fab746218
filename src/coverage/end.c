// SPDX-License-Identifier: GPL-2.0
/*
 * In the flavour of scripts/module --coverage only, and linked last there: what ran is kept in debugfs when the module goes, as a file
 * of LLVM's raw profile format, version 10. That format is by compiler-rt's InstrProfilingWriter.c, since LLVM 19.
 */
#include <linux/debugfs.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>

#include "sections.h"

COVERAGE_SECTIONS(end);

/* "\377lprofr\201", read as a big-endian number. */
#define RAW_MAGIC	0xff6c70726f667281
#define RAW_VERSION	10
/* IPVK_Last: kinds of values that could be profiled, and are not. */
#define VALUE_KIND_LAST	2

struct raw_header {
	u64 magic;
	u64 version;
	u64 binary_ids_size;
	u64 num_data;
	u64 padding_before_counters;
	u64 num_counters;
	u64 padding_after_counters;
	u64 num_bitmap_bytes;
	u64 padding_after_bitmap_bytes;
	u64 names_size;
	u64 counters_delta;
	u64 bitmap_delta;
	u64 names_delta;
	u64 num_vtables;
	u64 vnames_size;
	u64 value_kind_last;
};

struct kept {
	struct debugfs_blob_wrapper blob;
	struct raw_header header;
	char sections[];
};

/* The file stays, and so does what it shows: the module is gone before anybody can look. */
static void keep(void *unused)
{
	const size_t data = (char *)coverage_data_end - (char *)coverage_data_begin;
	const size_t counters = (char *)coverage_counters_end - (char *)coverage_counters_begin;
	const size_t names = coverage_names_end - coverage_names_begin;
	const size_t size = sizeof(struct raw_header) + data + counters + ALIGN(names, 8);
	struct kept *kept = kvzalloc(sizeof(kept->blob) + size, GFP_KERNEL);
	struct dentry *dir;
	char name[64];

	if (!kept)
		return;
	kept->header = (struct raw_header) {
		.magic = RAW_MAGIC,
		.version = RAW_VERSION,
		.num_data = coverage_data_end - coverage_data_begin,
		.num_counters = coverage_counters_end - coverage_counters_begin,
		.names_size = names,
		.counters_delta = (char *)coverage_counters_begin - (char *)coverage_data_begin,
		.names_delta = (u64)coverage_names_begin,
		.value_kind_last = VALUE_KIND_LAST,
	};
	memcpy(kept->sections, coverage_data_begin, data);
	memcpy(kept->sections + data, coverage_counters_begin, counters);
	memcpy(kept->sections + data + counters, coverage_names_begin, names);
	kept->blob.data = &kept->header;
	kept->blob.size = size;

	dir = debugfs_lookup("netgpu-coverage", NULL);
	if (!dir)
		dir = debugfs_create_dir("netgpu-coverage", NULL);
	snprintf(name, sizeof(name), KBUILD_MODNAME "-%llu.profraw", ktime_get_ns());
	debugfs_create_blob(name, 0400, dir, &kept->blob);
}

/* Of all in a module, parameters are released last. This one is there for that. */
static const struct kernel_param_ops keep_ops = {
	.free = keep,
};
module_param_cb(coverage, &keep_ops, NULL, 0);
