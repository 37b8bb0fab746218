// SPDX-License-Identifier: MIT OR Apache-2.0
//! `src/sys/uapi.rs` is what bindgen makes of `include/uapi/linux/netgpu.h`.
//!
//! `NETGPU_REGENERATE=1 cargo test -p netgpu --test bindings` writes it anew. Needs `bindgen` in the PATH, in the
//! version of the toolchain root: run it inside `scripts/enter`.

use std::path::Path;
use std::process::Command;

#[test]
fn uapi_bindings_are_current() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = top.join("src/sys/uapi.rs");
    let output = Command::new("bindgen")
        .arg(top.join("../../include/uapi/linux/netgpu.h"))
        .args(["--allowlist-item", "netgpu_.*|NETGPU_.*"])
        .args(["--with-derive-default", "--no-doc-comments"])
        .args(["--rust-target", "1.85"])
        .args([
            "--raw-line",
            "// SPDX-License-Identifier: MIT OR Apache-2.0",
        ])
        .output()
        .expect("bindgen is to be in the PATH; run this inside scripts/enter");
    assert!(
        output.status.success(),
        "bindgen failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let made = String::from_utf8(output.stdout).expect("bindgen writes UTF-8");

    if std::env::var_os("NETGPU_REGENERATE").is_some() {
        std::fs::write(&file, &made).expect("the generated file is writable");
    }
    let checked_in = std::fs::read_to_string(&file).expect("the generated file is there");
    assert!(
        made == checked_in,
        "{} is not what bindgen makes of the header now; regenerate it as the top of this test says",
        file.display()
    );
}
