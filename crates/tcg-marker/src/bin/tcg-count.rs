// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tcg-count`: checks, in a guest, that the plugin counts what it should. Prints a KTAP line for each case.

use std::process::ExitCode;

use tcg_marker::{Counts, Mailbox};

fn main() -> ExitCode {
    let mut mailbox = Mailbox::new();
    let mut watched = vec![1u8; 1 << 16];
    let mut other = vec![1u8; 1 << 16];
    mailbox.start();
    let Some(Counts { accesses, .. }) = mailbox.stop() else {
        println!("1..0 # SKIP this guest runs without tcg-plugin");
        return ExitCode::SUCCESS;
    };
    if let Err(error) = mailbox.watch(&watched) {
        println!("1..0 # SKIP {error}");
        return ExitCode::SUCCESS;
    }

    const TURNS: u64 = 1_000_000;
    mailbox.start();
    // SAFETY: Two instructions for each turn, which touch nothing but a register.
    unsafe {
        std::arch::asm!("2:", "dec {turns}", "jnz 2b", turns = inout(reg) TURNS => _, options(nostack, nomem));
    }
    let loops = mailbox.stop().unwrap_or_default();
    let counted = loops.user.abs_diff(2 * TURNS) < 1000;

    mailbox.start();
    for byte in &mut *other {
        // SAFETY: It is a byte of ours.
        unsafe { std::ptr::from_mut(byte).write_volatile(2) };
    }
    let elsewhere = mailbox.stop().unwrap_or_default();
    mailbox.start();
    for byte in &mut *watched {
        // SAFETY: As above.
        unsafe {
            let byte = std::ptr::from_mut(byte);
            byte.write_volatile(byte.read_volatile() + 1);
        }
    }
    let touched = mailbox.stop().unwrap_or_default();
    // A buffer of the heap shares its first and its last page with its neighbours.
    let near = |count: u64, wanted: u64| count.abs_diff(wanted) <= 8192;
    let all = watched.len() as u64 * accesses;

    let cases = [
        ("each_instruction_counts_once", counted, loops),
        (
            "other_memory_is_not_watched",
            elsewhere.loaded <= 8192 && elsewhere.stored <= 8192,
            elsewhere,
        ),
        (
            "each_byte_counts_once",
            near(touched.loaded, all) && near(touched.stored, all),
            touched,
        ),
    ];
    println!("1..{}", cases.len());
    for (number, (name, ok, counts)) in cases.iter().enumerate() {
        println!("# {counts:?}");
        println!(
            "{} {} {name}",
            if *ok { "ok" } else { "not ok" },
            number + 1
        );
    }
    if cases.iter().all(|(_, ok, _)| *ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
