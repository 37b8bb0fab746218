// SPDX-License-Identifier: MIT OR Apache-2.0
//! DLPack: bytes as a tensor of one dimension, for whatever library takes it. Layouts are those of `dlpack.h`, version 1.0; the protocol is
//! that of the Python array API standard.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::loan::{Device, Loan};

/// `kDLCPU`.
const CPU: i32 = 1;
/// `kDLCUDA`.
const CUDA: i32 = 2;
/// `kDLUInt`.
const UINT: u8 = 1;
/// `DLPACK_FLAG_BITMASK_IS_COPIED`.
const IS_COPIED: u64 = 1 << 1;
const VERSION: Version = Version { major: 1, minor: 0 };

/// `DLPackVersion`.
#[repr(C)]
struct Version {
    major: u32,
    minor: u32,
}

/// `DLTensor`, with `DLDevice` and `DLDataType` in it.
#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensor`, which those take who ask for no version.
#[repr(C)]
struct Managed {
    tensor: Tensor,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
struct Versioned {
    version: Version,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
    flags: u64,
    tensor: Tensor,
}

/// One of the two, and what it points to.
#[repr(C)]
struct Exported<T> {
    /// First, so that its address is that of the whole.
    managed: T,
    shape: [i64; 1],
    strides: [i64; 1],
    _loan: Loan,
}

trait Kind: Sized {
    /// What its capsule is called as long as nobody has taken the tensor out.
    const NAME: &CStr;

    fn new(tensor: Tensor, flags: u64) -> Self;
    fn tensor(&mut self) -> &mut Tensor;
}

impl Kind for Managed {
    const NAME: &CStr = c"dltensor";

    fn new(tensor: Tensor, _flags: u64) -> Self {
        Self {
            tensor,
            manager_ctx: std::ptr::null_mut(),
            deleter: Some(delete::<Self>),
        }
    }

    fn tensor(&mut self) -> &mut Tensor {
        &mut self.tensor
    }
}

impl Kind for Versioned {
    const NAME: &CStr = c"dltensor_versioned";

    fn new(tensor: Tensor, flags: u64) -> Self {
        Self {
            version: VERSION,
            manager_ctx: std::ptr::null_mut(),
            deleter: Some(delete::<Self>),
            flags,
            tensor,
        }
    }

    fn tensor(&mut self) -> &mut Tensor {
        &mut self.tensor
    }
}

/// The deleter of both kinds. Any thread may call it, with or without the interpreter.
unsafe extern "C" fn delete<T>(managed: *mut T) {
    // SAFETY: `capsule()` has leaked it as the first member of this, and the protocol has the deleter called once.
    drop(unsafe { Box::from_raw(managed.cast::<Exported<T>>()) });
}

/// What Python calls when a capsule goes. Who has taken the tensor out has given it another name.
unsafe extern "C" fn forgotten<T: Kind>(capsule: *mut ffi::PyObject) {
    // SAFETY: Python gives us the capsule that `capsule()` has made, whose pointer is what the deleter takes.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, T::NAME.as_ptr()) == 1 {
            delete::<T>(ffi::PyCapsule_GetPointer(capsule, T::NAME.as_ptr()).cast());
        }
    }
}

fn capsule<T: Kind>(py: Python<'_>, loan: Loan, flags: u64) -> PyResult<Bound<'_, PyCapsule>> {
    let (device_type, device_id) = identity(loan.device())?;
    let tensor = Tensor {
        data: loan.address(),
        device_type,
        device_id,
        ndim: 1,
        code: UINT,
        bits: 8,
        lanes: 1,
        shape: std::ptr::null_mut(),
        strides: std::ptr::null_mut(),
        byte_offset: 0,
    };
    let mut exported = Box::new(Exported {
        managed: T::new(tensor, flags),
        shape: [loan.len() as i64],
        strides: [1],
        _loan: loan,
    });
    let (shape, strides) = (exported.shape.as_mut_ptr(), exported.strides.as_mut_ptr());
    exported.managed.tensor().shape = shape;
    exported.managed.tensor().strides = strides;
    let exported = NonNull::from(Box::leak(exported));
    // SAFETY: What it points to stays until the deleter is called: by who takes the tensor out, else by the destructor, which takes
    // nothing else.
    let capsule = unsafe {
        PyCapsule::new_with_pointer_and_destructor(
            py,
            exported.cast(),
            T::NAME,
            Some(forgotten::<T>),
        )
    };
    if capsule.is_err() {
        // SAFETY: Nobody has it.
        unsafe { delete::<T>(exported.as_ptr().cast()) };
    }
    capsule
}

/// `__dlpack_device__()`.
pub(crate) fn identity(device: &Device) -> PyResult<(i32, i32)> {
    match device {
        Device::Cpu => Ok((CPU, 0)),
        Device::Gpu(gpu) => Ok((CUDA, gpu.ordinal().cast_signed())),
        Device::DmaBuf => Err(PyBufferError::new_err(
            "the memory is a dma-buf: only its exporter knows what it is",
        )),
    }
}

/// The arguments of `__dlpack__()`.
pub(crate) struct Request {
    pub(crate) stream: Option<i64>,
    pub(crate) max_version: Option<(u32, u32)>,
    pub(crate) dl_device: Option<(i32, i32)>,
    pub(crate) copy: Option<bool>,
}

impl Request {
    /// `__dlpack__()`: `lend` gives the bytes themselves, `copy` copies them into memory of the CPU.
    ///
    /// The bytes are there: nothing that a stream has to wait for is under way.
    pub(crate) fn answer<'py>(
        &self,
        py: Python<'py>,
        device: &Device,
        lend: impl FnOnce() -> PyResult<Loan>,
        copy: impl FnOnce() -> PyResult<Vec<u8>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let here = identity(device)?;
        let there = self.dl_device.unwrap_or(here);
        match (device, self.stream) {
            (Device::Gpu(_), None | Some(-1 | 1..)) | (_, None) => {}
            (Device::Gpu(_), _) => {
                return Err(PyValueError::new_err(
                    "a stream is 1 (the legacy default one), 2 (that of the thread), a pointer, or -1",
                ));
            }
            _ => return Err(PyValueError::new_err("memory of the CPU has no streams")),
        }
        let (loan, flags) = if there == here && self.copy != Some(true) {
            (lend()?, 0)
        } else if there == (CPU, 0) && self.copy != Some(false) {
            (Loan::of_copy(copy()?), IS_COPIED)
        } else {
            return Err(PyBufferError::new_err(format!(
                "the bytes are those of {}, and copies are made in memory of the CPU only",
                device.name()
            )));
        };
        if self
            .max_version
            .is_some_and(|(major, _)| major >= VERSION.major)
        {
            capsule::<Versioned>(py, loan, flags)
        } else {
            capsule::<Managed>(py, loan, flags)
        }
    }
}
