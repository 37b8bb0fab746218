# SPDX-License-Identifier: GPL-2.0
#
# Hands on to KDIR and to scripts/; `make help` lists the targets. What the module consists of stands in Kbuild.

module := scripts/module $(if $(KDIR),--kdir $(KDIR))

.PHONY: modules
modules:
	@$(module)

.PHONY: modules_install
modules_install: modules
	@$(module) modules_install $(if $(INSTALL_MOD_PATH),INSTALL_MOD_PATH=$(abspath $(INSTALL_MOD_PATH)))

.PHONY: clean
clean:
	@$(module) clean
	@rm -rf build

.PHONY: root kernel
root kernel:
	@scripts/$@ >/dev/null

.PHONY: packages
packages:
	@scripts/packages-build >/dev/null

.PHONY: kernel-deb
kernel-deb:
	@scripts/kernel-deb $(ARGS) >/dev/null

.PHONY: crates python docs iperf3 series test-nic test-cuda check bench
crates python docs iperf3 series test-nic test-cuda check bench:
	@scripts/$@ $(ARGS)

# What `make crates` has built, the shared library after the static one: nothing is linked anew.
library := $(MAKE) --no-print-directory -C crates/netgpu-c install ARCHIVE=$(abspath build/lib/libnetgpu.a) OUT=$(abspath build/lib)

.PHONY: install-library
install-library:
	@[ -e build/lib/libnetgpu.a ] || { echo 'error: there is no libnetgpu here yet; run `make crates` first' >&2; exit 1; }
	@$(library)

.PHONY: demo
demo:
	@scripts/demo $(if $(GPU),--gpu) $(ARGS)

flavour := $(if $(KERNEL),--$(KERNEL))

.PHONY: test
test:
	@scripts/test $(flavour) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

.PHONY: soak
soak:
	@scripts/soak $(flavour) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: fuzz
fuzz:
	@scripts/fuzz $(flavour) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: coverage
coverage:
	@scripts/coverage $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

.PHONY: help
help:
	@echo 'make                    the kernel modules netgpu.ko and netgpu_nvidia.ko, for the kernel in KDIR (default: the one of make kernel)'
	@echo 'make modules_install    install it, below INSTALL_MOD_PATH if given'
	@echo 'make clean              remove what was built here (not the cache)'
	@echo
	@echo 'make demo               a file through zero-copy TCP, both ways, shown'
	@echo '                        GPU=1: with memory of a stand-in for a GPU, and with what CPUs do to it counted'
	@echo 'make test               every test; ARGS="rx tx" runs only these (see scripts/test --help)'
	@echo '                        JOBS=1: one area at a time (otherwise up to three)'
	@echo '                        KERNEL=debug: those of the guest on a kernel with lockdep, KASAN and more; slow'
	@echo '                        KERNEL=kcsan: on one that finds data races; slow'
	@echo 'make test-nic           the kernel'"'"'s own driver selftests on the software ConnectX; ARGS=cx5 for one profile'
	@echo 'make test-cuda          GPU memory, on a real NVIDIA GPU with its driver; needs cargo and a C compiler, and not our kernel'
	@echo 'make soak MINUTES=n     streams in both directions, with faults of the cable, ends and changes as SEED=n has it; KERNEL=debug'
	@echo 'make fuzz MINUTES=n     calls, mappings and rings as SEED=n has it, kept in build/fuzz/ when they reach new code; KERNEL=debug'
	@echo 'make coverage           the tests of the guest once more, and which lines of src/ they run; ARGS="rx tx" for these only'
	@echo 'make bench              netgpu beside the ways that Linux has: instructions, speed, payload touched, growth; tables and plots in build/bench; ARGS=--help'
	@echo 'make check              only formatting, lints and style'
	@echo
	@echo 'make crates             the user-side programs and the software ConnectX, in build/bin; the C library in build/lib;'
	@echo '                        man pages in build/man, completions for shells in build/completions'
	@echo 'make python             the Python module: a wheel, and what PYTHONPATH takes, in build/python'
	@echo 'make install-library    install what make crates has built of the C library, below PREFIX (/usr/local) and DESTDIR'
	@echo 'make packages           Debian packages of the module (DKMS), libraries and the command, in build/packages; needs make crates python'
	@echo 'make kernel-deb         Debian packages of a kernel with patches/ and all of Debian'"'"'s drivers, in build/deb; takes hours'
	@echo 'make docs               the documentation, in build/docs; fails on dead links'
	@echo 'make iperf3             iperf3 that sends and receives through libnetgpu, in build/iperf3; needs make crates (contrib/iperf3)'
	@echo 'make series             the kernel patches as one mbox with a cover letter, build/series.mbox, for git am or git send-email'
	@echo 'make root               the toolchain root'
	@echo 'make kernel             Linux with patches/, as the tests use it'
	@echo
	@echo 'make demo and make test need only Debian 12 or 13, root rights and the package registries: they make the rest.'
	@echo 'The toolchain root and the kernel are kept in $${XDG_CACHE_HOME:-~/.cache}/netgpu/.'
