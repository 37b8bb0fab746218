// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one door to the CUDA driver: its functions, with what they need to be safe.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUmemRangeHandleType,
    CUpointer_attribute, CUresult,
};

use crate::{Error, GRANULE};

/// Every function that is called here. The bindings look each up when it is first called and abort the program when
/// it is missing, so all are looked for beforehand.
const FUNCTIONS: [&CStr; 20] = [
    c"cuCtxGetDevice",
    c"cuCtxPopCurrent_v2",
    c"cuCtxPushCurrent_v2",
    c"cuCtxSynchronize",
    c"cuDeviceGet",
    c"cuDeviceGetAttribute",
    c"cuDeviceGetCount",
    c"cuDeviceGetName",
    c"cuDevicePrimaryCtxRelease_v2",
    c"cuDevicePrimaryCtxRetain",
    c"cuDriverGetVersion",
    c"cuGetErrorString",
    c"cuInit",
    c"cuMemAlloc_v2",
    c"cuMemFree_v2",
    c"cuMemGetHandleForAddressRange",
    c"cuMemcpyDtoH_v2",
    c"cuMemcpyHtoD_v2",
    c"cuPointerGetAttribute",
    c"cuPointerSetAttribute",
];

/// Calls a function of the driver; what it is called is part of an error.
macro_rules! call {
    ($name:ident($($arg:expr),* $(,)?)) => {
        check(stringify!($name), sys::$name($($arg),*))
    };
}

/// Turns a result of the driver, which has been loaded, into ours.
fn check(call: &'static str, result: CUresult) -> Result<(), Error> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text: *const c_char = ptr::null();
    // SAFETY: There is room for a pointer.
    let known = unsafe { sys::cuGetErrorString(result, &mut text) };
    let text = if known == CUresult::CUDA_SUCCESS && !text.is_null() {
        // SAFETY: The driver answers a string of its own that stays.
        unsafe { CStr::from_ptr(text) }.to_string_lossy()
    } else {
        "no text".into()
    };
    Err(Error::Cuda {
        call,
        code: result as u32,
        text: text.into_owned(),
    })
}

/// Loads the driver, once in the life of the process.
fn load() -> Result<(), Error> {
    // SAFETY: Loading the driver's library runs its constructors, which is what it is meant for.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoDriver);
    }
    // SAFETY: As above; it is present.
    let library = unsafe { sys::culib() };
    for name in FUNCTIONS {
        // SAFETY: Only whether it is there is asked.
        if unsafe { library.get::<*const c_void>(name.to_bytes_with_nul()) }.is_err() {
            return Err(Error::OldDriver(name.to_str().unwrap_or_default()));
        }
    }
    // SAFETY: No requirements.
    unsafe { call!(cuInit(0)) }
}

/// The primary context of a GPU.
///
/// # Invariants
///
/// The driver is loaded, `device` is one of its GPUs, and `raw` its primary context, which is retained.
#[derive(Debug)]
pub(crate) struct Context {
    device: CUdevice,
    raw: CUcontext,
}

// SAFETY: The driver lets any thread use a context, several at a time.
unsafe impl Send for Context {}
// SAFETY: As above.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn open(ordinal: u32) -> Result<Self, Error> {
        load()?;
        let mut count: c_int = 0;
        // SAFETY: There is room for the answer.
        unsafe { call!(cuDeviceGetCount(&mut count)) }?;
        let count = count.unsigned_abs();
        if ordinal >= count {
            return Err(Error::NoGpu { ordinal, count });
        }
        let mut device: CUdevice = 0;
        // SAFETY: As above.
        unsafe { call!(cuDeviceGet(&mut device, ordinal as c_int)) }?;
        let mut raw: CUcontext = ptr::null_mut();
        // SAFETY: As above; the driver has just named the device.
        unsafe { call!(cuDevicePrimaryCtxRetain(&mut raw, device)) }?;
        // INVARIANT: Retained just now.
        Ok(Self { device, raw })
    }

    /// Number of the GPU whose context is the calling thread's current one; [`None`] if there is none.
    pub(crate) fn current() -> Result<Option<u32>, Error> {
        load()?;
        let mut device: CUdevice = 0;
        // SAFETY: There is room for the answer.
        match unsafe { call!(cuCtxGetDevice(&mut device)) } {
            // A device of the driver is its number.
            Ok(()) => Ok(Some(device.unsigned_abs())),
            Err(Error::Cuda { code, .. })
                if code == CUresult::CUDA_ERROR_INVALID_CONTEXT as u32 =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Number of the GPU that has the memory at `address`.
    pub(crate) fn owner(address: CUdeviceptr) -> Result<u32, Error> {
        load()?;
        let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
        let mut ordinal: c_int = 0;
        // SAFETY: There is room for the answer. The driver knows which addresses are its own.
        unsafe {
            call!(cuPointerGetAttribute(
                (&raw mut ordinal).cast(),
                attribute,
                address
            ))
        }?;
        Ok(ordinal.unsigned_abs())
    }

    /// Runs `f` with the context as the thread's current one.
    fn with<R>(&self, f: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        // SAFETY: By the type invariants.
        unsafe { call!(cuCtxPushCurrent_v2(self.raw)) }?;
        let result = f();
        let mut popped: CUcontext = ptr::null_mut();
        // SAFETY: There is room for the answer.
        unsafe { call!(cuCtxPopCurrent_v2(&mut popped)) }?;
        result
    }

    /// A device of the driver is its number.
    pub(crate) fn ordinal(&self) -> u32 {
        self.device.unsigned_abs()
    }

    pub(crate) fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: No requirements but a current context.
        self.with(|| unsafe { call!(cuCtxSynchronize()) })
    }

    pub(crate) fn name(&self) -> Result<String, Error> {
        let mut name = [0u8; 256];
        // SAFETY: There is room for so many bytes, the last of which is the end mark.
        unsafe {
            call!(cuDeviceGetName(
                name.as_mut_ptr().cast(),
                name.len() as c_int,
                self.device
            ))
        }?;
        Ok(CStr::from_bytes_until_nul(&name)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned())
    }

    pub(crate) fn version(&self) -> Result<u32, Error> {
        let mut version: c_int = 0;
        // SAFETY: There is room for the answer.
        unsafe { call!(cuDriverGetVersion(&mut version)) }?;
        Ok(version.unsigned_abs())
    }

    pub(crate) fn has_dma_buf(&self) -> Result<bool, Error> {
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED;
        let mut value: c_int = 0;
        // SAFETY: As above; the device is one by the type invariants.
        unsafe { call!(cuDeviceGetAttribute(&mut value, attribute, self.device)) }?;
        Ok(value != 0)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. It fails only while the driver shuts down, with the process.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// GPU memory.
///
/// # Invariants
///
/// `address` is the start of `len` bytes of the GPU of `context`. If they are `ours`, `cuMemAlloc()` gave them, and only `self`
/// knows of them and devices that they were exported to; else who has made `self` of them answers for it that they are there
/// whenever it is used.
#[derive(Debug)]
pub(crate) struct Allocation {
    context: Arc<Context>,
    address: CUdeviceptr,
    len: usize,
    ours: bool,
}

impl Allocation {
    /// Allocates `len` bytes, a multiple of [`GRANULE`] and not zero.
    pub(crate) fn new(context: Arc<Context>, len: usize) -> Result<Self, Error> {
        debug_assert!(len != 0 && len.is_multiple_of(GRANULE));
        let mut address: CUdeviceptr = 0;
        // SAFETY: There is room for the answer.
        context.with(|| unsafe { call!(cuMemAlloc_v2(&mut address, len)) })?;
        // INVARIANT: Allocated just now.
        let this = Self {
            context,
            address,
            len,
            ours: true,
        };
        this.synchronise()?;
        Ok(this)
    }

    /// Takes memory that somebody else has allocated, and frees.
    ///
    /// # Safety
    ///
    /// Now, and whenever the result is used but to drop it, the `len` bytes at `address` are memory of the GPU of `context`.
    pub(crate) unsafe fn of_another(
        context: Arc<Context>,
        address: CUdeviceptr,
        len: usize,
    ) -> Result<Self, Error> {
        // INVARIANT: By the caller's promise.
        let this = Self {
            context,
            address,
            len,
            ours: false,
        };
        this.synchronise()?;
        Ok(this)
    }

    /// From now on, copies that touch the memory end before their call returns.
    fn synchronise(&self) -> Result<(), Error> {
        let on: c_uint = 1;
        let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS;
        self.context.with(|| {
            // SAFETY: The attribute is an unsigned int; the memory is the driver's by the type invariants.
            unsafe {
                call!(cuPointerSetAttribute(
                    (&raw const on).cast(),
                    attribute,
                    self.address
                ))
            }
        })
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_synchronous(&self) -> Result<bool, Error> {
        let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS;
        let mut value: c_uint = 0;
        self.context.with(|| {
            // SAFETY: As in `new()`, and there is room for the answer.
            unsafe {
                call!(cuPointerGetAttribute(
                    (&raw mut value).cast(),
                    attribute,
                    self.address
                ))
            }
        })?;
        Ok(value != 0)
    }

    /// Copies `data` to `offset`; it fits.
    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), Error> {
        assert!(offset <= self.len && data.len() <= self.len - offset);
        let to = self.address + offset as u64;
        // SAFETY: By the type invariants and the check above. The call returns when `data` is no longer needed.
        self.context
            .with(|| unsafe { call!(cuMemcpyHtoD_v2(to, data.as_ptr().cast(), data.len())) })
    }

    /// Copies from `offset`; there is so much.
    pub(crate) fn read(&self, offset: usize, data: &mut [u8]) -> Result<(), Error> {
        assert!(offset <= self.len && data.len() <= self.len - offset);
        let from = self.address + offset as u64;
        // SAFETY: As in `write()`.
        self.context
            .with(|| unsafe { call!(cuMemcpyDtoH_v2(data.as_mut_ptr().cast(), from, data.len())) })
    }

    pub(crate) fn export(&self) -> Result<OwnedFd, Error> {
        if !self.context.has_dma_buf()? {
            return Err(Error::NoDmaBuf {
                gpu: self.context.name()?,
            });
        }
        let kind = CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD;
        let mut fd: RawFd = -1;
        self.context.with(|| {
            // SAFETY: The handle of this type is a file descriptor, for which there is room; the range is ours by the type
            // invariants, and of whole pages.
            unsafe {
                call!(cuMemGetHandleForAddressRange(
                    (&raw mut fd).cast(),
                    self.address,
                    self.len,
                    kind,
                    0
                ))
            }
        })?;
        // SAFETY: The driver has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        // SAFETY: By the type invariants; nobody uses the address any more. It fails only when the context is broken, and the
        // memory gone with it.
        let _ = self
            .context
            .with(|| unsafe { call!(cuMemFree_v2(self.address)) });
    }
}
