// SPDX-License-Identifier: GPL-2.0

//! The border to C: everything unsafe of this module except the shared rings' algorithm.
//!
//! - [`abi`]: what bindgen makes of the user API and of the kernel's own headers, see `shim/shim.h`; private to this folder
//! - [`uapi`]: the user API's structures as plain data
//! - [`patched`], [`late`], [`lock`], [`rcu`], [`counters`], [`inline`], [`module`]: what the kernel crate lacks
//! - [`trace`]: trace events
//! - [`file`], [`pinned`], [`mapping`]: files of ours, pinned memory and ring memory
//! - [`device`], [`provider`], [`pages`]: a network device, the memory provider of its queues, and the network memory of both
//! - [`host`], [`dmabuf`], [`gpu`]: what network memory is made of, mapped for a device; [`loan`]: that its owner may take it back;
//!   [`drain`]: waiting until a device has read what it sends
//! - [`sock`], [`ulp`], [`skb`], [`send`], [`ubuf`]: sockets, how they become ours, the packets that they receive, and what they send
//!
//! A function that C calls stands with the table that names it. It turns pointers into borrows and calls a safe one.

pub(crate) mod counters;
pub(crate) mod device;
pub(crate) mod dmabuf;
mod drain;
pub(crate) mod file;
pub(crate) mod gpu;
mod host;
pub(crate) mod inline;
pub(crate) mod late;
mod loan;
pub(crate) mod lock;
pub(crate) mod mapping;
pub(crate) mod module;
pub(crate) mod pages;
pub(crate) mod patched;
pub(crate) mod pinned;
pub(crate) mod provider;
pub(crate) mod rcu;
pub(crate) mod send;
pub(crate) mod skb;
pub(crate) mod sock;
mod soon;
pub(crate) mod trace;
pub(crate) mod uapi;
mod ubuf;
pub(crate) mod ulp;

include!("../abi.rs");
abi!("../abi_generated.rs", use kernel::bindings::tracepoint;);
