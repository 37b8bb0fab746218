// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles the BPF program of `netgpu pad` with clang.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let source = "bpf/pad.bpf.c";
    println!("cargo::rerun-if-changed={source}");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let object = Path::new(&out).join("pad.bpf.o");
    // No -g: the program is loaded without BTF, which small kernels lack. The second directory has asm/types.h.
    let status = Command::new("clang")
        .args(["-target", "bpf", "-O2", "-Wall", "-Werror"])
        .args(["-I", "/usr/include/x86_64-linux-gnu", "-c", source, "-o"])
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("clang could not compile {source}: {status}"),
        Err(error) => {
            panic!("cannot run clang ({error}): build inside scripts/enter, or install clang")
        }
    }
}
