// SPDX-License-Identifier: GPL-2.0

//! Pinned memory of a GPU, and its mappings, as netgpu.ko wants them (`../shim/gpu.h`).
//!
//! # When the memory goes
//!
//! Memory that was pinned for good stays until it is unpinned. Where the driver cannot do that, it calls [`gone`] when the memory is
//! freed, at any time from within the call that pins it on, with its own locks held, and frees what it told about the pages when that
//! returns. So nothing of the driver's is looked at but under our lock, which [`gone`] takes; and none of its functions is called under
//! it, as they may take the driver's locks. What is needed of the pages is copied, and they are mapped for devices by the kernel's own
//! functions, as the driver would do it: its function for that uses what is freed when [`gone`] returns.

use super::{
    abi,
    driver::Driver,
    LocalModule, //
};
use core::ptr::null_mut;
use kernel::{
    bindings,
    error::{
        code::{
            EIO,
            EOPNOTSUPP, //
        },
        from_result,
        to_result, //
    },
    ffi::{
        c_int,
        c_void, //
    },
    module::this_module,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Completion,
        Mutex, //
    }, //
};

const PAGE_SIZE: usize = 1 << abi::NETGPU_GPU_PAGE_SHIFT;
const BIDIRECTIONAL: abi::dma_data_direction = abi::dma_data_direction_DMA_BIDIRECTIONAL;

/// NVIDIA's driver, while netgpu.ko may call us.
static DRIVER: Atomic<*mut Driver> = Atomic::new(null_mut());

/// The driver's functions. Below calls from netgpu.ko.
fn functions() -> &'static abi::netgpu_nvidia_driver {
    // SAFETY: `Registration` has stored it, and keeps it until no call is left.
    unsafe { (*DRIVER.load(Relaxed)).functions() }
}

/// What we offer netgpu.ko, registered with it.
///
/// # Invariants
///
/// `ops` is registered, and [`DRIVER`] is `_driver`.
pub(crate) struct Registration {
    _ops: KBox<abi::netgpu_gpu_ops>,
    _driver: KBox<Driver>,
}

// SAFETY: There are no methods, and any thread may end it.
unsafe impl Send for Registration {}
// SAFETY: As above.
unsafe impl Sync for Registration {}

impl Registration {
    pub(crate) fn new(driver: Driver) -> Result<Self> {
        let driver = KBox::new(driver, GFP_KERNEL)?;
        let ops = KBox::new(
            abi::netgpu_gpu_ops {
                owner: this_module::<LocalModule>().as_ptr().cast(),
                pin: Some(pin),
                unpin: Some(unpin),
                physical: Some(physical),
                map: Some(map),
                address: Some(address),
                unmap: Some(unmap),
            },
            GFP_KERNEL,
        )?;
        DRIVER.store((&raw const *driver).cast_mut(), Relaxed);
        // SAFETY: The operations stay until they are unregistered, which is when the module goes that they name as their owner.
        to_result(unsafe { abi::netgpu_register_gpu(&*ops) })?;
        // INVARIANT: Registered just now.
        Ok(Self {
            _ops: ops,
            _driver: driver,
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. The module goes, so nothing of it is in use.
        unsafe { abi::netgpu_unregister_gpu() };
    }
}

/// Pinned memory, or memory that is about to be.
#[pin_data]
struct Pages {
    addr: u64,
    revoked: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
    #[pin]
    state: Mutex<State>,
    /// [`gone`] needs none of this any more.
    #[pin]
    told: Completion,
}

/// # Invariants
///
/// `table` is what the driver told about the pages, or null. It is null when the memory is gone.
struct State {
    table: *mut abi::nvidia_p2p_page_table,
    /// The memory stays until it is unpinned.
    persistent: bool,
    gone: bool,
    /// Addresses of the pages for the CPU.
    physical: KVVec<u64>,
}

/// Whether a structure of the driver's, whose version is `theirs`, has what that of version `ours` has.
fn is_compatible(theirs: u32, ours: u32) -> bool {
    theirs >> 16 == ours >> 16 && theirs & 0xffff >= ours & 0xffff
}

impl State {
    /// Keeps `table`, an answer for `count` pages, and copies the addresses.
    ///
    /// # Safety
    ///
    /// `table` is a table of the driver's, which stays until it is put or [`gone`] returns.
    unsafe fn fill(&mut self, table: *mut abi::nvidia_p2p_page_table, count: usize) -> Result {
        if self.gone {
            return Err(ENODEV);
        }
        // INVARIANT: By this function's requirements, and as it is not gone.
        self.table = table;
        // SAFETY: By this function's requirements; every table begins with its version.
        let version = unsafe { (*table).version };
        if !is_compatible(version, abi::NVIDIA_P2P_PAGE_TABLE_VERSION) {
            pr_err!("nvidia.ko has page tables of version {version:#x}, which this module does not know\n");
            return Err(EOPNOTSUPP);
        }
        // SAFETY: By this function's requirements; it has the layout of our version.
        let table = unsafe { &*table };
        if table.page_size != abi::nvidia_p2p_page_size_type_NVIDIA_P2P_PAGE_SIZE_64KB
            || table.entries as usize != count
        {
            pr_err!(
                "nvidia.ko answers {} pages of size {}, not {count} of 64 KiB\n",
                table.entries,
                table.page_size
            );
            return Err(EIO);
        }
        for index in 0..count {
            // SAFETY: There are so many pages.
            let addr = unsafe { (**table.pages.add(index)).physical_address };
            self.physical.push(addr, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }
}

impl Pages {
    /// # Safety
    ///
    /// `pages` came from [`pin`], and has not been unpinned.
    unsafe fn borrow<'a>(pages: *mut c_void) -> &'a Self {
        // SAFETY: By this function's requirements.
        unsafe { &*pages.cast::<Self>().cast_const() }
    }

    /// Gives the memory back to the driver, unless it is gone. Nothing refers to `self` any more when this returns.
    fn put(&self) {
        let functions = functions();
        let state = self.state.lock();
        let (table, persistent) = (state.table, state.persistent);
        drop(state);
        if !table.is_null() {
            // SAFETY: By the invariants of `State` it is what the driver answered for this address. If the memory goes just now, the
            // driver knows by itself.
            unsafe {
                match (
                    persistent,
                    functions.put_pages_persistent,
                    functions.put_pages,
                ) {
                    (true, Some(put), _) => put(self.addr, table, 0),
                    (false, _, Some(put)) => put(0, 0, self.addr, table),
                    _ => 0,
                }
            };
        }
        let gone = self.state.lock().gone;
        if gone {
            self.told.wait_for_completion();
        }
    }
}

/// # Safety
///
/// As `struct netgpu_gpu_ops` has it, here and below.
unsafe extern "C" fn pin(
    addr: u64,
    len: u64,
    revoked: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
    out: *mut *mut c_void,
) -> c_int {
    from_result(|| {
        let count = usize::try_from(len)? / PAGE_SIZE;
        let pages = KBox::pin_init(
            try_pin_init!(Pages {
                addr,
                revoked: revoked.ok_or(EINVAL)?,
                data,
                state <- new_mutex!(State {
                    table: null_mut(),
                    persistent: false,
                    gone: false,
                    physical: KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?,
                }, "netgpu_nvidia::Pages"),
                told <- Completion::new(),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        let functions = functions();
        let mut table = null_mut();
        let mut result = NOT_SUPPORTED;
        if let Some(get) = functions.get_pages_persistent {
            // SAFETY: There is room for the answer.
            result = unsafe { get(addr, len, &mut table, 0) };
        }
        let persistent = result == 0;
        if result == NOT_SUPPORTED {
            let get = functions.get_pages.ok_or(ENODEV)?;
            let this = (&raw const *pages).cast_mut().cast();
            // SAFETY: As above; `gone()` may use `pages` until `put()` has returned.
            result = unsafe { get(0, 0, addr, len, &mut table, Some(gone), this) };
        }
        // So it says of what is no memory of a GPU.
        to_result(result).map_err(|err| if err == EINVAL { EFAULT } else { err })?;
        let filled = {
            let mut state = pages.state.lock();
            state.persistent = persistent;
            // SAFETY: Answered just now; `gone()` does not return while the lock is held.
            unsafe { state.fill(table, count) }
        };
        filled.inspect_err(|_| pages.put())?;
        // SAFETY: It is not moved until it is dropped. There is room for the answer.
        unsafe { *out = KBox::into_raw(Pin::into_inner_unchecked(pages)).cast() };
        Ok(0)
    })
}

/// What the driver answers where it cannot; no error of user space's.
const NOT_SUPPORTED: c_int = -(abi::ENOTSUPP as c_int);

/// The memory goes. Process context, with locks of the driver.
///
/// # Safety
///
/// `data` is what [`pin`] said, and [`Pages::put`] has not returned.
unsafe extern "C" fn gone(data: *mut c_void) {
    // SAFETY: By this function's requirements.
    let pages = unsafe { Pages::borrow(data) };
    {
        let mut state = pages.state.lock();
        state.gone = true;
        // INVARIANT: The driver frees it when this returns.
        state.table = null_mut();
    }
    // SAFETY: As netgpu.ko has it.
    unsafe { (pages.revoked)(pages.data) };
    pages.told.complete_all();
}

/// # Safety
///
/// See [`pin`].
unsafe extern "C" fn unpin(pages: *mut c_void) {
    // SAFETY: By this function's requirements it came from `pin()`.
    let pages = unsafe { KBox::from_raw(pages.cast::<Pages>()) };
    pages.put();
}

/// # Safety
///
/// See [`pin`].
unsafe extern "C" fn physical(pages: *mut c_void, index: u32) -> bindings::phys_addr_t {
    // SAFETY: By this function's requirements.
    let pages = unsafe { Pages::borrow(pages) };
    let state = pages.state.lock();
    state.physical.get(index as usize).copied().unwrap_or(0)
}

/// A mapping for a device.
struct Mapping {
    dev: *mut abi::device,
    /// The driver's, of memory that stays until it is unpinned; null: the kernel's.
    theirs: *mut abi::nvidia_p2p_dma_mapping,
    addresses: KVVec<u64>,
}

impl Mapping {
    /// Maps by the driver.
    ///
    /// # Safety
    ///
    /// `table` is a table of memory that stays until it is unpinned, and stays itself; `dev` does, too.
    unsafe fn by_driver(&mut self, table: *mut abi::nvidia_p2p_page_table, count: usize) -> Result {
        // SAFETY: By this function's requirements.
        let pci = unsafe { abi::netgpu_nvidia_pci_dev(self.dev) };
        let map = functions().dma_map_pages.ok_or(ENODEV)?;
        if pci.is_null() {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: As above; there is room for the answer.
        to_result(unsafe { map(pci, table, &mut self.theirs) })?;
        // SAFETY: Answered just now; every mapping begins with its version.
        let version = unsafe { (*self.theirs).version };
        if !is_compatible(version, abi::NVIDIA_P2P_DMA_MAPPING_VERSION) {
            pr_err!(
                "nvidia.ko has mappings of version {version:#x}, which this module does not know\n"
            );
            return Err(EOPNOTSUPP);
        }
        // SAFETY: It has the layout of our version.
        let theirs = unsafe { &*self.theirs };
        if theirs.entries as usize != count {
            return Err(EIO);
        }
        for index in 0..count {
            // SAFETY: There are so many.
            let addr = unsafe { *theirs.dma_addresses.add(index) };
            self.addresses.push(addr, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }

    /// Maps by the kernel's functions.
    ///
    /// # Safety
    ///
    /// `physical` is memory of a device; `dev` stays.
    unsafe fn by_kernel(&mut self, physical: &[u64]) -> Result {
        for &addr in physical {
            // SAFETY: By this function's requirements.
            let dma = unsafe { abi::dma_map_resource(self.dev, addr, PAGE_SIZE, BIDIRECTIONAL, 0) };
            // SAFETY: As above.
            if unsafe { abi::netgpu_nvidia_dma_mapping_error(self.dev, dma) } {
                return Err(EIO);
            }
            // There is room for all.
            self.addresses.push_within_capacity(dma).map_err(|_| EIO)?;
        }
        Ok(())
    }

    /// # Safety
    ///
    /// No device uses it. `table` is the one that it was made of, if the driver did.
    unsafe fn undo(&mut self, table: *mut abi::nvidia_p2p_page_table) {
        if self.theirs.is_null() {
            for &addr in &self.addresses {
                // SAFETY: By this function's requirements.
                unsafe { abi::dma_unmap_resource(self.dev, addr, PAGE_SIZE, BIDIRECTIONAL, 0) };
            }
        } else if let Some(unmap) = functions().dma_unmap_pages {
            // SAFETY: As above; it was made for this device.
            unsafe { unmap(abi::netgpu_nvidia_pci_dev(self.dev), table, self.theirs) };
        }
    }
}

/// # Safety
///
/// See [`pin`].
unsafe extern "C" fn map(
    pages: *mut c_void,
    dev: *mut abi::device,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: By this function's requirements.
    let pages = unsafe { Pages::borrow(pages) };
    from_result(|| {
        let state = pages.state.lock();
        let (table, persistent, count) = (state.table, state.persistent, state.physical.len());
        let mut mapping = KBox::new(
            Mapping {
                dev,
                theirs: null_mut(),
                addresses: KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: By this function's requirements. A table of memory that stays does, too, and the pages are memory of a GPU.
        let mapped = unsafe {
            if persistent {
                drop(state);
                mapping.by_driver(table, count)
            } else {
                mapping.by_kernel(&state.physical)
            }
        };
        if let Err(err) = mapped {
            // SAFETY: Nobody knows it.
            unsafe { mapping.undo(table) };
            return Err(err);
        }
        // SAFETY: There is room for the answer.
        unsafe { *out = KBox::into_raw(mapping).cast() };
        Ok(0)
    })
}

/// # Safety
///
/// See [`pin`].
unsafe extern "C" fn address(mapping: *mut c_void, index: u32) -> bindings::dma_addr_t {
    // SAFETY: By this function's requirements it came from `map()`.
    let mapping = unsafe { &*mapping.cast::<Mapping>().cast_const() };
    mapping.addresses.get(index as usize).copied().unwrap_or(0)
}

/// # Safety
///
/// See [`pin`].
unsafe extern "C" fn unmap(pages: *mut c_void, mapping: *mut c_void) {
    // SAFETY: By this function's requirements.
    let (pages, mut mapping) = unsafe {
        (
            Pages::borrow(pages),
            KBox::from_raw(mapping.cast::<Mapping>()),
        )
    };
    let table = pages.state.lock().table;
    // SAFETY: By this function's requirements. Of memory that stays the table does.
    unsafe { mapping.undo(table) };
}
