// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `meta` ring of the library of 2020: no kernel ever had it.
#![expect(unused_variables, reason = "their names are the header's")]

use std::ffi::{c_int, c_void};

use crate::error::{Failure, answer, keep};
use crate::socket::netgpu_skq;

const NO_META: Failure = Failure::Errno(libc::EOPNOTSUPP, "there is no metadata of receives");

/// Of the library of 2020, whose ring of data about each receive no kernel has. Returns -EOPNOTSUPP.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_add_meta(
    skq: Option<&mut netgpu_skq>,
    fd: c_int,
    addr: *mut c_void,
    len: usize,
    nentries: c_int,
    meta_len: c_int,
) -> c_int {
    answer(Err(NO_META))
}

/// See netgpu_add_meta(). Does nothing.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_populate_meta(
    skq: Option<&mut netgpu_skq>,
    addr: u64,
    count: c_int,
    size: c_int,
) {
    keep(&NO_META);
}

/// See netgpu_add_meta(). Does nothing.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_recycle_meta(skq: Option<&mut netgpu_skq>, ptr: *mut c_void) {
    keep(&NO_META);
}

/// See netgpu_add_meta(). Does nothing.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_submit_meta(skq: Option<&mut netgpu_skq>) {
    keep(&NO_META);
}
