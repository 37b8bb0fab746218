// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a stream is, on a terminal, while it is measured. The kernel is asked for it now and then: who moves the bytes does nothing for it.

use std::fmt;
use std::io::{self, IsTerminal};
use std::mem::{self, MaybeUninit};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{HumanBytes, ProgressBar, ProgressFinish, ProgressState, ProgressStyle};

use crate::measure::Label;

/// Time between two looks.
const TICK: Duration = Duration::from_millis(500);

/// Shows how many bytes have passed over `stream`, as `label` has it, until it is dropped. Not to programs, and not at the other end, which
/// may be the same machine: it is counted.
pub(crate) fn show(stream: &TcpStream, label: &Label<'_>, peer: bool) -> Result<ProgressBar> {
    if peer || label.json || !io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let stream = Arc::new(stream.try_clone().context("cannot watch the stream")?);
    let moved = move |state: &ProgressState, out: &mut dyn fmt::Write| {
        if let Ok(bytes) = bytes(&stream) {
            let gigabits = bytes as f64 * 8e-9 / state.elapsed().as_secs_f64();
            // A line that cannot be written is not seen.
            let _ = write!(out, "{} {gigabits:.2} Gbit/s", HumanBytes(bytes));
        }
    };
    let style = ProgressStyle::with_template("{prefix} {spinner} {moved} {elapsed}")
        .expect("the template is well-formed")
        .with_key("moved", moved);
    let bar = ProgressBar::no_length()
        .with_style(style)
        .with_prefix(format!("{} {}", label.path, label.direction))
        .with_finish(ProgressFinish::AndClear);
    bar.enable_steady_tick(TICK);
    Ok(bar)
}

/// Bytes that have come, and those that went and have been acknowledged.
fn bytes(stream: &TcpStream) -> io::Result<u64> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: The kernel writes at most `len` bytes, which are there.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: All fields are numbers, which were zero before the kernel wrote some.
    let info = unsafe { info.assume_init() };
    Ok(info.tcpi_bytes_received + info.tcpi_bytes_acked)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernel_counts() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut to = TcpStream::connect(listener.local_addr()?)?;
        let (mut from, _) = listener.accept()?;
        to.write_all(&[0; 1000])?;
        from.read_exact(&mut [0; 1000])?;
        assert_eq!(bytes(&from)?, 1000);
        Ok(())
    }
}
