// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a doorbell of the sender to a completion of the receiver.

pub mod checksum;
