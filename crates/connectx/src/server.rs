// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port as a vfio-user device.
//!
//! The messages of one port are handled one after the other by one thread. BAR
//! writes are posted: the virtual CPU that rang a doorbell does not wait for it.

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use tracing::{debug, error, info, warn};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion};

use crate::bits::iseg::{FIRST_UAR, UAR_SIZE};
use crate::cmd::iseg;
use crate::datapath::doorbell::Doorbell;
use crate::datapath::link::{self, Cable};
use crate::obj::registers::Registers;
use crate::pci::{BAR0_SIZE, CONFIG_SIZE, Effect, VECTORS};

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error("cannot listen at {path}; is another connectx running, or did one leave it behind?")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody can be waited for.
    #[error("cannot wait for monitors")]
    Wait(#[from] io::Error),
}

/// A port with its socket.
pub struct PortServer {
    listener: UnixListener,
    server: Server,
    backend: Backend,
    path: PathBuf,
}

impl PortServer {
    /// Starts to listen at `path` for the monitor that is to have port `port` of `cable`.
    pub fn listen(path: &Path, cable: Arc<Cable>, port: usize) -> Result<Self, ServeError> {
        let path = path.to_path_buf();
        let bind = || {
            let listener = UnixListener::bind(&path)?;
            Ok((listener.try_clone()?, listener))
        };
        let (listener, fd) = bind().map_err(|source| ServeError::Listen {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            listener,
            server: Server::from_owned_fd(fd.into(), true, interrupts(), regions()),
            backend: Backend::new(cable, port),
            path,
        })
    }

    /// Waits for a monitor, or for the other end of `stopped` to be closed. Returns whether there is a monitor.
    fn wait(&self, stopped: &UnixStream) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        poll(&mut fds, None)?;
        Ok(fds[1].revents().is_empty())
    }

    /// Serves one connection until the monitor closes it. The port is reset then.
    fn converse(&mut self) {
        if let Err(error) = self.server.run(&mut self.backend) {
            warn!("the connection at {} broke: {error}", self.path.display());
        }
        self.backend.unplug();
    }
}

impl Drop for PortServer {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Who is connected.
struct Monitors {
    count: usize,
    /// Closed when the last one has gone.
    stop: Option<UnixStream>,
}

/// Serves both ports, each to one monitor after the other, until none is connected any more.
pub fn serve(servers: [PortServer; 2]) -> Result<(), ServeError> {
    let (stop, stopped) = UnixStream::pair()?;
    let monitors = Mutex::new(Monitors {
        count: 0,
        stop: Some(stop),
    });
    let serve = |mut server: PortServer| {
        while server.wait(&stopped)? {
            monitors.lock().count += 1;
            server.converse();
            let mut monitors = monitors.lock();
            monitors.count -= 1;
            if monitors.count == 0 {
                monitors.stop = None;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let results = servers
            .map(|server| scope.spawn(|| serve(server)))
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
        results.into_iter().collect()
    })
}

fn interrupts() -> Vec<IrqInfo> {
    (0..VFIO_PCI_NUM_IRQS)
        .map(|index| {
            let msix = index == VFIO_PCI_MSIX_IRQ_INDEX;
            IrqInfo {
                index,
                // Not VFIO_IRQ_INFO_NORESIZE: vectors are added while others are in use.
                flags: if msix { VFIO_IRQ_INFO_EVENTFD } else { 0 },
                count: if msix { u32::from(VECTORS) } else { 0 },
            }
        })
        .collect()
}

fn regions() -> Vec<ServerRegion> {
    (0..VFIO_PCI_NUM_REGIONS)
        .map(|index| {
            let size = match index {
                VFIO_PCI_BAR0_REGION_INDEX => BAR0_SIZE,
                VFIO_PCI_CONFIG_REGION_INDEX => CONFIG_SIZE as u64,
                _ => 0,
            };
            let access = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
            ServerRegion {
                region_info: vfio_region_info {
                    argsz: size_of::<vfio_region_info>() as u32,
                    flags: if size > 0 { access } else { 0 },
                    index,
                    size,
                    ..Default::default()
                },
                sparse_areas: Vec::new(),
                mmap_fd: None,
            }
        })
        .collect()
}

/// What the messages of one port do.
struct Backend {
    cable: Arc<Cable>,
    port: usize,
    registers: Arc<Registers>,
}

impl Backend {
    fn new(cable: Arc<Cable>, port: usize) -> Self {
        let registers = cable.ports.read()[port].registers.clone();
        Self {
            cable,
            port,
            registers,
        }
    }

    /// Function-level reset, by whatever way it came.
    fn reset_port(&self) {
        info!(port = self.port, "reset");
        let mut ports = self.cable.ports.write();
        ports[self.port].reset();
        link::update(&mut ports);
    }

    /// The monitor is gone, and with it memory and interrupts.
    fn unplug(&self) {
        self.reset_port();
        let bus = &mut self.cable.ports.write()[self.port].bus;
        bus.memory.clear();
        bus.interrupts.disconnect();
    }

    /// Where the UAR pages start in BAR 0.
    const UARS: u64 = FIRST_UAR as u64 * UAR_SIZE;
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region {
            _ if self.registers.absent() => data.fill(0xff),
            VFIO_PCI_CONFIG_REGION_INDEX => self.registers.config.lock().read(offset, data),
            VFIO_PCI_BAR0_REGION_INDEX if offset < Self::UARS => {
                iseg::read(&self.registers, offset, data);
            }
            // Doorbells read as zero.
            _ => data.fill(0),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        // An error would be answered, and nobody expects an answer to a posted write.
        match region {
            _ if self.registers.absent() => {}
            VFIO_PCI_CONFIG_REGION_INDEX => {
                let effect = self.registers.config.lock().write(offset, data);
                match effect {
                    Effect::None => {}
                    Effect::Reset => self.reset_port(),
                    Effect::Sleep => {
                        let mut ports = self.cable.ports.write();
                        ports[self.port].start_over();
                        link::update(&mut ports);
                    }
                }
            }
            VFIO_PCI_BAR0_REGION_INDEX if offset < Self::UARS => {
                iseg::write(&mut self.cable.ports.write(), self.port, offset, data);
            }
            VFIO_PCI_BAR0_REGION_INDEX => match Doorbell::decode(offset, data) {
                Some(doorbell) => doorbell.act(&self.cable, self.port),
                None => debug!(
                    "write of {} bytes at {offset:#x} is no doorbell",
                    data.len()
                ),
            },
            _ => debug!("write to region {region} ignored"),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        let Some(file) = fd else {
            // Memory that is not shared, such as firmware. Using it will fail, loudly.
            debug!("mapping at {address:#x} has no file, ignored");
            return Ok(());
        };
        let (read, write) = (
            flags.contains(DmaMapFlags::READ),
            flags.contains(DmaMapFlags::WRITE),
        );
        let memory = &mut self.cable.ports.write()[self.port].bus.memory;
        memory
            .map(&file, offset, address, size, read, write)
            .inspect_err(|error| {
                error!("mapping of {size:#x} bytes at {address:#x} failed: {error}");
            })
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        // The lock is free only when no engine is in a batch, so nothing uses the memory any more.
        let memory = &mut self.cable.ports.write()[self.port].bus.memory;
        if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            memory.clear();
        } else {
            memory.unmap(address, size);
        }
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.reset_port();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        _flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        if index != VFIO_PCI_MSIX_IRQ_INDEX {
            return Ok(());
        }
        let interrupts = &mut self.cable.ports.write()[self.port].bus.interrupts;
        if fds.is_empty() {
            // Clear these vectors; none means all.
            let end = if count == 0 {
                u32::from(VECTORS)
            } else {
                start.saturating_add(count)
            };
            for vector in start..end.min(u32::from(VECTORS)) {
                interrupts.connect(vector, None);
            }
        }
        for (vector, fd) in (start..).zip(fds) {
            interrupts.connect(vector, Some(fd));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use vfio_user::Client;

    use super::*;
    use crate::bits::Fields;
    use crate::bits::iseg::CMDIF_REV;
    use crate::control::Request;
    use crate::model::CX5;

    const CONFIG: u32 = VFIO_PCI_CONFIG_REGION_INDEX;
    const BAR0: u32 = VFIO_PCI_BAR0_REGION_INDEX;

    fn word(client: &mut Client, region: u32, at: u64) -> u32 {
        let mut word = [0; 4];
        client.region_read(region, at, &mut word).unwrap();
        u32::from_le_bytes(word)
    }

    /// Runs `test` with the cable of two ports that are served at these two paths, and waits for the server's end.
    fn served(name: &str, test: impl FnOnce(&Cable, [&Path; 2])) {
        let folder = std::env::temp_dir().join(format!("connectx-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let paths = [folder.join("a"), folder.join("b")];
        let cable = Arc::new(Cable::new(&CX5, Duration::ZERO));
        let servers = [0, 1].map(|port| PortServer::listen(&paths[port], cable.clone(), port));
        let serving = thread::spawn(|| serve(servers.map(Result::unwrap)));
        test(&cable, [&paths[0], &paths[1]]);
        serving.join().unwrap().unwrap();
        std::fs::remove_dir(&folder).expect("the sockets are gone");
    }

    #[test]
    fn a_port_whose_monitor_has_gone_waits_for_another() {
        served("again", |_, [a, b]| {
            let mut first = Client::new(a).unwrap();
            let mut other = Client::new(b).unwrap();
            word(&mut other, CONFIG, 0);
            let command = 0x0006u16.to_le_bytes();
            first.region_write(CONFIG, 4, &command).unwrap();
            assert_eq!(word(&mut first, CONFIG, 4) & 6, 6);
            first.shutdown().unwrap();
            let mut second = Client::new(a).unwrap();
            assert_eq!(word(&mut second, CONFIG, 4) & 6, 0, "it was reset");
            assert_eq!(word(&mut other, CONFIG, 0) & 0xffff, 0x15b3);
            assert!(PortServer::listen(a, Arc::new(Cable::new(&CX5, Duration::ZERO)), 0).is_err());
        });
    }

    #[test]
    fn a_card_that_was_pulled_out_reads_as_ones_and_comes_back_new() {
        served("card", |cable, [a, b]| {
            let mut host = Client::new(a).unwrap();
            let mut other = Client::new(b).unwrap();
            let id = word(&mut host, CONFIG, 0);
            let command = 0x0006u16.to_le_bytes();
            host.region_write(CONFIG, 4, &command).unwrap();
            Request::Card { port: 0, on: false }.run(cable).unwrap();
            assert_eq!(word(&mut host, CONFIG, 0), u32::MAX);
            assert_eq!(word(&mut host, BAR0, CMDIF_REV), u32::MAX);
            host.region_write(CONFIG, 4, &command).unwrap();
            host.region_write(BAR0, 0x1_0800, &[0; 8]).unwrap();
            assert_eq!(word(&mut other, CONFIG, 0), id, "the other one is there");
            Request::Card { port: 0, on: true }.run(cable).unwrap();
            assert_eq!(word(&mut host, CONFIG, 0), id);
            assert_eq!(word(&mut host, CONFIG, 4) & 6, 0, "it was reset");
            Request::Card { port: 1, on: true }.run(cable).unwrap();
        });
    }

    /// A processor stands still until it has its answer, and nobody waits for it longer than a few seconds.
    #[test]
    fn a_read_is_answered_whatever_the_ports_are_doing() {
        let cable = Arc::new(Cable::new(&CX5, Duration::ZERO));
        let mut backend = Backend::new(cable.clone(), 1);
        let busy = cable.ports.write();
        let (answer, answered) = mpsc::channel();
        thread::spawn(move || {
            for region in [VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_BAR0_REGION_INDEX] {
                let mut word = [0; 4];
                let at = if region == VFIO_PCI_BAR0_REGION_INDEX {
                    CMDIF_REV
                } else {
                    0
                };
                backend.region_read(region, at, &mut word).unwrap();
                answer.send(word).unwrap();
            }
        });
        let next = || {
            answered
                .recv_timeout(Duration::from_secs(5))
                .expect("an answer")
        };
        assert_eq!(next()[..2], 0x15b3u16.to_le_bytes());
        assert_eq!(Fields(&next()).u16(0), 5);
        drop(busy);
    }
}
