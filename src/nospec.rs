// SPDX-License-Identifier: GPL-2.0

//! Numbers that user space chooses, as indices: a CPU that runs on before it knows whether a check holds must not read with
//! them either what lies behind an array.
//!
//! All such places are here: [`get`] finds regions of an area, and queues and sockets of a context; [`index`] finds a buffer of
//! a region. The slots of rings are masked, and addresses of regions are found by comparing. The number of a device's receive
//! queue is the core's to check, which does likewise.

/// `index` if that is below `size`; else, also while the CPU only supposes that it is, 0. As `array_index_nospec()`.
pub(crate) fn index(index: usize, size: usize) -> usize {
    index & mask(index, size)
}

/// The element with number `at`.
pub(crate) fn get<T>(array: &[T], at: usize) -> Option<&T> {
    if at >= array.len() {
        return None;
    }
    array.get(index(at, array.len()))
}

/// As [`get`], to change it.
pub(crate) fn get_mut<T>(array: &mut [T], at: usize) -> Option<&mut T> {
    let len = array.len();
    if at >= len {
        return None;
    }
    array.get_mut(index(at, len))
}

/// All ones if `index < size`, else 0, computed without a branch. As `array_index_mask_nospec()`.
fn mask(index: usize, size: usize) -> usize {
    let index = core::hint::black_box(index);
    let outside = index | size.wrapping_sub(1).wrapping_sub(index);
    !(((outside as isize) >> (usize::BITS - 1)) as usize)
}

#[kernel::macros::kunit_tests(netgpu_nospec)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_tells_inside_from_outside() {
        for (index, size, inside) in [
            (0, 1, true),
            (1, 1, false),
            (6, 7, true),
            (7, 7, false),
            (usize::MAX, 7, false),
        ] {
            assert_eq!(mask(index, size), if inside { usize::MAX } else { 0 });
        }
    }

    #[test]
    fn elements_are_found_by_number() {
        let mut array = ['a', 'b'];
        assert_eq!(get(&array, 1), Some(&'b'));
        assert_eq!(get(&array, 2), None);
        assert_eq!(get(&array, usize::MAX), None);
        assert_eq!(get::<u8>(&[], 0), None);
        assert_eq!(get_mut(&mut array, 0), Some(&mut 'a'));
        assert_eq!(get_mut(&mut array, 2), None);
    }
}
