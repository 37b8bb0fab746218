// SPDX-License-Identifier: MIT OR Apache-2.0
//! ethtool's ioctl, for what the kernel has no netlink for. Structures are those of `include/uapi/linux/ethtool.h`.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// A structure that ethtool's ioctl takes.
///
/// # Safety
///
/// Its first word is the number of a command, and whatever command of this program stands there, the kernel reads and writes
/// no more than the structure, for which any bytes are a value.
pub(super) unsafe trait Request {}

/// Asks one device.
pub(super) struct Device {
    socket: OwnedFd,
    name: String,
}

impl Device {
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self {
            socket,
            name: name.to_owned(),
        })
    }

    pub(super) fn call<T: Request>(&self, request: &mut T) -> io::Result<()> {
        // SAFETY: `ifreq` is integers and pointers, for which zero is a value.
        let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
        if self.name.len() >= interface.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in interface.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        interface.ifr_ifru.ifru_data = std::ptr::from_mut(request).cast();
        // SAFETY: SIOCETHTOOL takes an `ifreq` that points to the structure of the command in its first word, and keeps within it, by
        // the contract of `Request`.
        let done = unsafe {
            libc::ioctl(
                self.socket.as_raw_fd(),
                libc::SIOCETHTOOL,
                std::ptr::from_mut(&mut interface),
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

const ETHTOOL_GDRVINFO: u32 = 0x03;

/// `struct ethtool_drvinfo`
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

// SAFETY: `ETHTOOL_GDRVINFO` is the one command that it is made with, and its structure; all of it is integers.
unsafe impl Request for DriverInfo {}

/// The driver of a device, and the version of its firmware, which may be empty.
pub(crate) fn driver(device: &str) -> io::Result<(String, String)> {
    let mut info = DriverInfo {
        cmd: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rom: [0; 32],
        reserved: [0; 12],
        counts: [0; 5],
    };
    Device::open(device)?.call(&mut info)?;
    let text = |bytes: &[u8]| {
        CStr::from_bytes_until_nul(bytes)
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    Ok((text(&info.driver), text(&info.firmware)))
}
