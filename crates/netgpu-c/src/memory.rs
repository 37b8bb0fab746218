// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for programs that have none of their own.

use std::collections::BTreeMap;
use std::ffi::{c_uint, c_void};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use netgpu::{Backing, HostMemory};
use netgpu_cuda::{Gpu, GpuMemory};

use crate::error::{Failure, keep};

/// Kinds of memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum netgpu_memtype {
    /// The CPU's: anonymous, shared, memfd, huge pages.
    MEMTYPE_HOST = 0,
    /// An NVIDIA GPU's, at its address in CUDA.
    MEMTYPE_CUDA = 1,
    /// A dma-buf's, see netgpu_add_dmabuf(): no other function takes it.
    MEMTYPE_DMABUF = 2,
    /// The CPU's, to be allocated in huge pages of 2 MiB. Where memory is registered, it is the same as MEMTYPE_HOST.
    MEMTYPE_HUGE = 3,
}

/// An `enum netgpu_memtype` from C, which may be anything.
pub(crate) type Memtype = c_uint;

/// What netgpu_alloc_memory() has given of GPUs, by address.
static GPU_MEMORY: Mutex<BTreeMap<usize, GpuMemory>> = Mutex::new(BTreeMap::new());

fn gpu_memory() -> std::sync::MutexGuard<'static, BTreeMap<usize, GpuMemory>> {
    // What is under the lock is whole at every step.
    GPU_MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Allocates at least `size` bytes, page-aligned. MEMTYPE_HOST and MEMTYPE_HUGE: filled with zeros; the latter from the system's
/// pool of huge pages (vm.nr_hugepages). MEMTYPE_CUDA: of the calling thread's current GPU, as cudaSetDevice() has it, or else the
/// first, with CU_POINTER_ATTRIBUTE_SYNC_MEMOPS set; the CPU cannot use it.
///
/// Returns NULL when there is not so much, and for MEMTYPE_DMABUF.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_alloc_memory(size: usize, memtype: Memtype) -> *mut c_void {
    let allocated = if let Some(backing) = backing(memtype) {
        host(size, backing)
    } else if memtype == netgpu_memtype::MEMTYPE_CUDA as Memtype {
        gpu(size)
    } else {
        Err(Failure::Argument("memory of this kind cannot be allocated"))
    };
    allocated.unwrap_or_else(|failure| {
        keep(&failure);
        ptr::null_mut()
    })
}

/// Where memory of the CPU comes from; [`None`] for that of others.
pub(crate) fn backing(memtype: Memtype) -> Option<Backing> {
    if memtype == netgpu_memtype::MEMTYPE_HOST as Memtype {
        Some(Backing::Anonymous)
    } else if memtype == netgpu_memtype::MEMTYPE_HUGE as Memtype {
        Some(Backing::Huge2M)
    } else {
        None
    }
}

fn host(size: usize, backing: Backing) -> Result<*mut c_void, Failure> {
    let memory = HostMemory::new(size, backing)?;
    Ok(memory.into_raw().0.as_ptr().cast())
}

fn gpu(size: usize) -> Result<*mut c_void, Failure> {
    let memory = Gpu::current()?.allocate(size)?;
    let address = memory.address() as usize;
    gpu_memory().insert(address, memory);
    Ok(ptr::without_provenance_mut(address))
}

/// Frees what netgpu_alloc_memory() gave for the same `size` and `memtype`. If it is registered, the kernel and the device have it
/// until the areas and contexts that it is registered with are gone. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netgpu_free_memory(area: *mut c_void, size: usize, memtype: Memtype) {
    if let Some(backing) = backing(memtype) {
        let Some(len) = size.checked_next_multiple_of(backing.page()) else {
            return;
        };
        if area.is_null() {
            return;
        }
        // SAFETY: What C owes: it is what the other function mapped, and nobody uses it any more. The kernel refuses what is no
        // address of a mapping.
        let _ = unsafe { rustix::mm::munmap(area, len) };
    } else if memtype == netgpu_memtype::MEMTYPE_CUDA as Memtype {
        drop(gpu_memory().remove(&area.addr()));
    }
}
