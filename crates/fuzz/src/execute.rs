// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the calls of a program.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::ioctl::opcode;
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType};
use rustix::process::{Gid, Pid, Signal, Uid};

use crate::program::{Call, Name, PLACES, Program};
use crate::sys::{self, Arguments, At, Change, Mapping, PAGE, Plain};
use crate::uapi::*;

/// What programs find around them.
pub struct World {
    /// Index of the network device that contexts are made of.
    pub device: u32,
    /// Where the other end listens, by address family.
    pub peers: [SocketAddr; 2],
}

const MAGIC: u8 = NETGPU_IOC_MAGIC as u8;

macro_rules! plain {
    ($($type:ty),*) => {
        // SAFETY: Integers of the user API, which is laid out without padding on every architecture.
        $(unsafe impl Plain for $type {})*
    };
}
plain!(
    netgpu_info,
    netgpu_add_region,
    netgpu_bind,
    netgpu_attach_region,
    netgpu_open_queue,
    netgpu_attach_socket,
    netgpu_id,
    netgpu_queue_stats,
    netgpu_socket_stats,
    netgpu_context_stats,
    netgpu_region_stats
);
// SAFETY: Integers.
unsafe impl Plain for [u64; 32] {}

type Place<T> = Mutex<Option<Arc<T>>>;

/// What the calls of one program have made so far. Threads share it.
struct State<'a> {
    world: &'a World,
    arguments: Mutex<Arguments>,
    files: [Place<OwnedFd>; PLACES as usize],
    sockets: [Place<OwnedFd>; PLACES as usize],
    maps: [Place<Mapping>; PLACES as usize],
    /// Lengths of rings, by place of the context and offset, as the kernel has told them.
    lengths: Mutex<HashMap<(u64, u64), u64>>,
    children: Mutex<Vec<i32>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn get<T>(places: &[Place<T>], n: u64) -> io::Result<Arc<T>> {
    let place = lock(&places[n as usize % places.len()]);
    place
        .clone()
        .ok_or(io::Error::from_raw_os_error(libc::EBADF))
}

fn put<T>(places: &[Place<T>], n: u64, value: T) -> io::Result<i64> {
    let old = lock(&places[n as usize % places.len()]).replace(Arc::new(value));
    drop(old);
    Ok(0)
}

fn take<T>(places: &[Place<T>], n: u64) -> io::Result<i64> {
    let old = lock(&places[n as usize % places.len()]).take();
    old.map(|_| 0)
        .ok_or(io::Error::from_raw_os_error(libc::EBADF))
}

/// Runs a program. `report` is told the result of each call: zero or more, or a negative error number.
pub fn run(program: &Program, world: &World, report: impl Fn(usize, i64) + Sync) -> io::Result<()> {
    sys::arena()?;
    let state = State {
        world,
        arguments: Mutex::new(Arguments::new()?),
        files: Default::default(),
        sockets: Default::default(),
        maps: Default::default(),
        lengths: Mutex::default(),
        children: Mutex::default(),
    };
    let make = |n: usize, call: &Call| {
        let result = state.call(call);
        let error = |e: io::Error| -i64::from(e.raw_os_error().unwrap_or(libc::EIO));
        report(n, result.unwrap_or_else(error));
    };
    thread::scope(|scope| {
        for (n, call) in program.calls.iter().enumerate() {
            if call.beside {
                scope.spawn(move || make(n, call));
            } else {
                make(n, call);
            }
        }
    });
    while state.reap().is_ok() {}
    // Here and not when the process ends, which is not traced any more.
    drop(state);
    Ok(())
}

fn at(value: u64) -> At {
    match value {
        1 => At::Null,
        2 => At::ReadOnly,
        3 => At::Half,
        4 => At::Kernel,
        _ => At::Memory,
    }
}

impl State<'_> {
    fn ioctl<T: Plain>(
        &self,
        file: u64,
        command: u32,
        argument: &mut T,
        place: u64,
    ) -> io::Result<i64> {
        let file = get(&self.files, file)?;
        // A place of its own for each: another thread's is in use.
        match self.arguments.try_lock() {
            Ok(mut arguments) => arguments.ioctl(file.as_raw_fd(), command, argument, at(place)),
            Err(_) => Arguments::new()?.ioctl(file.as_raw_fd(), command, argument, at(place)),
        }?;
        Ok(0)
    }

    fn call(&self, call: &Call) -> io::Result<i64> {
        let a = |n: usize| call.args[n];
        match call.name {
            Name::open => {
                let flags = OFlags::RDWR | OFlags::CLOEXEC;
                put(
                    &self.files,
                    a(0),
                    rustix::fs::open("/dev/netgpu", flags, Mode::empty())?,
                )
            }
            Name::close => take(&self.files, a(0)),
            Name::dup => put(&self.files, a(1), get(&self.files, a(0))?.try_clone()?),
            Name::other => put(&self.files, a(0), other(a(1), a(2))?),
            Name::info => {
                let command = opcode::read::<netgpu_info>(MAGIC, 0);
                self.ioctl(a(0), command, &mut netgpu_info::default(), a(1))
            }
            Name::add_region => self.add_region(call),
            Name::bind => {
                let mut argument = netgpu_bind {
                    ifindex: self.device(a(1)),
                    flags: a(2) as u32,
                    buffer_size: match a(3) {
                        0 => 0,
                        order => (sys::PAGE as u64).wrapping_shl(order as u32) as u32,
                    },
                    reserved: a(4) as u32,
                    reserved2: [0, a(4) >> 32],
                };
                self.ioctl(
                    a(0),
                    opcode::write::<netgpu_bind>(MAGIC, 2),
                    &mut argument,
                    a(5),
                )
            }
            Name::attach_region => {
                let area = get(&self.files, a(1)).map_or(-1, |area| area.as_raw_fd());
                let mut argument = netgpu_attach_region {
                    area_fd: area,
                    index: a(2) as u32,
                    flags: a(3) as u32,
                    reserved: a(4) as u32,
                    reserved2: [a(4) >> 32, 0],
                };
                self.ioctl(
                    a(0),
                    opcode::write::<netgpu_attach_region>(MAGIC, 3),
                    &mut argument,
                    a(5),
                )
            }
            Name::open_queue => self.open_queue(call),
            Name::close_queue => self.id::<5>(call),
            Name::attach_socket => self.attach_socket(call),
            Name::detach_socket => self.id::<7>(call),
            Name::queue_stats => {
                let mut argument = netgpu_queue_stats {
                    id: a(1) as u32,
                    ..Default::default()
                };
                argument.reserved2[6] = a(2);
                self.ioctl(
                    a(0),
                    opcode::read_write::<netgpu_queue_stats>(MAGIC, 8),
                    &mut argument,
                    a(3),
                )
            }
            Name::socket_stats => {
                let mut argument = netgpu_socket_stats {
                    id: a(1) as u32,
                    ..Default::default()
                };
                argument.reserved2[1] = a(2);
                self.ioctl(
                    a(0),
                    opcode::read_write::<netgpu_socket_stats>(MAGIC, 9),
                    &mut argument,
                    a(3),
                )
            }
            Name::context_stats => {
                let command = opcode::read::<netgpu_context_stats>(MAGIC, 10);
                self.ioctl(a(0), command, &mut netgpu_context_stats::default(), a(1))
            }
            Name::region_stats => {
                let mut argument = netgpu_region_stats {
                    addr: a(1),
                    ..Default::default()
                };
                argument.reserved[8] = a(2);
                self.ioctl(
                    a(0),
                    opcode::read_write::<netgpu_region_stats>(MAGIC, 11),
                    &mut argument,
                    a(3),
                )
            }
            Name::ioctl => self.ioctl(a(0), a(1) as u32, &mut [0u64; 32], a(2)),
            Name::map => {
                let len = match a(3) {
                    0 => *lock(&self.lengths).get(&(a(1), a(2))).unwrap_or(&4096),
                    len => len,
                };
                let file = get(&self.files, a(1))?;
                put(
                    &self.maps,
                    a(0),
                    Mapping::of_file((*file).as_fd(), a(2), len as usize)?,
                )
            }
            Name::unmap => take(&self.maps, a(0)),
            Name::word => {
                let map = get(&self.maps, a(0))?;
                let word = map.word(a(1) as usize).ok_or(io::ErrorKind::NotFound)?;
                word.store(a(2) as u32, Relaxed);
                Ok(0)
            }
            Name::entry => {
                let map = get(&self.maps, a(0))?;
                let head = NETGPU_RING_ENTRIES as usize / 8;
                let index = a(1) as usize % (map.len() / 16).saturating_sub(8).max(1);
                for (n, value) in [a(2), a(3)].into_iter().enumerate() {
                    if let Some(long) = map.long(head + 2 * index + n) {
                        long.store(value, Relaxed);
                    }
                }
                Ok(0)
            }
            Name::produce | Name::consume => {
                let map = get(&self.maps, a(0))?;
                let word = if call.name == Name::produce {
                    PRODUCER
                } else {
                    CONSUMER
                };
                map.word(word).unwrap().fetch_add(a(1) as u32, AcqRel);
                Ok(0)
            }
            Name::give => {
                let map = get(&self.maps, a(0))?;
                let count = a(2).min(entries(&map, 8));
                let addresses = (0..count).map(|n| a(1).wrapping_add(n * PAGE as u64));
                give(&map, addresses)
            }
            Name::give_back => self.give_back(call),
            Name::socket => {
                let (family, kind) = match a(1) {
                    0 => (AddressFamily::INET, SocketType::STREAM),
                    1 => (AddressFamily::INET6, SocketType::STREAM),
                    _ => (AddressFamily::INET, SocketType::DGRAM),
                };
                let flags = SocketFlags::CLOEXEC;
                put(
                    &self.sockets,
                    a(0),
                    rustix::net::socket_with(family, kind, flags, None)?,
                )
            }
            Name::connect => self.connect(a(0)),
            Name::listen => {
                rustix::net::listen(&*self.socket(a(0))?, 1)?;
                Ok(0)
            }
            Name::bind_to => {
                let value = (self.device(a(1)) as i32).to_ne_bytes();
                self.option(a(0), libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &value)
            }
            Name::ulp => self.option(a(0), libc::IPPROTO_TCP, libc::TCP_ULP, NETGPU_ULP_NAME),
            Name::linger => {
                let value = [1i32, 0].map(i32::to_ne_bytes);
                self.option(
                    a(0),
                    libc::SOL_SOCKET,
                    libc::SO_LINGER,
                    value.as_flattened(),
                )
            }
            Name::buffers => {
                let value = (a(1) as i32).to_ne_bytes();
                self.option(a(0), libc::SOL_SOCKET, libc::SO_SNDBUF, &value)?;
                self.option(a(0), libc::SOL_SOCKET, libc::SO_RCVBUF, &value)
            }
            Name::send => self.send(a(0), &[(a(1), a(2))], a(3)),
            Name::sendv => self.send(a(0), &[(a(1), a(2)), (a(3), a(4))], a(5)),
            Name::recv => {
                let flags = match a(2) {
                    1 => RecvFlags::PEEK,
                    2 => RecvFlags::TRUNC,
                    3 => RecvFlags::OOB,
                    _ => RecvFlags::empty(),
                };
                let mut data = vec![0; a(1).min(1 << 20) as usize];
                let (_, len) = rustix::net::recv(
                    &*self.socket(a(0))?,
                    &mut data[..],
                    flags | RecvFlags::DONTWAIT,
                )?;
                Ok(len as i64)
            }
            Name::splice => {
                let (_reader, writer) = rustix::pipe::pipe()?;
                let flags = rustix::pipe::SpliceFlags::NONBLOCK;
                let socket = self.socket(a(0))?;
                Ok(
                    rustix::pipe::splice(&*socket, None, &writer, None, a(1) as usize, flags)?
                        as i64,
                )
            }
            Name::poll => {
                let socket = self.socket(a(0))?;
                let timeout = Timespec {
                    tv_sec: 0,
                    tv_nsec: a(1) as i64 % 1000 * 1_000_000,
                };
                let mut polled = [PollFd::new(&*socket, PollFlags::IN)];
                Ok(rustix::event::poll(&mut polled, Some(&timeout))? as i64)
            }
            Name::shutdown => {
                let how = match a(1) {
                    0 => Shutdown::Read,
                    1 => Shutdown::Write,
                    _ => Shutdown::Both,
                };
                rustix::net::shutdown(&*self.socket(a(0))?, how)?;
                Ok(0)
            }
            Name::close_socket => take(&self.sockets, a(0)),
            Name::memory => {
                let change = match a(2) {
                    0 => Change::Forget,
                    1 => Change::Unmap,
                    2 => Change::Renew,
                    3 => Change::Forbid,
                    4 => Change::ReadOnly,
                    5 => Change::Writable,
                    _ => Change::Huge,
                };
                sys::change_arena(a(0), a(1), change)?;
                Ok(0)
            }
            Name::drop_rights => {
                // Of this thread alone, which makes the calls.
                let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
                rustix::thread::set_thread_groups(&[])?;
                rustix::thread::set_thread_res_gid(gid, gid, gid)?;
                rustix::thread::set_thread_res_uid(uid, uid, uid)?;
                Ok(0)
            }
            Name::memlock => {
                sys::limit_locked(a(0))?;
                Ok(0)
            }
            Name::fork => match sys::fork()? {
                0 => sys::wait_for_the_end(),
                child => {
                    lock(&self.children).push(child);
                    Ok(0)
                }
            },
            Name::reap => self.reap(),
            Name::sleep => {
                thread::sleep(Duration::from_millis(a(0) % 1000));
                Ok(0)
            }
        }
    }

    fn device(&self, n: u64) -> u32 {
        match n {
            0 => self.world.device,
            // The loopback device's is always that.
            1 => 1,
            2 => 0,
            _ => u32::MAX,
        }
    }

    fn socket(&self, n: u64) -> io::Result<Arc<OwnedFd>> {
        get(&self.sockets, n)
    }

    fn option(&self, socket: u64, level: i32, name: i32, value: &[u8]) -> io::Result<i64> {
        sys::set_option((*self.socket(socket)?).as_fd(), level, name, value)?;
        Ok(0)
    }

    fn add_region(&self, call: &Call) -> io::Result<i64> {
        let &[file, addr, len, kind, flags, fd, offset, reserved, at] = &call.args[..] else {
            unreachable!("it has so many arguments")
        };
        let of_dmabuf = kind == u64::from(NETGPU_REGION_DMABUF);
        let dmabuf = if of_dmabuf {
            get(&self.files, fd).ok()
        } else {
            None
        };
        let mut argument = netgpu_add_region {
            addr,
            len,
            type_: kind as u32,
            flags: flags as u32,
            index: 0,
            dmabuf_fd: dmabuf.map_or(if of_dmabuf { -1 } else { 0 }, |fd| fd.as_raw_fd()),
            dmabuf_offset: offset,
            reserved: [0, reserved, 0],
        };
        self.ioctl(
            file,
            opcode::read_write::<netgpu_add_region>(MAGIC, 1),
            &mut argument,
            at,
        )
    }

    fn open_queue(&self, call: &Call) -> io::Result<i64> {
        let &[
            file,
            queue,
            flags,
            fill_entries,
            hds,
            message,
            message_len,
            reserved,
            at,
        ] = &call.args[..]
        else {
            unreachable!("it has so many arguments")
        };
        // Written by the kernel, read by nobody.
        let text = Mapping::shared(PAGE)?;
        let place = text
            .word(0)
            .map_or(0, |word| std::ptr::from_ref(word).expose_provenance());
        let mut argument = netgpu_open_queue {
            queue: queue as u32,
            flags: flags as u32,
            fill_entries: fill_entries as u32,
            hds_offset: hds as u32,
            message: match message {
                0 => 0,
                1 => place as u64,
                _ => 8,
            },
            message_len: message_len.min(PAGE as u64) as u32,
            reserved: [0, 0, 0, reserved],
            ..Default::default()
        };
        self.ioctl(
            file,
            opcode::read_write::<netgpu_open_queue>(MAGIC, 4),
            &mut argument,
            at,
        )?;
        lock(&self.lengths).insert((file, argument.mmap_offset), argument.mmap_len);
        Ok(0)
    }

    fn attach_socket(&self, call: &Call) -> io::Result<i64> {
        let &[file, socket, flags, rx, completions, reserved, at] = &call.args[..] else {
            unreachable!("it has so many arguments")
        };
        let socket = self.socket(socket).map_or(-1, |socket| socket.as_raw_fd());
        let mut argument = netgpu_attach_socket {
            fd: socket,
            flags: flags as u32,
            rx_entries: rx as u32,
            completion_entries: completions as u32,
            reserved: reserved as u32,
            reserved2: [reserved >> 32, 0, 0, 0],
            ..Default::default()
        };
        self.ioctl(
            file,
            opcode::read_write::<netgpu_attach_socket>(MAGIC, 6),
            &mut argument,
            at,
        )?;
        let mut lengths = lock(&self.lengths);
        lengths.insert((file, argument.rx_mmap_offset), argument.rx_mmap_len);
        lengths.insert(
            (file, argument.completion_mmap_offset),
            argument.completion_mmap_len,
        );
        Ok(0)
    }

    fn id<const COMMAND: u8>(&self, call: &Call) -> io::Result<i64> {
        let mut argument = netgpu_id {
            id: call.args[1] as u32,
            reserved: call.args[2] as u32,
        };
        self.ioctl(
            call.args[0],
            opcode::write::<netgpu_id>(MAGIC, COMMAND),
            &mut argument,
            call.args[3],
        )
    }

    fn connect(&self, socket: u64) -> io::Result<i64> {
        let socket = self.socket(socket)?;
        let wants = rustix::net::sockopt::socket_domain(&*socket)?;
        let peer = self.world.peers.iter().find(|peer| match peer.ip() {
            IpAddr::V4(_) => wants == AddressFamily::INET,
            IpAddr::V6(_) => wants == AddressFamily::INET6,
        });
        let peer = peer.ok_or(io::ErrorKind::NotFound)?;
        // The other end is there; nobody waits for ever if it is not reached.
        let timeout = Some(Duration::from_secs(2));
        rustix::net::sockopt::set_socket_timeout(
            &*socket,
            rustix::net::sockopt::Timeout::Send,
            timeout,
        )?;
        let connected = rustix::net::connect(&*socket, peer);
        // From here on nobody waits: not all calls can be told so by a flag.
        rustix::io::ioctl_fionbio(&*socket, true)?;
        connected?;
        Ok(0)
    }

    fn send(&self, socket: u64, parts: &[(u64, u64)], zerocopy: u64) -> io::Result<i64> {
        let mut flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        if zerocopy != 0 {
            flags |= libc::MSG_ZEROCOPY;
        }
        let parts: Vec<_> = parts
            .iter()
            .map(|&(addr, len)| (addr, len.min(1 << 20)))
            .collect();
        Ok(sys::send((*self.socket(socket)?).as_fd(), &parts, flags)? as i64)
    }

    fn give_back(&self, call: &Call) -> io::Result<i64> {
        let (fill, rx) = (
            get(&self.maps, call.args[0])?,
            get(&self.maps, call.args[1])?,
        );
        let size = entries(&rx, 16);
        let producer = rx.word(PRODUCER).unwrap().load(Acquire);
        let consumer = rx.word(CONSUMER).unwrap();
        let first = consumer.load(Relaxed);
        let count = u64::from(producer.wrapping_sub(first))
            .min(call.args[2])
            .min(size);
        let addresses = (0..count).filter_map(|n| {
            let slot = u64::from(first).wrapping_add(n) % size;
            let at = NETGPU_RING_ENTRIES as usize / 8 + 2 * slot as usize;
            Some(rx.long(at)?.load(Relaxed))
        });
        give(&fill, addresses)?;
        consumer.store(first.wrapping_add(count as u32), Release);
        Ok(count as i64)
    }

    fn reap(&self) -> io::Result<i64> {
        let child = lock(&self.children)
            .pop()
            .ok_or(io::Error::from_raw_os_error(libc::ECHILD))?;
        let child = Pid::from_raw(child).ok_or(io::ErrorKind::NotFound)?;
        rustix::process::kill_process(child, Signal::KILL)?;
        rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
        Ok(0)
    }
}

/// Indices of words in the head of a ring.
const PRODUCER: usize = std::mem::offset_of!(netgpu_ring, producer) / 4;
const CONSUMER: usize = std::mem::offset_of!(netgpu_ring, consumer) / 4;

/// How many entries of that size a mapped ring has: a power of two fills its pages but for the head.
fn entries(map: &Mapping, size: u64) -> u64 {
    let room = (map.len() as u64).saturating_sub(NETGPU_RING_ENTRIES.into()) / size;
    if room == 0 { 1 } else { 1 << room.ilog2() }
}

fn give(fill: &Mapping, addresses: impl Iterator<Item = u64>) -> io::Result<i64> {
    let size = entries(fill, 8);
    let producer = fill.word(PRODUCER).unwrap();
    let mut index = producer.load(Relaxed);
    for addr in addresses {
        let at = NETGPU_RING_ENTRIES as usize / 8 + u64::from(index) as usize % size as usize;
        if let Some(long) = fill.long(at) {
            long.store(addr, Relaxed);
        }
        index = index.wrapping_add(1);
    }
    producer.store(index, Release);
    Ok(0)
}

/// A file that is not of /dev/netgpu.
fn other(what: u64, pages: u64) -> io::Result<OwnedFd> {
    let memfd = || -> io::Result<OwnedFd> {
        let memfd =
            rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&memfd, (pages % 1024).max(1) * PAGE as u64)?;
        Ok(memfd)
    };
    let open = |path, flags| {
        Ok(rustix::fs::open(
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    };
    match what {
        0 | 1 => {
            let memfd = memfd()?;
            rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK)?;
            let device: OwnedFd = open("/dev/udmabuf", OFlags::RDWR)?;
            udmabuf::create(
                device.as_fd(),
                memfd.as_fd(),
                (pages % 1024).max(1) * PAGE as u64,
            )
        }
        2 => memfd(),
        3 => open("/dev/null", OFlags::RDWR),
        // Ours, but for no command.
        _ => open("/dev/netgpu", OFlags::PATH),
    }
}
