// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Python module `netgpu`: the library's objects for Python, whose bytes other libraries see without a copy.
//!
//! What Python gets hold of are guards. A piece that was received goes back to the NIC, and a span that was taken is free again, when
//! neither the object nor anything that was made of it is left: a memoryview, an array, a tensor ([`loan`]).
//!
//! In a child after fork(2) they are of no use, and do no harm ([`process`]).
//!
//! No lock of this crate is waited for with the interpreter held by one who needs the interpreter to give it up: under a lock nothing
//! of Python runs.

mod context;
mod dlpack;
mod error;
mod loan;
mod piece;
mod process;
mod region;
mod socket;
mod wait;

use pyo3::prelude::*;

/// Zero-copy TCP between a NIC and memory that the application chose.
///
/// A Context belongs to one network device. Regions of memory are attached to it; a Queue puts what it receives into memory that was
/// donated to it; a Socket hands it out in Pieces, and sends Spans of the regions. Pieces and spans support the buffer protocol, where
/// the CPU reaches their bytes, and DLPack, also where a GPU has them.
#[pymodule]
#[pyo3(name = "netgpu")]
mod module {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::context::{Context, Queue};
    #[pymodule_export]
    use super::piece::Piece;
    #[pymodule_export]
    use super::region::{Region, Span};
    #[pymodule_export]
    use super::socket::{Completion, Socket};

    /// Bytes of the longest header with IPv4 without options: Ethernet, IP and TCP.
    #[pymodule_export]
    const IPV4_HEADER_BYTES: u32 = netgpu::IPV4_HEADER_BYTES;
    /// Bytes of the longest header with IPv6 without extension headers; fits IPv4 too.
    #[pymodule_export]
    const IPV6_HEADER_BYTES: u32 = netgpu::IPV6_HEADER_BYTES;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::process::count_forks()?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
