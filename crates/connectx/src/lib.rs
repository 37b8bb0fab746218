// SPDX-License-Identifier: MIT OR Apache-2.0
//! A software ConnectX.

pub mod bits;
pub mod cmd;
pub mod datapath;
pub mod mem;
pub mod model;
pub mod obj;
pub mod pci;
