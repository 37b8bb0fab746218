// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crate on a real GPU: `scripts/test-cuda` runs the tests that are ignored elsewhere.

use std::os::fd::AsRawFd;
use std::time::Instant;

use netgpu_cuda::{Error, GRANULE, Gpu, GpuMemory};

/// Bytes that differ from one another in every word.
fn pattern(len: usize) -> Vec<u8> {
    let word = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..len / 8).flat_map(word).collect()
}

fn gpu() -> Gpu {
    Gpu::open(0).expect("these tests need a GPU")
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    match Gpu::open(u32::MAX) {
        Err(Error::NoDriver | Error::NoGpu { .. } | Error::Cuda { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs a GPU"]
fn names_itself() {
    let gpu = gpu();
    println!("gpu: {}", gpu.name().unwrap());
    println!("cuda: {}", gpu.cuda_version().unwrap());
    println!("dma-buf: {}", gpu.has_dma_buf().unwrap());
    assert!(!gpu.name().unwrap().is_empty());
}

#[test]
#[ignore = "needs a GPU"]
fn memory_is_aligned_and_synchronous() {
    let gpu = gpu();
    for len in [1, GRANULE, GRANULE + 1, 64 << 20] {
        let memory = gpu.allocate(len).unwrap();
        assert_eq!(memory.len(), len.next_multiple_of(GRANULE));
        assert_eq!(memory.address() % 65536, 0, "of {len} bytes");
        assert!(memory.is_synchronous().unwrap());
    }
    assert!(matches!(gpu.allocate(0), Err(Error::Length(0))));
    let more = gpu.allocate(1 << 50).unwrap_err();
    println!("too much: {more}");
    assert!(matches!(more, Error::Cuda { .. }));
}

#[test]
#[ignore = "needs a GPU"]
fn copies_come_back() {
    let data = pattern(256 << 20);
    let mut memory = gpu().allocate(data.len()).unwrap();
    let start = Instant::now();
    memory.write(0, &data).unwrap();
    let written = start.elapsed();
    let mut back = vec![0; data.len()];
    let start = Instant::now();
    memory.read(0, &mut back).unwrap();
    let read = start.elapsed();
    assert!(back == data);
    println!(
        "copies: {} MiB there in {written:?}, back in {read:?}",
        data.len() >> 20
    );

    let mut part = [0; 13];
    memory.write(4099, b"thirteen byte").unwrap();
    memory.read(4099, &mut part).unwrap();
    assert_eq!(&part, b"thirteen byte");
    let size = memory.len();
    assert!(matches!(memory.write(size, b"x"), Err(Error::Range { .. })));
    assert!(matches!(
        memory.read(usize::MAX, &mut part),
        Err(Error::Range { .. })
    ));
}

#[test]
#[ignore = "needs a GPU"]
fn memory_of_others_is_taken_and_left_to_them() {
    let gpu = Gpu::current().expect("the first, for who has not chosen");
    let mut memory = gpu.allocate(2 * GRANULE).unwrap();
    memory.write(0, b"before").unwrap();
    let mut text = [0; 6];
    for _ in 0..2 {
        // SAFETY: A part of what was allocated just now, which lives longer.
        let taken = unsafe { GpuMemory::from_raw(memory.address(), GRANULE) }.unwrap();
        assert_eq!(taken.len(), GRANULE);
        assert!(taken.is_synchronous().unwrap());
        taken.read(0, &mut text).unwrap();
        assert_eq!(&text, b"before");
        assert_eq!(taken.export().is_ok(), gpu.has_dma_buf().unwrap());
    }
    memory.read(0, &mut text).expect("it was not freed");

    let host = Box::new([0u8; 4096]);
    // SAFETY: It is no memory of a GPU.
    let taken = unsafe { GpuMemory::from_raw((&raw const *host) as u64, 4096) };
    assert!(matches!(taken, Err(Error::Cuda { .. })), "{taken:?}");
}

#[test]
#[ignore = "needs a GPU"]
fn exports_a_dma_buf_or_says_why_not() {
    let gpu = gpu();
    let memory = gpu.allocate(64 << 20).unwrap();
    match memory.export() {
        Ok(fd) => {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            println!("export: {}", link.display());
            assert!(gpu.has_dma_buf().unwrap());
            assert!(link.to_string_lossy().contains("dmabuf"), "{link:?}");
        }
        Err(error) => {
            println!("export: {error}");
            assert!(matches!(error, Error::NoDmaBuf { .. }), "{error:?}");
            assert!(!gpu.has_dma_buf().unwrap());
        }
    }
}
