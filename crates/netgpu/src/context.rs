// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contexts: regions, queues and sockets of one network device.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::io::Errno;

use crate::area::{Region, RegionShared, open_device};
use crate::error::{Command, Error};
use crate::queue::{Queue, QueueConfig};
use crate::socket::{Socket, SocketConfig, SocketStatistics};
use crate::sys::{self, Device};
use crate::watch::Room;

/// Regions attached to one network device, its receive queues taken over, and TCP sockets.
///
/// Queues and sockets keep their context alive; dropping this handle first is legal.
#[derive(Debug)]
pub struct Context {
    shared: Arc<ContextShared>,
}

#[derive(Debug)]
pub(crate) struct ContextShared {
    pub(crate) device: Device,
    interface: String,
    /// Bytes of a receive buffer. Regions that are attached consist of whole ones.
    buffer_size: usize,
    /// Sorted by their addresses, which do not overlap. Only grows: what was delivered stays valid.
    regions: RwLock<Vec<Arc<RegionShared>>>,
    sockets: Mutex<Sockets>,
    room: Room,
}

/// Who has which number of the context's sockets. The kernel gives the number of a socket that was closed to the next one.
#[derive(Debug, Default)]
struct Sockets {
    /// The number and the ticket of the last one that got it.
    tickets: BTreeMap<u32, u64>,
    /// How many tickets there were.
    count: u64,
}

impl Context {
    /// Opens a context for the network device of that name, in the network namespace of this process.
    ///
    /// # Errors
    ///
    /// [`Error::Interface`] for an unknown name; [`Error::Device`], [`Error::Version`], [`Error::Refused`]; [`Error::Socket`] when the
    /// process has too many descriptors.
    pub fn open(interface: &str) -> Result<Self, Error> {
        Self::bind(interface, None)
    }

    /// Opens a context as [`Context::open`] does, with receive buffers of `buffer_size` bytes instead of the smallest, of 4096.
    ///
    /// The payload of many packets shares a larger one, so fewer go round, and where a device packs payload (hardware GRO: ConnectX-7)
    /// a [`Piece`](crate::Piece) has more bytes: a stream costs less. But a buffer comes back only as a whole, when the last
    /// piece in it was dropped. Each buffer is one piece for the device, so memory of the host is to be in huge pages
    /// ([`Backing::Huge2M`](crate::Backing::Huge2M)), unless the device is behind an IOMMU.
    ///
    /// # Errors
    ///
    /// As [`Context::open`]; [`Error::BufferSize`] when the kernel module has none of that size. Whether the device has them shows in
    /// [`Context::open_queue`].
    pub fn with_buffers(interface: &str, buffer_size: usize) -> Result<Self, Error> {
        Self::bind(interface, Some(buffer_size))
    }

    fn bind(interface: &str, buffer_size: Option<usize>) -> Result<Self, Error> {
        let ifindex = interface_index(interface).map_err(|source| Error::Interface {
            name: interface.into(),
            source,
        })?;
        let (device, info) = open_device()?;
        let smallest = info.buffer_size as usize;
        let buffer_size = buffer_size.unwrap_or(smallest);
        device
            .bind(sys::netgpu_bind {
                ifindex,
                buffer_size: wanted_size(buffer_size, &info)?,
                ..Default::default()
            })
            .map_err(|error| Error::refused(Command::Bind, interface, error))?;
        let shared = ContextShared {
            device,
            interface: interface.into(),
            buffer_size,
            regions: RwLock::default(),
            sockets: Mutex::default(),
            room: Room::new()?,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Maps a region for DMA by the context's device. The context keeps the region from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], for example when it is attached already.
    pub fn attach(&self, region: &Region) -> Result<(), Error> {
        let region = &region.shared;
        let argument = sys::netgpu_attach_region {
            area_fd: region.area_fd(),
            index: region.index(),
            ..Default::default()
        };
        // The lock is held across the command, so that no delivery is looked up between the two steps.
        let mut regions = self
            .shared
            .regions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let command = if region.memory().is_gpu() {
            Command::AttachGpuRegion
        } else {
            Command::AttachRegion
        };
        self.shared
            .device
            .attach_region(argument)
            .map_err(|error| Error::refused(command, self.shared.interface.as_str(), error))?;
        let start = region.memory().start();
        let place = regions.partition_point(|other| other.memory().start() < start);
        regions.insert(place, region.clone());
        Ok(())
    }

    /// Takes over a receive queue of the device.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the device's reason.
    pub fn open_queue(&self, config: QueueConfig) -> Result<Queue, Error> {
        Queue::open(&self.shared, config)
    }

    /// Attaches a TCP socket.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]; [`Error::ForeignContext`] when the configuration names a queue of another context.
    pub fn attach_socket(
        &self,
        stream: TcpStream,
        config: SocketConfig<'_>,
    ) -> Result<Socket, Error> {
        Socket::attach(&self.shared, stream, config)
    }

    pub(crate) fn device(&self) -> &Device {
        &self.shared.device
    }

    pub(crate) fn shared(&self) -> &Arc<ContextShared> {
        &self.shared
    }

    /// Name of the network device.
    pub fn interface(&self) -> &str {
        self.shared.interface()
    }

    /// Bytes of a receive buffer.
    pub fn buffer_size(&self) -> usize {
        self.shared.buffer_size()
    }
}

/// What BIND is asked for, so that it gives buffers of `bytes`.
fn wanted_size(bytes: usize, info: &sys::netgpu_info) -> Result<u32, Error> {
    if bytes == info.buffer_size as usize {
        // Kernels that have no others know no other word for it.
        return Ok(0);
    }
    let offered = info.buffer_sizes | u64::from(info.buffer_size);
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| bytes.is_power_of_two() && offered & u64::from(*bytes) != 0)
        .ok_or_else(|| Error::BufferSize {
            wanted: bytes,
            offered: (0..u32::BITS)
                .map(|shift| 1 << shift)
                .filter(|size| offered & size != 0)
                .map(|size| size as usize)
                .collect(),
        })
}

impl ContextShared {
    /// A context that no kernel knows.
    #[cfg(test)]
    pub(crate) fn fake(regions: Vec<Arc<RegionShared>>, buffer_size: usize) -> Arc<Self> {
        Arc::new(Self {
            device: Device::fake(),
            interface: String::new(),
            buffer_size,
            regions: RwLock::new(regions),
            sockets: Mutex::default(),
            room: Room::new().expect("there are descriptors"),
        })
    }

    pub(crate) fn interface(&self) -> &str {
        &self.interface
    }

    pub(crate) fn buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// The regions attached so far, sorted by their addresses.
    pub(crate) fn regions(&self) -> Vec<Arc<RegionShared>> {
        self.regions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Attaches a socket. Returns a ticket, for [`Self::detach_socket`].
    pub(crate) fn attach_socket(
        &self,
        argument: &mut sys::netgpu_attach_socket,
    ) -> io::Result<u64> {
        // Held across the command, so that nobody detaches by a number whose ticket is not here yet.
        let mut sockets = self.sockets();
        self.device.attach_socket(argument)?;
        sockets.count += 1;
        let ticket = sockets.count;
        sockets.tickets.insert(argument.id, ticket);
        Ok(ticket)
    }

    /// Detaches the socket with number `id`, unless it was closed.
    pub(crate) fn detach_socket(&self, id: u32, ticket: u64) {
        let mut sockets = self.sockets();
        // Else another has the number by now.
        if sockets.tickets.get(&id) == Some(&ticket) {
            sockets.tickets.remove(&id);
            let detached = self.device.detach_socket(sys::netgpu_id {
                id,
                ..Default::default()
            });
            let closed = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::NOENT);
            debug_assert!(
                detached.as_ref().err().is_none_or(closed),
                "detaching an attached socket: {detached:?}"
            );
        }
        self.room.more();
    }

    /// Counters of the socket with number `id`, unless it was closed.
    pub(crate) fn socket_statistics(
        &self,
        id: u32,
        ticket: u64,
    ) -> Result<SocketStatistics, Error> {
        // Held across the command, so that nobody else gets the number meanwhile.
        let sockets = self.sockets();
        if sockets.tickets.get(&id) != Some(&ticket) {
            let closed = Errno::NOENT.into();
            return Err(Error::refused(Command::Statistics, "the socket", closed));
        }
        SocketStatistics::read(&self.device, id)
    }

    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    fn sockets(&self) -> std::sync::MutexGuard<'_, Sockets> {
        // What is under the lock is whole at every step.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn interface_index(name: &str) -> io::Result<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let any = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok(netdevice::name_to_index(any, name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_interfaces_are_named() {
        let error = Context::open("no-such-dev").expect_err("there is none of that name");
        assert!(
            matches!(&error, Error::Interface { name, .. } if name == "no-such-dev"),
            "{error}"
        );
    }

    #[test]
    fn buffers_have_a_size_that_the_kernel_offers() {
        let kernel = |buffer_sizes| sys::netgpu_info {
            buffer_size: 4096,
            buffer_sizes,
            ..Default::default()
        };
        let newer = kernel(0x3f000);
        for (bytes, wanted) in [(4096, 0), (8192, 8192), (65536, 65536), (1 << 17, 1 << 17)] {
            assert_eq!(wanted_size(bytes, &newer).ok(), Some(wanted));
        }
        for bytes in [0, 1, 2048, 12288, 1 << 18, 1 << 32 | 4096, usize::MAX] {
            assert!(wanted_size(bytes, &newer).is_err(), "{bytes}");
        }
        let older = kernel(0);
        assert_eq!(wanted_size(4096, &older).ok(), Some(0));
        let error = wanted_size(65536, &older).expect_err("it has no larger ones");
        let text = error.to_string();
        assert!(text.contains("[4096]") && text.contains("65536"), "{text}");
    }

    #[test]
    fn loopback_has_an_index() {
        assert_eq!(
            interface_index("lo").expect("every namespace has a loopback device"),
            1
        );
    }
}
