// SPDX-License-Identifier: GPL-2.0

//! /dev/netgpu: an open file takes the role of a memory area or of a context with its first command, and keeps it.
//!
//! Output is probed for writability before a command does anything, so that a command that fails changes nothing. Should writing
//! fail all the same, because another thread unmaps the place just then, the command is undone, or was written about before it was
//! done, where it cannot be.

use crate::{
    area::{
        Area,
        Source, //
    },
    context::Context,
    debugfs::{
        self,
        ContextFile, //
    },
    ffi::{
        file::HandleFile,
        late::Late,
        mapping::mmap_offset,
        sock::SocketFile,
        uapi, //
    },
    ioctl::{
        self,
        RingId, //
    },
    socket::Socket,
    span::{
        BufferSize,
        Span, //
    },
    stats, //
};
use kernel::{
    error::code::{
        EBADFD,
        ENOTCONN, //
    },
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    mm::virt::VmaNew,
    new_mutex,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        Arc,
        Mutex,
        SetOnce, //
    },
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// What an open file is, from its first command on.
enum Role {
    Area(Arc<Area>),
    Context {
        /// Dropped first.
        _shown: Option<ContextFile>,
        context: Late<Context>,
    },
}

/// An open file.
#[pin_data(PinnedDrop)]
pub(crate) struct Handle {
    role: SetOnce<Role>,
    /// Held while it takes the role: whoever comes second finds it whole.
    #[pin]
    taking: Mutex<()>,
}

#[pinned_drop]
impl PinnedDrop for Handle {
    fn drop(self: Pin<&mut Self>) {
        if let Some(Role::Context { context, .. }) = self.role.as_ref() {
            context.shutdown();
        }
    }
}

/// The argument of a command: a structure in user memory.
#[derive(Clone, Copy)]
struct Argument(UserPtr);

impl Argument {
    fn read<T: FromBytes>(self) -> Result<T> {
        UserSlice::new(self.0, core::mem::size_of::<T>())
            .reader()
            .read()
    }

    fn write<T: AsBytes>(self, value: &T) -> Result {
        UserSlice::new(self.0, core::mem::size_of::<T>())
            .writer()
            .write(value)
    }

    /// Reads what will be written back, and fails if it cannot be.
    fn read_for_update<T: FromBytes + AsBytes>(self) -> Result<T> {
        let value = self.read()?;
        self.write(&value)?;
        Ok(value)
    }
}

#[vtable]
impl MiscDevice for Handle {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        KBox::pin_init(
            pin_init!(Self {
                role: SetOnce::new(),
                taking <- new_mutex!((), "netgpu::Handle::taking"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn ioctl(this: Pin<&Self>, file: &File, cmd: u32, arg: usize) -> Result<isize> {
        let arg = Argument(UserPtr::from_addr(arg));
        match cmd {
            uapi::CMD_INFO => info(arg),
            uapi::CMD_ADD_REGION => this.add_region(arg),
            uapi::CMD_BIND => this.bind(arg),
            uapi::CMD_ATTACH_REGION => this.attach_region(file, arg),
            uapi::CMD_OPEN_QUEUE => this.open_queue(arg),
            uapi::CMD_CLOSE_QUEUE => this.context()?.close_queue(ioctl::id(&arg.read()?)?),
            uapi::CMD_ATTACH_SOCKET => this.attach_socket(arg),
            uapi::CMD_DETACH_SOCKET => this.context()?.detach_socket(ioctl::id(&arg.read()?)?),
            uapi::CMD_QUEUE_STATS => this.queue_stats(arg),
            uapi::CMD_SOCKET_STATS => this.socket_stats(arg),
            uapi::CMD_CONTEXT_STATS => this.context_stats(arg),
            uapi::CMD_REGION_STATS => this.region_stats(arg),
            _ => Err(ENOTTY),
        }?;
        Ok(0)
    }

    fn mmap(this: Pin<&Self>, _file: &File, vma: &VmaNew) -> Result {
        let context = this.context().map_err(|_| ENODEV)?;
        context.ring(RingId::at(mmap_offset(vma))?)?.mmap(vma)
    }

    /// In /proc/PID/fdinfo, for the administrator: who has which of the contexts that debugfs shows.
    fn show_fdinfo(this: Pin<&Self>, m: &SeqFile, _file: &File) {
        if let Ok(context) = this.context() {
            seq_print!(m, "netgpu-context:\t{}\n", context.id());
        }
    }
}

/// Registers the device.
pub(crate) fn register() -> impl PinInit<MiscDeviceRegistration<Handle>, Error> {
    MiscDeviceRegistration::register(MiscDeviceOptions { name: c"netgpu" })
}

fn info(arg: Argument) -> Result {
    arg.write(&uapi::Info {
        version: uapi::API_VERSION,
        buffer_size: uapi::BUFFER_SIZE,
        region_types: 1 << uapi::REGION_HOST | 1 << uapi::REGION_DMABUF | 1 << uapi::REGION_CUDA,
        buffer_sizes: BufferSize::ALL.into(),
        reserved: [0; 5],
    })
}

impl Handle {
    fn context(&self) -> Result<&Late<Context>> {
        match self.role.as_ref() {
            Some(Role::Context { context, .. }) => Ok(context),
            _ => Err(EBADFD),
        }
    }

    fn area(&self) -> Result<&Arc<Area>> {
        match self.role.as_ref() {
            Some(Role::Area(area)) => Ok(area),
            _ => Err(EBADFD),
        }
    }

    /// Gives the file its role, unless it has one.
    fn take(&self, role: Role) -> bool {
        let _taking = self.taking.lock();
        self.role.populate(role)
    }

    fn add_region(&self, arg: Argument) -> Result {
        if self.role.as_ref().is_some() {
            self.area()?;
        }
        let mut raw: uapi::AddRegion = arg.read_for_update()?;
        let (span, source) = ioctl::add_region(&raw)?;
        let (area, index) = match self.area() {
            Ok(area) => (area.clone(), area.add(span, source)?),
            Err(_) => self.first_region(span, source)?,
        };
        raw.index = index;
        arg.write(&raw).inspect_err(|_| area.undo(index))
    }

    /// Makes the file a memory area with one region.
    fn first_region(&self, span: Span, source: Source) -> Result<(Arc<Area>, u32)> {
        let area = Arc::pin_init(Area::new(), GFP_KERNEL_ACCOUNT)?;
        let index = area.add(span, source)?;
        if self.take(Role::Area(area.clone())) {
            return Ok((area, index));
        }
        // Another thread's command came first.
        drop(area);
        let area = self.area()?.clone();
        let index = area.add(span, source)?;
        Ok((area, index))
    }

    fn bind(&self, arg: Argument) -> Result {
        if self.role.as_ref().is_some() {
            return Err(EBADFD);
        }
        let (ifindex, buffer_size) = ioctl::bind(&arg.read()?)?;
        let context = Context::bind(ifindex, buffer_size)?;
        let role = Role::Context {
            _shown: debugfs::show(&context)?,
            context,
        };
        if self.take(role) {
            Ok(())
        } else {
            Err(EBADFD)
        }
    }

    fn attach_region(&self, file: &File, arg: Argument) -> Result {
        let context = self.context()?;
        let (fd, index) = ioctl::attach_region(&arg.read()?)?;
        let area = HandleFile::get(file, fd)?;
        let region = area.handle().area()?.get(index)?;
        Context::attach_region(context, region)
    }

    fn open_queue(&self, arg: Argument) -> Result {
        let context = self.context()?;
        let mut raw: uapi::OpenQueue = arg.read_for_update()?;
        let request = ioctl::open_queue(&raw)?;
        let queue = Context::open_queue(context, &request).map_err(|(err, message)| {
            // The error is the answer, whatever becomes of the text.
            if let Some(message) = message {
                let _ = write_message(&raw, message.to_bytes());
            }
            err
        })?;
        raw.id = queue.id();
        raw.mmap_offset = RingId::Fill(raw.id).offset();
        raw.mmap_len = queue.ring().len() as u64;
        arg.write(&raw)
            .inspect_err(|_| context.close_eventually(&queue))
    }

    fn attach_socket(&self, arg: Argument) -> Result {
        let context = self.context()?;
        let raw: uapi::AttachSocket = arg.read_for_update()?;
        let request = ioctl::attach_socket(&raw)?;
        let file = SocketFile::get(request.fd)?;
        let tell = |socket: &Socket| {
            let id = socket.id();
            let mut raw = uapi::AttachSocket { id, ..raw };
            (raw.rx_mmap_offset, raw.rx_mmap_len) = match socket.rx_ring() {
                Some(ring) => (RingId::Rx(id).offset(), ring.len() as u64),
                None => (0, 0),
            };
            (raw.completion_mmap_offset, raw.completion_mmap_len) = match socket.completion_ring() {
                Some(ring) => (RingId::Completion(id).offset(), ring.len() as u64),
                None => (0, 0),
            };
            arg.write(&raw)
        };
        Context::attach_socket(context, &file, &request, tell)
            // As if nothing had been told, should that be possible.
            .inspect_err(|_| {
                let _ = arg.write(&raw);
            })
            // This is what TCP says of a listener.
            .map_err(|err| if err == ENOTCONN { EINVAL } else { err })
    }

    fn queue_stats(&self, arg: Argument) -> Result {
        let context = self.context()?;
        let id = ioctl::queue_stats(&arg.read()?)?;
        arg.write(&stats::of_queue(&*context.queue(id)?))
    }

    fn socket_stats(&self, arg: Argument) -> Result {
        let context = self.context()?;
        let id = ioctl::socket_stats(&arg.read()?)?;
        arg.write(&stats::of_socket(context, &*context.socket(id)?))
    }

    fn context_stats(&self, arg: Argument) -> Result {
        arg.write(&stats::of_context(self.context()?))
    }

    fn region_stats(&self, arg: Argument) -> Result {
        let context = self.context()?;
        let addr = ioctl::region_stats(&arg.read()?)?;
        arg.write(&stats::of_region(&*context.region(addr)?))
    }
}

/// Writes why a queue could not be opened to where `raw` wants it, cut to fit, with a zero byte at the end.
fn write_message(raw: &uapi::OpenQueue, text: &[u8]) -> Result {
    let room = raw.message_len as usize;
    if raw.message == 0 || room == 0 {
        return Ok(());
    }
    let text = text.get(..room - 1).unwrap_or(text);
    let place = UserPtr::from_addr(usize::try_from(raw.message)?);
    let mut writer = UserSlice::new(place, room).writer();
    writer.write_slice(text)?;
    writer.write(&0u8)
}
