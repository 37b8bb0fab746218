# SPDX-License-Identifier: GPL-2.0
#
# For Kbuild files of modules in Rust, on a kernel with KCSAN.

ifdef CONFIG_KCSAN
# For Rust what scripts/Makefile.kcsan has for C. rustc would do it for targets with a thread sanitizer only, of which the kernel's is
# none; so its functions are marked here, and then instrumented. The kernel crate and core are not.
rustflags-y += -Cpasses=forceattrs '-Cpasses=function(tsan)' -Cllvm-args=-force-attribute=sanitize_thread \
	-Cllvm-args=-tsan-distinguish-volatile=1 -Cllvm-args=-tsan-compound-read-before-write=1 \
	-Cllvm-args=-tsan-instrument-func-entry-exit=0
endif
