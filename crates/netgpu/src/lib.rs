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
//! With the feature `tokio` an `AsyncSocket` is a [`Socket`] whose waiting is a task's.
//!
//! # Receiving
//!
//! Header split is to be on in the device, its other traffic kept off the queue (RSS) and the connection steered to it
//! (n-tuple rules); the `netgpu` command does that and is an example of all of this.
//!
//! ```no_run
//! use netgpu::{Backing, Context, HostMemory, MemoryArea, QueueConfig, SocketConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let memory = MemoryArea::new()?.add(HostMemory::new(64 << 20, Backing::Anonymous)?)?;
//! let context = Context::open("eth0")?;
//! context.attach(&memory)?;
//! let queue = context.open_queue(QueueConfig {
//!     queue: 1,
//!     fill_entries: 16384,
//!     header_bytes: netgpu::IPV4_HEADER_BYTES,
//! })?;
//! queue.donate(memory.take(memory.len()).expect("all of it is free"))?;
//!
//! let (stream, _) = std::net::TcpListener::bind("0.0.0.0:5000")?.accept()?;
//! let config = SocketConfig { receive: Some(&queue), ..SocketConfig::default() };
//! let mut socket = context.attach_socket(stream, config)?;
//! while let Some(piece) = socket.recv()? {
//!     println!("{} bytes, the first is {}", piece.len(), piece[0]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Sending
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let memory: netgpu::Region = todo!();
//! # let context: netgpu::Context = todo!();
//! let config = netgpu::SocketConfig { send: true, ..Default::default() };
//! let stream = std::net::TcpStream::connect("192.0.2.1:5000")?;
//! let mut socket = context.attach_socket(stream, config)?;
//!
//! let mut span = memory.take(4096).expect("so much is free");
//! span[..5].copy_from_slice(b"hello");
//! let mut payload = span.into_payload(0..5);
//! socket.try_send(&mut payload)?;
//! drop(payload);
//! let done = socket.completion()?.expect("one send is unfinished");
//! let span = done.payload.into_span().expect("no other payload shares it");
//! # Ok(())
//! # }
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
