// SPDX-License-Identifier: MIT OR Apache-2.0
//! A software ConnectX: two ports of an mlx5 NIC, cabled together.
//!
//! Each port is a PCI function that is served over vfio-user, so that QEMU's
//! `vfio-user-pci` can give it to a guest. The guest runs its own, unpatched
//! mlx5 driver on it. The binary `connectx` serves both ports of one cable:
//!
//! ```text
//! connectx --port /run/a.sock --port /run/b.sock &
//! qemu-system-x86_64 -machine q35,memory-backend=ram \
//!     -object memory-backend-memfd,id=ram,size=2G,share=on \
//!     -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/run/a.sock"}}' \
//!     -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/run/b.sock"}}' …
//! ```
//!
//! Guest memory must be shared (`share=on`): the device reaches it by mapping it.
//! Both ports may be in one guest, with one of them moved to a network namespace of
//! its own, or in two. A port whose monitor has gone waits for another; `connectx` ends when the last one has gone.
//!
//! # What it does
//! Profile `cx5`: checksums, TSO, RSS (Toeplitz), flow steering with all tables that the
//! driver makes, VLAN stripping, frames up to 10 KB, receive entries of several pieces,
//! error completions and queue recovery, function-level reset, power states; speed, error correction and pause of the physical
//! port, and all its counters. What the driver could ask for beyond that is not in the capabilities, and refused.
//!
//! Profile `cx7`: all of that, and striding receive queues whose memory is mapped by UMR, in pages of
//! 4 KiB and larger, exact header split for TCP and UDP, and hardware GRO of TCP over IPv4 and IPv6
//! (SHAMPO). Memory keys are of physical addresses or translated by page; AF_XDP with unaligned or
//! odd-sized chunks, which needs the other kinds, is refused.
//!
//! # What it does not do
//! It has no physics: no speed but the host's, no loss, no FCS, unless they are asked for ([`fault`]). A frame whose receiver has no buffer waits, as on a link with pause
//! frames, but not for ever: when the time is over (`--pause-ms`) the queue counts as starved,
//! and what comes for it is dropped and counted (`out_of_buffer`) until it has buffers again. While it
//! waits it holds up its own send queue only.
//!
//! # How it is built
//! | module | is |
//! | --- | --- |
//! | [`bits`] | wire layouts |
//! | [`model`] | generations of the hardware: identity and capabilities |
//! | [`pci`] | configuration space |
//! | [`mem`] | guest memory, and all unsafe code |
//! | [`obj`] | objects: queues, TIRs, flow tables, and the port that has them |
//! | [`cmd`] | commands that create, change and destroy objects |
//! | [`datapath`] | from a doorbell to a completion |
//! | [`fault`] | what goes wrong on demand, and captures |
//! | [`control`] | asking for it while traffic runs |
//! | [`server`] | vfio-user |
//!
//! Each port has two threads. One takes vfio-user messages: commands are executed right there,
//! doorbells are passed on. The other, the engine, serves the port's send queues and moves
//! packets right into the other port's receive queues. One lock lies over both ports:
//! engines and doorbells take it shared, commands and mappings exclusively ([`datapath::link::Cable`]).
//!
//! The guest is not trusted. Whatever it writes gives at worst a refused command, an error
//! completion or a stopped queue. The monitor is trusted: it could truncate the memory it
//! shares.
//!
//! The interface is described by the driver: `include/linux/mlx5/` and
//! `drivers/net/ethernet/mellanox/mlx5/core/` of Linux. Names of structures and fields are from there.

#![deny(unsafe_code)]

pub mod bits;
pub mod clock;
pub mod cmd;
pub mod control;
pub mod datapath;
pub mod fault;
#[expect(unsafe_code, reason = "guest memory is files that are mapped")]
pub mod mem;
pub mod model;
pub mod obj;
pub mod pci;
pub mod server;
