// SPDX-License-Identifier: MIT OR Apache-2.0
//! Received bytes.

use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule};

use crate::dlpack::{self, Request};
use crate::error::raise;
use crate::loan::{self, Device, Loan};
use crate::process::Ours;

/// Received bytes, where the NIC has put them.
///
/// The buffer goes back to the NIC when the piece was released, or is gone, and so is all that was made of it: memoryviews, arrays,
/// tensors. Until then the bytes do not change, unless you write to them.
#[pyclass(frozen, module = "netgpu")]
pub(crate) struct Piece {
    /// What it and all that was made of it have in common. [`None`] when it was released.
    held: Ours<Mutex<Slot>>,
    address: usize,
    len: usize,
    device: Device,
}

type Slot = Option<Arc<netgpu::Piece>>;

fn lock(slot: &Mutex<Slot>) -> std::sync::MutexGuard<'_, Slot> {
    // What is under the lock is whole at every step.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Piece {
    pub(crate) fn new(piece: netgpu::Piece) -> Self {
        Self {
            address: piece.address(),
            len: piece.len(),
            device: Device::of(&piece.region()),
            held: Ours::new(Mutex::new(Some(Arc::new(piece)))),
        }
    }

    fn held(&self) -> PyResult<Arc<netgpu::Piece>> {
        lock(self.held.get()?)
            .clone()
            .ok_or_else(|| PyValueError::new_err("the piece was released"))
    }

    fn lend(&self) -> PyResult<Loan> {
        let held = self.held()?;
        // SAFETY: The bytes are the holder's as long as there is the piece, which is in `held`.
        Ok(unsafe { Loan::new(self.address, self.len, self.device.clone(), held) })
    }

    fn copy(&self, py: Python<'_>) -> PyResult<Vec<u8>> {
        let held = self.held()?;
        py.detach(|| {
            let mut bytes = vec![0; self.len];
            held.read(&mut bytes).map(|()| bytes)
        })
        .map_err(raise)
    }
}

#[pymethods]
impl Piece {
    /// Number of bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.len
    }

    fn __len__(&self) -> usize {
        self.len
    }

    /// The address of the first byte: for a GPU's memory that in CUDA, and for a dma-buf as the region has it.
    #[getter]
    fn address(&self) -> usize {
        self.address
    }

    /// Who reaches the bytes: "cpu", "cuda:0" and so on, or "dma-buf".
    #[getter]
    fn device(&self) -> String {
        self.device.name()
    }

    /// Whether the piece was released.
    #[getter]
    fn released(&self) -> PyResult<bool> {
        Ok(lock(self.held.get()?).is_none())
    }

    /// Gives the piece up. The buffer goes back to the NIC as soon as nothing that was made of the piece is left; what there is goes on.
    /// A second call does nothing.
    fn release(&self) {
        // Dropped when the lock is free again.
        let held = self.held.here().and_then(|slot| lock(slot).take());
        drop(held);
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().held()?;
        Ok(slf)
    }

    fn __exit__(&self, _type: Py<PyAny>, _value: Py<PyAny>, _traceback: Py<PyAny>) {
        self.release();
    }

    /// A copy of the bytes, from whatever memory.
    fn tobytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let held = self.held()?;
        PyBytes::new_with(py, self.len, |bytes| {
            py.detach(|| held.read(bytes)).map_err(raise)
        })
    }

    /// Gives a tensor of the bytes, as the array API standard has it: numpy.from_dlpack(piece), torch.from_dlpack(piece).
    ///
    /// Whatever the stream, it need not wait: the bytes are there. With a GPU's memory, letting the tensor go waits until the GPU has done
    /// what it was given.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<i64>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let request = Request {
            stream,
            max_version,
            dl_device,
            copy,
        };
        request.answer(py, &self.device, || self.lend(), || self.copy(py))
    }

    /// The device of the tensor, as DLPack numbers them.
    fn __dlpack_device__(&self) -> PyResult<(i32, i32)> {
        dlpack::identity(&self.device)
    }

    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        // SAFETY: PyO3 makes this the type's `bf_getbuffer`, and the next its `bf_releasebuffer`. No other code calls them, and Python's
        // contract for the two (C API, "Buffer Object Structures") is the one asked for: a view of the caller's own, or null.
        unsafe { loan::get_buffer(&slf, slf.get().lend(), view, flags) }
    }

    unsafe fn __releasebuffer__(&self, view: *mut ffi::Py_buffer) {
        // SAFETY: By the same contract Python comes here once for each view that `__getbuffer__` has filled, after its last use.
        unsafe { loan::release_buffer(view) };
    }

    fn __repr__(&self) -> String {
        let released = match self.released() {
            Ok(false) => "",
            Ok(true) => ", released",
            Err(_) => ", another process's",
        };
        format!(
            "<netgpu.Piece of {} bytes, {}{released}>",
            self.len,
            self.device.name()
        )
    }
}
