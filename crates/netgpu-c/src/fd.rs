// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls on file descriptors that C has named: they may be of anything, or of nothing, which the kernel then says.

use std::ffi::c_int;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Another descriptor of the same file.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: No memory is involved.
    let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: Made just now, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Lets sendmsg(2) have `MSG_ZEROCOPY`.
pub(crate) fn allow_zerocopy(fd: RawFd) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: The option is an int, which is there.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Has the kernel deliver what waits in an attached socket. On any other socket it takes nothing.
pub(crate) fn resume(fd: RawFd) -> io::Result<()> {
    let mut nothing = [0u8; 1];
    // SAFETY: There is room for a byte.
    let received = unsafe {
        libc::recv(
            fd,
            nothing.as_mut_ptr().cast(),
            nothing.len(),
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn what_is_no_socket_is_an_error() {
        assert!(duplicate(-1).is_err());
        assert!(allow_zerocopy(-1).is_err());
        let error = resume(-1).expect_err("it is not open");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = resume(file.as_raw_fd()).expect_err("it is no socket");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
        duplicate(file.as_raw_fd()).expect("it is a file");
    }

    #[test]
    fn another_socket_loses_nothing() {
        use std::io::{Read, Write};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        theirs.write_all(b"x").unwrap();
        let mut byte = [0];
        ours.peek(&mut byte).unwrap();
        resume(ours.as_raw_fd()).unwrap();
        ours.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}
