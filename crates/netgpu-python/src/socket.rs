// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attached sockets.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netgpu::Received;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::context::dict;
use crate::error::{closed, late, raise, refused};
use crate::piece::Piece;
use crate::process::Ours;
use crate::region::Span;
use crate::wait::Timeout;

/// A TCP connection whose data is received and sent in place. Context.attach_socket() makes one.
///
/// Several threads may use it. fileno() can be waited for, by select, asyncio and so on: it is readable when recv() or completion() has
/// something to say, or so many pieces are not given back that nothing more can be received, and writable when send() may have room.
///
/// The methods that wait raise TimeoutError when timeout (seconds; None: for ever) is over. With 0 they do not wait, and raise
/// BlockingIOError.
#[pyclass(frozen, module = "netgpu")]
pub(crate) struct Socket {
    inner: Ours<Mutex<Inner>>,
}

struct Inner {
    /// [`None`] when it was closed.
    open: Option<Open>,
    /// Threads that wait.
    waiting: usize,
}

struct Open {
    socket: netgpu::Socket,
    /// Sends that have finished and nobody was told of.
    finished: VecDeque<netgpu::Completion>,
    /// Spans with sends that have not finished, or that nobody was told of, by address; how many.
    sending: BTreeMap<usize, (Py<Span>, usize)>,
}

impl Open {
    fn try_completion(&mut self) -> PyResult<Option<netgpu::Completion>> {
        match self.finished.pop_front() {
            None => self.socket.try_completion().map_err(raise),
            told => Ok(told),
        }
    }

    /// Takes finished sends off the ring, for later. Returns whether there were any.
    fn set_finished_aside(&mut self) -> PyResult<bool> {
        let before = self.finished.len();
        while self.socket.in_flight() > 0
            && let Some(completion) = self.socket.try_completion().map_err(raise)?
        {
            self.finished.push_back(completion);
        }
        Ok(self.finished.len() > before)
    }

    /// Somebody is to be told that a send has finished, whose bytes are no longer under way. Returns its span, and where that begins.
    fn told(&mut self, py: Python<'_>, address: usize) -> Option<(Py<Span>, usize)> {
        let (&start, (span, sends)) = self.sending.range_mut(..=address).next_back()?;
        let span = span.clone_ref(py);
        *sends -= 1;
        if *sends == 0 {
            self.sending.remove(&start);
        }
        Some((span, start))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.set_finished_aside();
        for completion in self.finished.drain(..) {
            let address = completion.payload.address();
            drop(completion);
            if let Some((_, (span, sends))) = self.sending.range_mut(..=address).next_back() {
                span.get().sent();
                *sends -= 1;
            }
        }
        for (span, sends) in self.sending.values() {
            if *sends > 0 {
                span.get().lost();
            }
        }
    }
}

impl Inner {
    fn open(&mut self) -> PyResult<&mut Open> {
        self.open.as_mut().ok_or_else(|| closed("socket"))
    }

    fn socket(&mut self) -> PyResult<&mut netgpu::Socket> {
        Ok(&mut self.open()?.socket)
    }
}

/// A thread that waits.
struct Watching<'a> {
    socket: &'a Socket,
    watch: netgpu::Watch,
    /// Keeps the socket open: when another thread closes it, the watch would forget it together with what has happened to it.
    _stream: TcpStream,
}

impl<'a> Watching<'a> {
    fn new(socket: &'a Socket) -> PyResult<Self> {
        let mut inner = socket.inner()?;
        let open = inner.socket()?;
        let watch = open.watch().map_err(raise)?;
        let stream = open.stream().try_clone();
        let stream = stream.map_err(|error| refused("cannot wait for the socket", error))?;
        inner.waiting += 1;
        Ok(Self {
            socket,
            watch,
            _stream: stream,
        })
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        if let Ok(mut inner) = self.socket.inner() {
            inner.waiting -= 1;
        }
    }
}

impl Socket {
    pub(crate) fn new(socket: netgpu::Socket) -> Self {
        let open = Open {
            socket,
            finished: VecDeque::new(),
            sending: BTreeMap::new(),
        };
        Self {
            inner: Ours::new(Mutex::new(Inner {
                open: Some(open),
                waiting: 0,
            })),
        }
    }

    fn inner(&self) -> PyResult<std::sync::MutexGuard<'_, Inner>> {
        let inner = self.inner.get()?;
        // What is under the lock is whole at every step.
        Ok(inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes `attempt` until it has a result.
    fn until<T>(
        &self,
        py: Python<'_>,
        timeout: Timeout,
        mut attempt: impl FnMut(&mut Open) -> PyResult<Option<T>>,
    ) -> PyResult<T> {
        let mut attempt = || attempt(self.inner()?.open()?);
        if let Some(result) = attempt()? {
            return Ok(result);
        }
        if timeout.is_zero() {
            return Err(late(Duration::ZERO));
        }
        let watching = Watching::new(self)?;
        loop {
            watching.watch.forget().map_err(raise)?;
            if let Some(result) = attempt()? {
                return Ok(result);
            }
            py.check_signals()?;
            // A handler may have forked.
            self.inner.get()?;
            timeout.wait(py, &watching.watch)?;
        }
    }

    fn send_some(
        &self,
        py: Python<'_>,
        span: &Bound<'_, Span>,
        start: usize,
        stop: Option<usize>,
        timeout: Timeout,
    ) -> PyResult<usize> {
        let ours = span.get();
        let mut payload = ours.payload(start, stop)?;
        let sent = self.until(py, timeout, |open| {
            loop {
                let sent = open.socket.try_send(&mut payload).map_err(raise)?;
                if sent > 0 {
                    ours.sending();
                    let new = || (span.clone().unbind(), 0);
                    open.sending.entry(ours.start()).or_insert_with(new).1 += 1;
                }
                if sent > 0 || payload.is_empty() {
                    return Ok(Some(sent));
                }
                // What has finished leaves room on the completion ring.
                if !open.set_finished_aside()? {
                    return Ok(None);
                }
            }
        });
        drop(payload);
        // Of our own hold on it, so that it is the caller's again when nothing was sent.
        ours.sent();
        sent
    }

    fn next_completion(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Option<Completion>> {
        let completion = self.until(py, timeout, |open| {
            let completion = open.try_completion()?;
            let none_left = open.socket.in_flight() == 0;
            Ok((completion.is_some() || none_left).then_some(completion))
        })?;
        let Some(netgpu::Completion {
            copied, payload, ..
        }) = completion
        else {
            return Ok(None);
        };
        let (address, nbytes) = (payload.address(), payload.len());
        drop(payload);
        let told = self.inner()?.open()?.told(py, address);
        let Some((span, start)) = told else {
            return Ok(None);
        };
        span.get().sent();
        Ok(Some(Completion {
            start: address - start,
            nbytes,
            copied,
            span,
        }))
    }
}

#[pymethods]
impl Socket {
    /// Receives the next bytes; None at the end of the stream.
    #[pyo3(signature = (timeout=None))]
    fn recv(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Piece>> {
        let timeout = Timeout::new(timeout)?;
        let piece = self.until(py, timeout, |open| {
            Ok(match open.socket.try_recv().map_err(raise)? {
                Received::Piece(piece) => Some(Some(piece)),
                Received::End => Some(None),
                Received::Nothing => None,
            })
        })?;
        Ok(piece.map(Piece::new))
    }

    /// Queues the bytes of span from start to stop for sending, and returns how many it took: at least one, unless there are none. Waits
    /// while there is no room.
    ///
    /// The NIC reads the span's memory until completion() has told that all its sends have finished.
    #[pyo3(signature = (span, start=0, stop=None, timeout=None))]
    fn send(
        &self,
        py: Python<'_>,
        span: &Bound<'_, Span>,
        start: usize,
        stop: Option<usize>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        self.send_some(py, span, start, stop, Timeout::new(timeout)?)
    }

    /// Queues all of the bytes of span from start to stop for sending. If it raises, some may have been queued.
    #[pyo3(signature = (span, start=0, stop=None, timeout=None))]
    fn sendall(
        &self,
        py: Python<'_>,
        span: &Bound<'_, Span>,
        start: usize,
        stop: Option<usize>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let timeout = Timeout::new(timeout)?;
        let stop = stop.unwrap_or(span.get().len());
        let mut start = start;
        loop {
            start += self.send_some(py, span, start, Some(stop), timeout)?;
            if start >= stop {
                return Ok(());
            }
        }
    }

    /// Waits for a finished send, of which the peer's TCP has all bytes, or the connection has failed: flush() tells. None when there is no
    /// unfinished one. They need not finish in order.
    #[pyo3(signature = (timeout=None))]
    fn completion(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Completion>> {
        self.next_completion(py, Timeout::new(timeout)?)
    }

    /// Waits until all sends have finished: all spans are yours again, and the peer's TCP has all that was sent. If the connection has
    /// failed instead, it raises an OSError with the reason.
    #[pyo3(signature = (timeout=None))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let timeout = Timeout::new(timeout)?;
        while self.next_completion(py, timeout)?.is_some() {}
        self.inner()?.socket()?.check().map_err(raise)
    }

    /// Number of sends that have not finished.
    #[getter]
    fn in_flight(&self) -> PyResult<usize> {
        Ok(self.inner()?.socket()?.in_flight())
    }

    /// The descriptor of the TCP socket; -1 when it was closed.
    fn fileno(&self) -> PyResult<RawFd> {
        let inner = self.inner()?;
        let open = inner.open.as_ref();
        Ok(open.map_or(-1, |open| open.socket.as_raw_fd()))
    }

    /// Ends the stream to the peer ("send"), or in both directions ("both").
    #[pyo3(signature = (how="send"))]
    fn shutdown(&self, how: &str) -> PyResult<()> {
        let how = match how {
            "send" => Shutdown::Write,
            "both" => Shutdown::Both,
            other => {
                return Err(PyValueError::new_err(format!(
                    "no shutdown {other:?}; there are \"send\" and \"both\""
                )));
            }
        };
        let mut inner = self.inner()?;
        let done = inner.socket()?.stream().shutdown(how);
        done.map_err(|error| refused("cannot end the stream", error))
    }

    /// Address and port of this side.
    fn getsockname(&self) -> PyResult<(String, u16)> {
        address(self.inner()?.socket()?.stream().local_addr())
    }

    /// Address and port of the peer.
    fn getpeername(&self) -> PyResult<(String, u16)> {
        address(self.inner()?.socket()?.stream().peer_addr())
    }

    /// Counters of the socket, by name.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let statistics = self.inner()?.socket()?.statistics().map_err(raise)?;
        dict!(py, statistics;
            rx_zerocopy, rx_copied, rx_copied_split, rx_copied_no_room, rx_copied_unsplit, rx_zerocopy_packets, rx_copied_packets,
            rx_stalled, rx_stalled_ring, rx_stalled_share, rx_stalled_buffer, rx_stalled_pause, rx_stalled_memory, tx_zerocopy, tx_sends,
            tx_copied, tx_copied_sends, tx_refused, tx_pending, held, share)
    }

    /// Closes the socket, as socket.socket.close() does: the peer comes to the end of the stream. A second call does nothing.
    ///
    /// flush() first: the memory of unfinished sends is not free again as long as its region lives. Pieces stay as they are. Where somebody
    /// else has the connection, such as a child of os.fork(), it is aborted, unless the peer has ended its stream.
    fn close(&self, py: Python<'_>) {
        let open = {
            let Ok(mut inner) = self.inner() else {
                return;
            };
            if inner.waiting > 0
                && let Some(open) = &inner.open
            {
                // Those who wait find it closed.
                let _ = open.socket.stream().shutdown(Shutdown::Both);
            }
            inner.open.take()
        };
        py.detach(|| drop(open));
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// Receives the next bytes, until the end of the stream.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Piece>> {
        self.recv(py, None)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().inner()?.socket()?;
        Ok(slf)
    }

    fn __exit__(&self, py: Python<'_>, _type: Py<PyAny>, _value: Py<PyAny>, _traceback: Py<PyAny>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        let address = |address: std::io::Result<SocketAddr>| {
            address.map_or_else(|_| "nobody".into(), |address| address.to_string())
        };
        let Ok(inner) = self.inner() else {
            return "<netgpu.Socket, another process's>".into();
        };
        match &inner.open {
            None => "<netgpu.Socket, closed>".into(),
            Some(Open { socket, .. }) => format!(
                "<netgpu.Socket from {} to {}>",
                address(socket.stream().local_addr()),
                address(socket.stream().peer_addr())
            ),
        }
    }
}

/// As the module `socket` has it.
fn address(address: std::io::Result<SocketAddr>) -> PyResult<(String, u16)> {
    let address = address.map_err(|error| refused("cannot ask for the address", error))?;
    Ok((address.ip().to_canonical().to_string(), address.port()))
}

/// A finished send.
#[pyclass(frozen, module = "netgpu")]
pub(crate) struct Completion {
    /// The span, which is yours again if no other send of it is unfinished.
    #[pyo3(get)]
    span: Py<Span>,
    /// Where in the span the bytes begin.
    #[pyo3(get)]
    start: usize,
    /// How many there are.
    #[pyo3(get)]
    nbytes: usize,
    /// Whether some of them were copied on their way.
    #[pyo3(get)]
    copied: bool,
}

#[pymethods]
impl Completion {
    fn __repr__(&self) -> String {
        format!("<netgpu.Completion of {} bytes>", self.nbytes)
    }
}
