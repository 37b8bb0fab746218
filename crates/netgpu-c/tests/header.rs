// SPDX-License-Identifier: MIT OR Apache-2.0
//! `include/netgpu.h` is what cbindgen makes of the sources. Run with `NETGPU_WRITE=1` to write it anew.

use std::path::Path;

/// In the order of the header.
const SOURCES: [&str; 7] = [
    "memory", "context", "area", "queue", "socket", "error", "meta",
];

#[test]
fn header_is_current() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config =
        cbindgen::Config::from_file(here.join("cbindgen.toml")).expect("cbindgen.toml is readable");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(here.join(format!("src/{source}.rs")));
    }
    let mut made = Vec::new();
    builder
        .generate()
        .expect("the sources make a header")
        .write(&mut made);
    let made = String::from_utf8(made).expect("the header is text");

    let path = here.join("include/netgpu.h");
    if std::env::var_os("NETGPU_WRITE").is_some() {
        std::fs::write(&path, &made).expect("the header can be written");
    }
    let there = std::fs::read_to_string(&path).expect("the header is there");
    assert!(
        made == there,
        "include/netgpu.h is old: run NETGPU_WRITE=1 cargo test -p netgpu-c --test header"
    );
}
