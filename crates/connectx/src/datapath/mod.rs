// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a doorbell of the sender to a completion of the receiver.
//!
//! ```text
//! doorbell ─► engine ─► tx: gather list, headers ─► rx: steering, RSS, scatter list ─► copy ─► completions
//! ```
//!
//! A byte of payload is touched once: it is copied from the sender's buffer to the
//! receiver's, and added to the checksum on the way. Headers are copied out first,
//! because they decide where the packet goes and because the guest could change
//! them between look and use.
//!
//! What happens to each packet is a few hundred instructions in many small functions. Those that are not of a kind
//! are made into one by `inline(always)`: a value that goes from one to the next through memory, written in parts and read
//! as a whole, waits there until all that was written before is in the caches, and that is the payload of the packet before.

pub mod checksum;
pub mod doorbell;
pub mod engine;
pub mod fcs;
pub mod gather;
pub mod link;
pub mod merge;
pub mod packet;
pub mod rss;
pub mod rx;
pub mod stream;
pub mod tso;
pub mod tx;
