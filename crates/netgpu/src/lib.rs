// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zero-copy TCP between a NIC and memory that the application chose.
//!
//! The kernel's TCP does all protocol work; payload goes by DMA straight between the NIC and memory registered here.
//!
//! # Objects
//!
//! | type | is |
//! | --- | --- |
//! | [`MemoryArea`] | pinned memory, independent of any device; its spans are [`Region`]s |
//! | [`Context`] | regions, queues and sockets of one network device |
//! | [`Queue`] | one receive queue of the device, fed with donated memory |
//! | [`Socket`] | a TCP socket whose data is received and sent in place |
//! | [`Span`] | a part of a region that the application owns: to fill and send, or to donate |
//! | [`Piece`] | received bytes; dropping it returns the buffer |
//!
//! Memory of a region need not be the CPU's ([`DmaBufMemory`], with the feature `cuda` [`cuda::GpuMemory`]): then [`Span`] and
//! [`Piece`] copy, and panic when they are used as slices.
//!
//! Each keeps alive what it needs, so they can be dropped in any order.
//!
//! All are of the process that has made them. In a child after fork(2) they are neither used nor dropped, until it calls execve(2) or
//! _exit(2): rings are not mapped there, and what it would detach and close is the parent's. (Safe code does not fork.)
//!
//! With the feature `tokio` an `AsyncSocket` is a [`Socket`] whose waiting is a task's.
//!
//! # Receiving
//!
//! Header split is to be on in the device, its other traffic kept off the queue (RSS) and the connection steered to it
//! (n-tuple rules); the `netgpu` command does that and is an example of all of this.
//!
//! ```no_run
#![doc = include_str!("../examples/receive.rs")]
//! ```
//!
//! # Sending
//!
//! ```no_run
#![doc = include_str!("../examples/send.rs")]
//! ```

mod area;
#[cfg(feature = "tokio")]
mod asynchronous;
mod context;
mod error;
mod memory;
mod queue;
pub mod raw;
mod ring;
mod socket;
mod span;
mod statistics;
mod sys;
mod watch;

pub use area::{MemoryArea, Region};
#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncSocket, Event};
pub use context::Context;
pub use error::{Command, Error};
pub use memory::{Backing, DmaBufMemory, HostMemory};
#[cfg(feature = "cuda")]
pub use netgpu_cuda as cuda;
pub use queue::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Queue, QueueConfig, QueueStatistics};
pub use socket::{Completion, Piece, Received, Socket, SocketConfig, SocketStatistics};
pub use span::{Payload, Span};
pub use statistics::{ContextStatistics, RegionStatistics};
pub use watch::Watch;
