// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes that something outside sees: a memoryview, an array, a tensor. Each has a loan, and the memory stays as it is until the last is
//! back.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::ptr;

use netgpu::Region;
use netgpu::cuda::Gpu;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::process::Ours;

/// Who reaches the bytes of a region.
#[derive(Debug, Clone)]
pub(crate) enum Device {
    Cpu,
    Gpu(Gpu),
    /// Whoever exports the dma-buf.
    DmaBuf,
}

impl Device {
    pub(crate) fn of(region: &Region) -> Self {
        if region.is_host() {
            Self::Cpu
        } else {
            region.gpu().map_or(Self::DmaBuf, Self::Gpu)
        }
    }

    /// As Python has it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::Gpu(gpu) => format!("cuda:{}", gpu.ordinal()),
            Self::DmaBuf => "dma-buf".into(),
        }
    }
}

/// # Invariants
///
/// `len` bytes at `address` of `device` are there, nobody else writes to them, and no NIC touches them, as long as `keeper` lives. If it is
/// [`Device::Cpu`], they are mapped for reading and writing.
pub(crate) struct Loan {
    address: usize,
    len: usize,
    device: Device,
    keeper: Ours<Box<dyn Any + Send + Sync>>,
}

impl Loan {
    /// # Safety
    ///
    /// `keeper` does what the type invariants say of it.
    pub(crate) unsafe fn new(
        address: usize,
        len: usize,
        device: Device,
        keeper: impl Any + Send + Sync,
    ) -> Self {
        // INVARIANT: By the caller's promise.
        Self {
            address,
            len,
            device,
            keeper: Ours::new(Box::new(keeper)),
        }
    }

    /// A copy, in memory of the CPU.
    pub(crate) fn of_copy(mut bytes: Vec<u8>) -> Self {
        let address = bytes.as_mut_ptr().expose_provenance();
        // SAFETY: The bytes do not move with the vector, and nobody else has it.
        unsafe { Self::new(address, bytes.len(), Device::Cpu, bytes) }
    }

    pub(crate) fn address(&self) -> *mut c_void {
        ptr::with_exposed_provenance_mut(self.address)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // Who had it may have left work with the GPU that has yet to be done, and a NIC may write there next. If this fails, the GPU does
        // no work of this process any more.
        if let Device::Gpu(gpu) = &self.device
            && self.keeper.here().is_some()
        {
            let wait = || drop(gpu.synchronize());
            // Some of the work may be a function of Python's.
            if Python::try_attach(|py| py.detach(wait)).is_none() {
                wait();
            }
        }
    }
}

/// `__getbuffer__()`: makes `view` one of the bytes of `owner`, for as long as they are lent; or fails, if they are not.
///
/// # Safety
///
/// As Python's buffer protocol has it for `bf_getbuffer` of the type: `view` is null or a view that is to be filled, by nobody else, and one
/// that was filled comes to [`release_buffer`], which is `bf_releasebuffer` of that type.
pub(crate) unsafe fn get_buffer<T>(
    owner: &Bound<'_, T>,
    loan: PyResult<Loan>,
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> PyResult<()> {
    if view.is_null() {
        return Err(PyBufferError::new_err("there is no view to fill"));
    }
    // If this fails, the caller sees by it that there is nothing to release.
    // SAFETY: By this function's requirements.
    unsafe { (*view).obj = ptr::null_mut() };
    let loan = loan?;
    if !matches!(loan.device, Device::Cpu) {
        return Err(PyBufferError::new_err(format!(
            "the CPU does not reach memory of {}; use DLPack, or make a copy with tobytes()",
            loan.device.name()
        )));
    }
    let (address, len) = (loan.address(), loan.len as isize);
    // SAFETY: The view is to be filled, by this function's requirements. By the loan's invariants the CPU may read and write the bytes until
    // it is dropped, which `release_buffer()` does: when nobody uses the view any longer. The view holds a reference to the owner.
    unsafe {
        if ffi::PyBuffer_FillInfo(view, owner.as_ptr(), address, len, 0, flags) != 0 {
            return Err(PyErr::fetch(owner.py()));
        }
        (*view).internal = Box::into_raw(Box::new(loan)).cast();
    }
    Ok(())
}

/// `__releasebuffer__()`.
///
/// # Safety
///
/// As Python's buffer protocol has it for `bf_releasebuffer` of a type whose `bf_getbuffer` is [`get_buffer`]: that has filled `view`,
/// which nobody uses any longer, and for which this was not called yet.
pub(crate) unsafe fn release_buffer(view: *mut ffi::Py_buffer) {
    // SAFETY: `get_buffer()` has put the loan there, and that place is the exporter's, which nobody else may change. This is called once for
    // each view.
    drop(unsafe { Box::from_raw((*view).internal.cast::<Loan>()) });
}
