// SPDX-License-Identifier: GPL-2.0

//! The functions of NVIDIA's driver. They are looked up by name: a reference that is resolved when this module is loaded would keep it
//! from loading where it could say what is missing.

use super::abi;
use core::{
    mem::transmute,
    ptr::null_mut, //
};
use kernel::{
    bindings,
    error::code::ENXIO,
    ffi::c_void,
    prelude::*, //
};

/// A function of another module.
///
/// # Invariants
///
/// Holds a reference to the module that has it.
struct Symbol {
    name: &'static CStr,
    addr: *mut c_void,
}

// SAFETY: References to modules belong to no thread.
unsafe impl Send for Symbol {}
// SAFETY: As above; the address does not change.
unsafe impl Sync for Symbol {}

impl Symbol {
    fn get(name: &'static CStr) -> Option<Self> {
        // SAFETY: A string; process context.
        let addr = unsafe { bindings::__symbol_get(name.as_char_ptr()) };
        if addr.is_null() {
            return None;
        }
        // INVARIANT: Taken by the call above.
        Some(Self { name, addr })
    }
}

impl Drop for Symbol {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::__symbol_put(self.name.as_char_ptr()) };
    }
}

/// NVIDIA's driver.
///
/// # Invariants
///
/// The functions are those of the names, and stay as long as `_symbols`; the first four are there, and of the last two both or none.
pub(crate) struct Driver {
    functions: abi::netgpu_nvidia_driver,
    _symbols: KVec<Symbol>,
}

impl Driver {
    /// `ENXIO`: it is not loaded, or does not let us.
    #[expect(
        clippy::missing_transmute_annotations,
        reason = "each field has its type"
    )]
    pub(crate) fn find() -> Result<Self> {
        let mut symbols = KVec::with_capacity(6, GFP_KERNEL)?;
        let mut find = |name| {
            let symbol = Symbol::get(name)?;
            let addr = symbol.addr;
            // There is room for all.
            symbols.push_within_capacity(symbol).ok()?;
            Some(addr)
        };
        // SAFETY: Functions of these names have these types, see `nv_p2p.h`.
        let mut functions = unsafe {
            abi::netgpu_nvidia_driver {
                get_pages: transmute(find(c"nvidia_p2p_get_pages").ok_or(ENXIO)?),
                put_pages: transmute(find(c"nvidia_p2p_put_pages").ok_or(ENXIO)?),
                dma_map_pages: transmute(find(c"nvidia_p2p_dma_map_pages").ok_or(ENXIO)?),
                dma_unmap_pages: transmute(find(c"nvidia_p2p_dma_unmap_pages").ok_or(ENXIO)?),
                get_pages_persistent: transmute(
                    find(c"nvidia_p2p_get_pages_persistent").unwrap_or(null_mut()),
                ),
                put_pages_persistent: transmute(
                    find(c"nvidia_p2p_put_pages_persistent").unwrap_or(null_mut()),
                ),
            }
        };
        if functions.put_pages_persistent.is_none() {
            functions.get_pages_persistent = None;
        }
        // INVARIANT: By the above.
        Ok(Self {
            functions,
            _symbols: symbols,
        })
    }

    pub(crate) fn functions(&self) -> &abi::netgpu_nvidia_driver {
        &self.functions
    }
}
