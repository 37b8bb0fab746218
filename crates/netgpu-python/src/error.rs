// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors as Python has them: an errno makes an `OSError`, of the subclass that goes with it; a mistake of the caller a `ValueError`.

use std::time::Duration;

use netgpu::Error;
use pyo3::exceptions::{
    PyBlockingIOError, PyOSError, PyRuntimeError, PyTimeoutError, PyValueError,
};
use pyo3::prelude::*;

pub(crate) fn raise(error: Error) -> PyErr {
    match error.errno() {
        Some(errno) => PyOSError::new_err((errno, error.to_string())),
        None => match error {
            Error::Stray { .. } => PyRuntimeError::new_err(error.to_string()),
            Error::NoRing(what) => PyValueError::new_err(format!(
                "the socket was not attached for {what}; see Context.attach_socket()"
            )),
            _ => PyValueError::new_err(error.to_string()),
        },
    }
}

/// The kernel has refused a call.
pub(crate) fn refused(what: &str, source: impl Into<std::io::Error>) -> PyErr {
    let source = source.into();
    let errno = source.raw_os_error().unwrap_or(libc::EIO);
    PyOSError::new_err((errno, format!("{what}: {source}")))
}

/// `what` of the user is no longer there.
pub(crate) fn closed(what: &str) -> PyErr {
    PyValueError::new_err(format!("the {what} is closed"))
}

/// What was waited for has not come.
pub(crate) fn late(waited: Duration) -> PyErr {
    if waited.is_zero() {
        PyBlockingIOError::new_err((libc::EAGAIN, "there is nothing yet"))
    } else {
        PyTimeoutError::new_err((
            libc::ETIMEDOUT,
            format!("nothing came within {} s", waited.as_secs_f64()),
        ))
    }
}
