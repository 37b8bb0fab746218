// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors as C has them: a negative errno, and a text for the thread.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::fmt;

use netgpu::Error;

/// Why a call fails.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the library says.
    Netgpu(Error),
    /// An argument is none.
    Argument(&'static str),
    /// An errno, and what happened.
    Errno(c_int, &'static str),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Netgpu(error)
    }
}

impl From<netgpu_cuda::Error> for Failure {
    fn from(error: netgpu_cuda::Error) -> Self {
        Self::Netgpu(error.into())
    }
}

impl Failure {
    fn errno(&self) -> c_int {
        match self {
            // mmap(2) was not asked for a length of which there are no pages.
            Self::Netgpu(error) => error.errno().unwrap_or(libc::EINVAL),
            Self::Argument(_) => libc::EINVAL,
            Self::Errno(errno, _) => *errno,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netgpu(error) => error.fmt(f),
            Self::Argument(text) | Self::Errno(_, text) => f.write_str(text),
        }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the text of a failure for [`netgpu_last_error`].
pub(crate) fn keep(failure: &Failure) {
    let text = CString::new(failure.to_string()).unwrap_or_default();
    // Where the thread ends there is nobody to read it.
    let _ = LAST.try_with(|last| *last.borrow_mut() = text);
}

/// What a function of C answers.
pub(crate) fn answer(result: Result<c_int, Failure>) -> c_int {
    result.unwrap_or_else(|failure| {
        keep(&failure);
        -failure.errno()
    })
}

/// What happened, why, and what to do: text for the last call of this thread that failed, "" if none did. Stays until the next
/// call of this thread that fails.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn failures_are_negative_and_have_a_text() {
        assert_eq!(answer(Ok(3)), 3);
        assert_eq!(answer(Err(Failure::Argument("no"))), -libc::EINVAL);
        // SAFETY: The text stays until this thread fails again.
        let text = unsafe { CStr::from_ptr(netgpu_last_error()) };
        assert_eq!(text, c"no");
        let error = netgpu_cuda::Error::NoDriver;
        assert_eq!(answer(Err(error.into())), -libc::ENODEV);
        // SAFETY: As above.
        let text = unsafe { CStr::from_ptr(netgpu_last_error()) };
        assert!(text.to_string_lossy().contains("libcuda.so.1"));
        std::thread::spawn(|| {
            // SAFETY: As above.
            let text = unsafe { CStr::from_ptr(netgpu_last_error()) };
            assert_eq!(text, c"", "it is another thread's");
        })
        .join()
        .unwrap();
    }
}
