// SPDX-License-Identifier: MIT OR Apache-2.0
//! The BPF program that makes headers long.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, SockOps};
use aya::{Ebpf, include_bytes_aligned};

/// `bpf/pad.bpf.c`, compiled by `build.rs`.
static PROGRAM: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pad.bpf.o"));

/// Attaches the program to a cgroup and those below it, for as long as the link lives.
pub(super) fn attach(cgroup: &Path) -> Result<FdLink> {
    let mut object = Ebpf::load(PROGRAM).context("cannot load the BPF program")?;
    let program: &mut SockOps = object
        .program_mut("pad")
        .ok_or_else(|| anyhow!("the BPF object has no program named pad"))?
        .try_into()
        .context("the BPF program is of another type")?;
    program.load().context(
        "the kernel refuses the BPF program; it takes root (CAP_BPF and CAP_NET_ADMIN) and a kernel with \
         CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
    )?;
    const WHAT: &str = "cannot attach the BPF program to the cgroup";
    let directory = File::open(cgroup).context("cannot open the cgroup")?;
    // "Single" is no flags: a link always lets others attach too, and the kernel refuses the flag that would say so.
    let link = program
        .attach(directory, CgroupAttachMode::Single)
        .context(WHAT)?;
    program
        .take_link(link)
        .context(WHAT)?
        .try_into()
        .context(WHAT)
}
