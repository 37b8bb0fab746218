// SPDX-License-Identifier: MIT OR Apache-2.0
//! What C hands over by address: strings, arrays, structures to fill.

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::slice;

use crate::error::Failure;

/// The text at `text`.
///
/// # Safety
///
/// `text` is null or a string of C, which stays as it is for `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::Argument("the name is NULL"));
    }
    // SAFETY: By the caller's promise.
    unsafe { CStr::from_ptr(text) }
        .to_str()
        .map_err(|_| Failure::Argument("the name is no text"))
}

/// The `count` places of the array at `array`, to be filled.
///
/// # Safety
///
/// `array` is null or has `count` places, which nobody else reads or writes for `'a`.
pub(crate) unsafe fn places<'a, T>(
    array: *mut T,
    count: c_int,
) -> Result<&'a mut [MaybeUninit<T>], Failure> {
    let count = length(array.is_null(), count)?;
    if count == 0 {
        return Ok(&mut []);
    }
    // SAFETY: By the caller's promise, and it is not null.
    Ok(unsafe { slice::from_raw_parts_mut(array.cast(), count) })
}

/// The first byte of each of the `count` pieces that `array` points to.
///
/// # Safety
///
/// `array` is null or has `count` pointers, each of which is null or points to an iovec.
pub(crate) unsafe fn starts<'a>(
    array: *mut *mut libc::iovec,
    count: c_int,
) -> Result<impl ExactSizeIterator<Item = u64> + Clone + 'a, Failure> {
    let count = length(array.is_null(), count)?;
    let pieces: &[*mut libc::iovec] = if count == 0 {
        &[]
    } else {
        // SAFETY: By the caller's promise, and it is not null.
        unsafe { slice::from_raw_parts(array, count) }
    };
    if pieces.iter().any(|piece| piece.is_null()) {
        return Err(Failure::Argument("a piece is NULL"));
    }
    // SAFETY: By the caller's promise, and it is not null.
    let start = |piece: &*mut libc::iovec| unsafe { (**piece).iov_base };
    Ok(pieces.iter().map(move |piece| start(piece) as u64))
}

fn length(is_null: bool, count: c_int) -> Result<usize, Failure> {
    match usize::try_from(count) {
        Ok(0) => Ok(0),
        Ok(_) if is_null => Err(Failure::Argument("the array is NULL")),
        Ok(count) => Ok(count),
        Err(_) => Err(Failure::Argument("the count is negative")),
    }
}

/// Fills the structure at `to`, whose caller knows `size` bytes of it, from ours: with zeros what we do not know.
///
/// # Safety
///
/// `to` is null or has `size` bytes, which nobody else reads or writes meanwhile. `T` has no padding.
pub(crate) unsafe fn fill<T: Copy>(to: *mut T, size: usize, from: &T) -> Result<(), Failure> {
    if to.is_null() {
        return Err(Failure::Argument("the structure is NULL"));
    }
    let known = size.min(size_of::<T>());
    let to = to.cast::<u8>();
    // SAFETY: By the caller's promise there are so many bytes there, and here `known` of a value without padding.
    unsafe {
        to.copy_from_nonoverlapping(std::ptr::from_ref(from).cast(), known);
        to.add(known).write_bytes(0, size - known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    #[test]
    fn null_is_told() {
        // SAFETY: Null is allowed, and nothing else is behind it.
        unsafe {
            assert!(text(ptr::null()).is_err());
            assert!(places::<u8>(ptr::null_mut(), 1).is_err());
            assert!(places::<u8>(ptr::null_mut(), -1).is_err());
            assert_eq!(places::<u8>(ptr::null_mut(), 0).unwrap().len(), 0);
            assert!(starts(ptr::null_mut(), 1).is_err());
            assert!(starts([ptr::null_mut()].as_mut_ptr(), 1).is_err());
            assert_eq!(starts(ptr::null_mut(), 0).unwrap().len(), 0);
            assert!(fill(ptr::null_mut(), 4, &0u32).is_err());
        }
    }

    #[test]
    fn structures_of_other_versions_are_filled() {
        let ours = [1u64, 2];
        let mut older = [9u64, 9];
        let mut newer = [9u64, 9, 9];
        // SAFETY: So many bytes are there.
        unsafe {
            fill(older.as_mut_ptr().cast(), 8, &ours).unwrap();
            fill(newer.as_mut_ptr().cast(), 24, &ours).unwrap();
        }
        assert_eq!(older, [1, 9]);
        assert_eq!(newer, [1, 2, 0]);
    }
}
