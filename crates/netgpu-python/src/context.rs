// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contexts and receive queues.

use std::net::TcpStream;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use netgpu::{QueueConfig, SocketConfig};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{closed, raise, refused};
use crate::process::Ours;
use crate::region::{Region, Span};
use crate::socket::Socket;

fn lock<T>(slot: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is under the lock is whole at every step.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets keys of a dict to the fields of that name.
macro_rules! dict {
    ($py:expr, $from:expr; $($field:ident),* $(,)?) => {{
        let (dict, from) = (PyDict::new($py), $from);
        $(dict.set_item(stringify!($field), from.$field)?;)*
        Ok(dict)
    }};
}
pub(crate) use dict;

/// Regions, receive queues and sockets of the network device `interface`, in the network namespace of the calling thread.
///
/// buffer_size: bytes of a receive buffer, a power of two from 4096 to 131072. The payload of many packets shares a larger one, which makes a
/// stream cheaper; memory of the CPU for those is a Region with backing="huge".
///
/// Queues and sockets go on when the context was closed.
#[pyclass(frozen, module = "netgpu")]
pub(crate) struct Context {
    context: Ours<Mutex<Option<Arc<netgpu::Context>>>>,
    interface: String,
    buffer_size: usize,
}

impl Context {
    fn context(&self) -> PyResult<Arc<netgpu::Context>> {
        let slot = lock(self.context.get()?);
        slot.clone().ok_or_else(|| closed("context"))
    }
}

#[pymethods]
impl Context {
    #[new]
    #[pyo3(signature = (interface, *, buffer_size=4096))]
    fn open(interface: String, buffer_size: usize) -> PyResult<Self> {
        let context = netgpu::Context::with_buffers(&interface, buffer_size).map_err(raise)?;
        Ok(Self {
            context: Ours::new(Mutex::new(Some(Arc::new(context)))),
            interface,
            buffer_size,
        })
    }

    /// Name of the network device.
    #[getter]
    fn interface(&self) -> &str {
        &self.interface
    }

    /// Bytes of a receive buffer.
    #[getter]
    fn buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// Maps a region for the device. The context keeps it from now on.
    fn attach(&self, py: Python<'_>, region: &Region) -> PyResult<()> {
        let (context, region) = (self.context()?, region.region()?);
        py.detach(|| context.attach(region)).map_err(raise)
    }

    /// Takes over a receive queue of the device, on which header split is on.
    ///
    /// fill_entries: how many buffers are donated, or about that. header_bytes: of the longest header that the queue's packets have, for
    /// devices that split at a fixed offset; longer ones are lost. padded: whether all are that long, as senders pad them (netgpu pad);
    /// those devices then lay payload in a row, and a piece has that of many packets.
    #[pyo3(signature = (queue, *, fill_entries=16384, header_bytes=netgpu::IPV6_HEADER_BYTES, padded=false))]
    fn open_queue(
        &self,
        py: Python<'_>,
        queue: u32,
        fill_entries: u32,
        header_bytes: u32,
        padded: bool,
    ) -> PyResult<Queue> {
        let context = self.context()?;
        let config = QueueConfig {
            queue,
            fill_entries,
            header_bytes,
            padded,
        };
        let opened = py.detach(|| context.open_queue(config)).map_err(raise)?;
        Ok(Queue {
            number: queue,
            queue: Ours::new(Mutex::new(Some(Arc::new(opened)))),
        })
    }

    /// Takes a connected TCP socket (a socket.socket) over, which is closed: the connection is the result's.
    ///
    /// receive: the queue whose memory received bytes are in; without it, nothing is received this way. rx_entries: pieces that may wait.
    /// send: whether spans can be sent. completion_entries: sends that may be unfinished at a time.
    #[pyo3(signature = (sock, *, receive=None, send=false, rx_entries=4096, completion_entries=1024))]
    fn attach_socket(
        &self,
        py: Python<'_>,
        sock: &Bound<'_, PyAny>,
        receive: Option<&Queue>,
        send: bool,
        rx_entries: u32,
        completion_entries: u32,
    ) -> PyResult<Socket> {
        if receive.is_none() && !send {
            return Err(PyValueError::new_err(
                "a socket that neither receives nor sends this way need not be attached",
            ));
        }
        let fd: RawFd = sock.call_method0("fileno")?.extract()?;
        let context = self.context()?;
        let queue = receive.map(Queue::queue).transpose()?;
        if fd < 0 {
            return Err(closed("socket"));
        }
        // SAFETY: It is only duplicated, during the call. One that is not open is refused.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) }
            .try_clone_to_owned()
            .map_err(|error| refused("cannot take the descriptor", error))?;
        let config = SocketConfig {
            receive: queue.as_deref(),
            rx_entries,
            send,
            completion_entries,
        };
        let socket = py
            .detach(|| context.attach_socket(TcpStream::from(fd), config))
            .map(Socket::new)
            .map_err(raise)?;
        sock.call_method0("close")?;
        Ok(socket)
    }

    /// Counters of the context, of all sockets and queues that it ever had, by name.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let statistics = self.context()?.statistics().map_err(raise)?;
        dict!(py, statistics;
            id, regions, queues, sockets, buffer_size, attached, aborted, revoked, donated, free, rx_zerocopy, rx_copied_split, rx_copied_no_room,
            rx_copied_unsplit, rx_zerocopy_packets, rx_copied_packets, tx_zerocopy, tx_sends, tx_copied, tx_copied_sends, bad_addr,
            bad_return, empty)
    }

    /// Counters of a region that is attached, by name.
    fn region_statistics<'py>(
        &self,
        py: Python<'py>,
        region: &Region,
    ) -> PyResult<Bound<'py, PyDict>> {
        let statistics = self
            .context()?
            .region_statistics(region.region()?)
            .map_err(raise)?;
        dict!(py, statistics; rx_zerocopy, rx_copied, tx_zerocopy, bad_return, free)
    }

    /// Lets the context go. A second call does nothing.
    fn close(&self, py: Python<'_>) {
        let context = self.context.here().and_then(|slot| lock(slot).take());
        py.detach(|| drop(context));
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().context()?;
        Ok(slf)
    }

    fn __exit__(&self, py: Python<'_>, _type: Py<PyAny>, _value: Py<PyAny>, _traceback: Py<PyAny>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        format!("<netgpu.Context of {}>", self.interface)
    }
}

/// A receive queue of the device, which puts payload into donated memory. Context.open_queue() makes one.
///
/// It stays open until it was closed and all sockets that receive through it, and their pieces, are gone.
#[pyclass(frozen, module = "netgpu")]
pub(crate) struct Queue {
    number: u32,
    queue: Ours<Mutex<Option<Arc<netgpu::Queue>>>>,
}

impl Queue {
    fn queue(&self) -> PyResult<Arc<netgpu::Queue>> {
        let slot = lock(self.queue.get()?);
        slot.clone().ok_or_else(|| closed("queue"))
    }
}

#[pymethods]
impl Queue {
    /// Number of the device's receive queue.
    #[getter]
    fn number(&self) -> u32 {
        self.number
    }

    /// Gives a span to the NIC for good, to receive into. Its region is attached to the queue's context.
    fn donate(&self, span: &Span) -> PyResult<()> {
        span.donate(&*self.queue()?)
    }

    /// Counters of the queue, by name.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let statistics = self.queue()?.statistics().map_err(raise)?;
        dict!(py, statistics; filled, bad_addr, bad_return, empty, refilled, drained, rx_zerocopy, rx_packets)
    }

    /// Lets the queue go. A second call does nothing.
    fn close(&self, py: Python<'_>) {
        let queue = self.queue.here().and_then(|slot| lock(slot).take());
        py.detach(|| drop(queue));
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().queue()?;
        Ok(slf)
    }

    fn __exit__(&self, py: Python<'_>, _type: Py<PyAny>, _value: Py<PyAny>, _traceback: Py<PyAny>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        format!("<netgpu.Queue {}>", self.number)
    }
}
