// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C library of netgpu: `libnetgpu.so` and `libnetgpu.a`, with `netgpu.h` and, for programs written for the library of
//! 2020, `netgpu_lib.h`.
//!
//! `include/netgpu.h` is made of this crate by cbindgen (`tests/header.rs`): the comments here are its comments, so they speak to
//! C programmers. What all functions have in common is said at its top, which is in `cbindgen.toml`.
//!
//! Handles are boxes, and a pointer to a handle is a reference to an optional box, which has the layout of C's: so nearly all of
//! this is safe code. What is not is in [`arguments`], and what stays with the caller is what a C program owes anyway: handles are
//! those that were given out, arrays are as long as said, and no object is in two calls at a time.
//!
//! A panic would be a defect of the library. It ends the process, with its message: unwinding stops at `extern "C"`.
#![allow(non_camel_case_types)]
#![expect(
    clippy::missing_safety_doc,
    reason = "the comments are the header's, and say what a caller in C owes"
)]

mod area;
mod arguments;
mod context;
mod error;
mod fd;
mod memory;
mod meta;
mod queue;
mod socket;

pub use area::*;
pub use context::*;
pub use error::netgpu_last_error;
pub use memory::{netgpu_alloc_memory, netgpu_free_memory, netgpu_memtype};
pub use meta::*;
pub use queue::*;
pub use socket::*;
