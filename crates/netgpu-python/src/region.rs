// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered memory, and the parts of it that Python owns.

use std::ffi::c_int;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use netgpu::cuda::Gpu;
use netgpu::{Backing, DmaBufMemory, HostMemory, MemoryArea, Payload};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyIndexError, PyMemoryError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule};

use crate::dlpack::{self, Request};
use crate::error::{raise, refused};
use crate::loan::{self, Device, Loan};
use crate::process::Ours;

/// Registered memory: pinned, so that NICs reach it.
///
/// It is unpinned when the region, all that was taken of it, and the contexts that it was attached to are gone.
///
/// Region(nbytes, backing="private") allocates memory of the CPU, at least so much: "private", "shared" (a memfd's), or "huge" (pages of
/// 2 MiB from the system's pool).
#[pyclass(frozen, module = "netgpu")]
pub(crate) struct Region {
    region: Ours<netgpu::Region>,
    address: usize,
    len: usize,
    device: Device,
}

impl Region {
    fn new(region: netgpu::Region) -> Self {
        Self {
            address: region.address(),
            len: region.len(),
            device: Device::of(&region),
            region: Ours::new(region),
        }
    }

    pub(crate) fn region(&self) -> PyResult<&netgpu::Region> {
        self.region.get()
    }
}

#[pymethods]
impl Region {
    #[new]
    #[pyo3(signature = (nbytes, backing="private"))]
    fn host(py: Python<'_>, nbytes: usize, backing: &str) -> PyResult<Self> {
        let backing = match backing {
            "private" => Backing::Anonymous,
            "shared" => Backing::Memfd,
            "huge" => Backing::Huge2M,
            other => {
                return Err(PyValueError::new_err(format!(
                    "no backing {other:?}; there are \"private\", \"shared\" and \"huge\""
                )));
            }
        };
        // Pinning much takes long.
        py.detach(|| MemoryArea::new()?.add(HostMemory::new(nbytes, backing)?))
            .map(Self::new)
            .map_err(raise)
    }

    /// Allocates memory of an NVIDIA GPU, at least so much: of the GPU with that number in CUDA, or of the thread's current one.
    #[staticmethod]
    #[pyo3(signature = (nbytes, gpu=None))]
    fn cuda(py: Python<'_>, nbytes: usize, gpu: Option<u32>) -> PyResult<Self> {
        py.detach(|| {
            let area = MemoryArea::new()?;
            let gpu = match gpu {
                Some(ordinal) => Gpu::open(ordinal)?,
                None => Gpu::current()?,
            };
            area.add_cuda(gpu.allocate(nbytes)?)
        })
        .map(Self::new)
        .map_err(raise)
    }

    /// Registers nbytes at offset of a dma-buf. The descriptor stays yours.
    #[staticmethod]
    fn dma_buf(fd: RawFd, offset: u64, nbytes: usize) -> PyResult<Self> {
        if fd < 0 {
            return Err(PyValueError::new_err("a file descriptor is not negative"));
        }
        // SAFETY: It is only duplicated, during the call. One that is not open is refused.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) }
            .try_clone_to_owned()
            .map_err(|error| refused("cannot take the descriptor", error))?;
        DmaBufMemory::new(fd, offset, nbytes)
            .and_then(|memory| MemoryArea::new()?.add_dma_buf(memory))
            .map(Self::new)
            .map_err(raise)
    }

    /// Number of bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.len
    }

    fn __len__(&self) -> usize {
        self.len
    }

    /// The address of the first byte: for a GPU's memory that in CUDA, and for a dma-buf one that only stands for it.
    #[getter]
    fn address(&self) -> usize {
        self.address
    }

    /// Who reaches the bytes: "cpu", "cuda:0" and so on, or "dma-buf".
    #[getter]
    fn device(&self) -> String {
        self.device.name()
    }

    /// Takes nbytes in one piece, rounded up to whole pages; all of a region that nobody has taken a part of, if left out.
    #[pyo3(signature = (nbytes=None))]
    fn take(&self, nbytes: Option<usize>) -> PyResult<Span> {
        let nbytes = nbytes.unwrap_or(self.len);
        if nbytes == 0 {
            return Err(PyValueError::new_err("a span has at least one byte"));
        }
        let span = self.region()?.take(nbytes).ok_or_else(|| {
            PyMemoryError::new_err(format!(
                "the region has no {nbytes} bytes in one piece that are free"
            ))
        })?;
        Ok(Span::new(span, self.device.clone()))
    }

    fn __repr__(&self) -> String {
        format!(
            "<netgpu.Region of {} bytes, {}>",
            self.len,
            self.device.name()
        )
    }
}

/// A part of a region that is yours: to fill and send, or to donate to a queue.
///
/// Memoryviews, arrays and tensors of it can be written to. While it is being sent there can be none: the NIC reads the bytes until the send
/// has finished. It is free for Region.take() when it was released, or is gone, and so is all that was made of it.
#[pyclass(frozen, module = "netgpu")]
pub(crate) struct Span {
    shared: Arc<SpanShared>,
}

pub(crate) struct SpanShared {
    address: usize,
    len: usize,
    device: Device,
    state: Ours<Mutex<State>>,
}

struct State {
    bytes: Bytes,
    /// What was made of it and is not gone.
    loans: usize,
    released: bool,
}

enum Bytes {
    /// Shared with those who copy, which can take as long as a GPU has other things to do, and is not under the lock of the state.
    Ours(Arc<RwLock<netgpu::Span>>),
    /// Under way in so many sends.
    Sending(Payload, usize),
    /// And what became of them.
    Gone(&'static str),
}

impl State {
    /// Frees what nobody will use again.
    fn tidy(&mut self) {
        if self.released && self.loans == 0 && matches!(self.bytes, Bytes::Ours(_)) {
            self.bytes = Bytes::Gone("released");
        }
    }

    /// Fails unless they are ours.
    fn ours(&self) -> PyResult<&Arc<RwLock<netgpu::Span>>> {
        if self.released {
            return Err(PyValueError::new_err("the span was released"));
        }
        match &self.bytes {
            Bytes::Ours(span) => Ok(span),
            Bytes::Sending(..) => Err(PyBufferError::new_err(
                "the span is being sent: its bytes are yours again when the send has finished",
            )),
            Bytes::Gone(fate) => Err(PyValueError::new_err(format!("the span was {fate}"))),
        }
    }

    /// Takes them out, unless anybody could write to them. What is left is gone, and `fate` says how.
    fn take(&mut self, fate: &'static str) -> PyResult<netgpu::Span> {
        self.ours()?;
        if self.loans > 0 {
            return Err(PyBufferError::new_err(format!(
                "the span has {} views, arrays or tensors that could still change it: release or delete them first",
                self.loans
            )));
        }
        match std::mem::replace(&mut self.bytes, Bytes::Gone(fate)) {
            Bytes::Ours(span) => match Arc::try_unwrap(span) {
                Ok(span) => Ok(span.into_inner().unwrap_or_else(PoisonError::into_inner)),
                Err(span) => {
                    self.bytes = Bytes::Ours(span);
                    Err(PyBufferError::new_err(
                        "the span is being copied, by another thread",
                    ))
                }
            },
            _ => unreachable!("they were ours a moment ago"),
        }
    }
}

impl SpanShared {
    fn state(&self) -> PyResult<std::sync::MutexGuard<'_, State>> {
        let state = self.state.get()?;
        // What is under the lock is whole at every step.
        Ok(state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The bytes, to copy: without the interpreter.
    fn span(&self) -> PyResult<Arc<RwLock<netgpu::Span>>> {
        self.state()?.ours().cloned()
    }
}

/// What the loan of a span keeps.
struct Lent(Arc<SpanShared>);

impl Drop for Lent {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.state() {
            state.loans -= 1;
            state.tidy();
        }
    }
}

impl Span {
    fn new(span: netgpu::Span, device: Device) -> Self {
        let shared = SpanShared {
            address: span.address(),
            len: span.len(),
            device,
            state: Ours::new(Mutex::new(State {
                bytes: Bytes::Ours(Arc::new(RwLock::new(span))),
                loans: 0,
                released: false,
            })),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(crate) fn start(&self) -> usize {
        self.shared.address
    }

    pub(crate) fn len(&self) -> usize {
        self.shared.len
    }

    /// Gives it to `queue` for good. If that is refused, it is free.
    pub(crate) fn donate(&self, queue: &netgpu::Queue) -> PyResult<()> {
        let mut state = self.shared.state()?;
        let span = state.take("donated")?;
        queue.donate(span).map_err(|error| {
            state.bytes = Bytes::Gone("refused, and released");
            raise(error)
        })
    }

    /// The bytes from `start` to `stop`, for sends. [`Self::sent`] is to be told what becomes of each.
    pub(crate) fn payload(&self, start: usize, stop: Option<usize>) -> PyResult<Payload> {
        let len = self.shared.len;
        let stop = stop.unwrap_or(len);
        if start > stop || stop > len {
            return Err(PyIndexError::new_err(format!(
                "bytes {start} to {stop} are not within a span of {len}"
            )));
        }
        let mut state = self.shared.state()?;
        let (whole, sends) = match &state.bytes {
            Bytes::Sending(payload, sends) if !state.released => (payload.clone(), *sends),
            _ => (state.take("lost")?.into_payload(0..len), 0),
        };
        let mut payload = whole.head(stop);
        payload.advance(start);
        state.bytes = Bytes::Sending(whole, sends + 1);
        Ok(payload)
    }

    /// One more send of the bytes is under way.
    pub(crate) fn sending(&self) {
        if let Ok(mut state) = self.shared.state()
            && let Bytes::Sending(_, sends) = &mut state.bytes
        {
            *sends += 1;
        }
    }

    /// A send has finished, or was not made. Nobody has its payload.
    pub(crate) fn sent(&self) {
        let Ok(mut state) = self.shared.state() else {
            return;
        };
        state.bytes = match std::mem::replace(&mut state.bytes, Bytes::Gone("lost")) {
            Bytes::Sending(payload, 1) => match payload.into_span() {
                Ok(span) => Bytes::Ours(Arc::new(RwLock::new(span))),
                Err(payload) => Bytes::Sending(payload, 0),
            },
            Bytes::Sending(payload, sends) => Bytes::Sending(payload, sends - 1),
            other => other,
        };
        state.tidy();
    }

    /// Its socket was closed while it was being sent.
    pub(crate) fn lost(&self) {
        if let Ok(mut state) = self.shared.state() {
            state.bytes = Bytes::Gone("being sent when its socket was closed");
        }
    }

    fn lend(&self) -> PyResult<Loan> {
        let mut state = self.shared.state()?;
        state.ours()?;
        state.loans += 1;
        let lent = Lent(self.shared.clone());
        let (address, len, device) = (
            self.shared.address,
            self.shared.len,
            self.shared.device.clone(),
        );
        // SAFETY: The bytes are ours as long as `loans` says so, which `Lent` answers for.
        Ok(unsafe { Loan::new(address, len, device, lent) })
    }

    /// Without the interpreter.
    fn copy(&self, offset: usize, bytes: &mut [u8]) -> PyResult<()> {
        let span = self.shared.span()?;
        let span = span.read().unwrap_or_else(PoisonError::into_inner);
        span.read(offset, bytes).map_err(raise)
    }
}

#[pymethods]
impl Span {
    /// Number of bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.shared.len
    }

    fn __len__(&self) -> usize {
        self.shared.len
    }

    /// The address of the first byte, see Region.address.
    #[getter]
    fn address(&self) -> usize {
        self.shared.address
    }

    /// Who reaches the bytes: "cpu", "cuda:0" and so on, or "dma-buf".
    #[getter]
    fn device(&self) -> String {
        self.shared.device.name()
    }

    /// Whether the NIC may be reading it.
    #[getter]
    fn in_flight(&self) -> PyResult<bool> {
        Ok(matches!(self.shared.state()?.bytes, Bytes::Sending(..)))
    }

    /// Copies bytes to offset, into whatever memory.
    #[pyo3(signature = (data, offset=0))]
    fn write(&self, py: Python<'_>, data: PyBuffer<u8>, offset: usize) -> PyResult<()> {
        let data = data.to_vec(py)?;
        if offset > self.shared.len || data.len() > self.shared.len - offset {
            return Err(PyIndexError::new_err(format!(
                "{} bytes at {offset} are not within a span of {}",
                data.len(),
                self.shared.len
            )));
        }
        py.detach(|| {
            let span = self.shared.span()?;
            let mut span = span.write().unwrap_or_else(PoisonError::into_inner);
            span.write(offset, &data).map_err(raise)
        })
    }

    /// A copy of the bytes, from whatever memory.
    fn tobytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, self.shared.len, |bytes| {
            py.detach(|| self.copy(0, bytes))
        })
    }

    /// Gives the span up. Its memory is free as soon as nothing that was made of it is left, and no send of it is under way. A second call
    /// does nothing.
    fn release(&self) {
        if let Ok(mut state) = self.shared.state() {
            state.released = true;
            state.tidy();
        }
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().shared.state()?.ours()?;
        Ok(slf)
    }

    fn __exit__(&self, _type: Py<PyAny>, _value: Py<PyAny>, _traceback: Py<PyAny>) {
        self.release();
    }

    /// Gives a tensor of the bytes that can be written to, as the array API standard has it: numpy.from_dlpack(span).
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
        let copy = || {
            let mut bytes = vec![0; self.shared.len];
            py.detach(|| self.copy(0, &mut bytes)).map(|()| bytes)
        };
        request.answer(py, &self.shared.device, || self.lend(), copy)
    }

    /// The device of the tensor, as DLPack numbers them.
    fn __dlpack_device__(&self) -> PyResult<(i32, i32)> {
        dlpack::identity(&self.shared.device)
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
        let shared = &self.shared;
        format!(
            "<netgpu.Span of {} bytes, {}>",
            shared.len,
            shared.device.name()
        )
    }
}
