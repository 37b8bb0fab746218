// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs: lists of calls with their arguments, and how they are written down.
//!
//! A line is a call: its name and each argument as `name=value`. `&` in front lets it run in a thread of its own beside the calls that
//! follow. Files, sockets and mappings are named by places (`f0`, `s3`, `m1`) that calls put them into; everything else is a number,
//! which has another form where that says more: an address in the arena is `@offset`, the offset of a ring `rx:0`. Numbers that are left
//! out are zero.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};

/// Where the memory lies that programs register and send from.
pub const ARENA: u64 = 0x4000_0000;
/// Its bytes: what a ring of the NIC takes, and as much again.
pub const ARENA_LEN: u64 = 8 << 20;

/// Places for files, for sockets and for mappings, each.
pub const PLACES: u64 = 6;

/// Calls of a program at most.
pub const MAX_CALLS: usize = 48;

/// What an argument means, and so how it is written and chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A place for an open file.
    File,
    /// A place for a socket.
    Socket,
    /// A place for a mapping.
    Map,
    /// An address, most often in the arena.
    Address,
    /// Bytes of memory.
    Length,
    /// Entries of a ring.
    Entries,
    /// Where a ring of a context is mapped from.
    Ring,
    /// A small number, of which all are below the one given.
    Below(u64),
    /// Any number, most often zero.
    Number,
}

/// A call that programs can make.
#[derive(Debug)]
pub struct Op {
    /// Its name in programs.
    pub name: &'static str,
    /// Its arguments.
    pub args: &'static [(&'static str, Kind)],
}

/// Makes [`OPS`], and a name for each that [`crate::execute`] finds it by.
macro_rules! ops {
    ($($name:ident ($($arg:ident: $kind:expr),*);)*) => {
        /// Which call, as an index into [`OPS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, missing_docs)]
        pub enum Name { $($name),* }

        /// All calls.
        pub const OPS: &[Op] = &[$(Op { name: stringify!($name), args: &[$((stringify!($arg), $kind)),*] }),*];
        const NAMES: &[Name] = &[$(Name::$name),*];
    };
}

use Kind::{Address, Below, Entries, File, Length, Map, Number, Ring, Socket};

// `at` is where the argument of an ioctl lies, see `sys::Argument`; `reserved` goes into one of its reserved fields.
ops! {
    open(file: File);
    close(file: File);
    dup(file: File, to: File);
    // Something else than /dev/netgpu; `what` as in `execute::other`.
    other(file: File, what: Below(5), pages: Below(64));
    info(file: File, at: Below(5));
    add_region(file: File, addr: Address, len: Length, type: Below(4), flags: Number, fd: File, offset: Length, reserved: Number, at: Below(5));
    // Buffers of 2^`order` pages.
    bind(file: File, device: Below(4), flags: Number, order: Below(7), reserved: Number, at: Below(5));
    attach_region(file: File, area: File, index: Below(6), flags: Number, reserved: Number, at: Below(5));
    open_queue(file: File, queue: Below(4), flags: Number, entries: Entries, hds: Number, message: Below(3), message_len: Number, reserved: Number, at: Below(5));
    close_queue(file: File, id: Below(4), reserved: Number, at: Below(5));
    attach_socket(file: File, socket: Socket, flags: Number, rx: Entries, completions: Entries, reserved: Number, at: Below(5));
    detach_socket(file: File, id: Below(4), reserved: Number, at: Below(5));
    queue_stats(file: File, id: Below(4), reserved: Number, at: Below(5));
    socket_stats(file: File, id: Below(4), reserved: Number, at: Below(5));
    context_stats(file: File, at: Below(5));
    region_stats(file: File, addr: Address, reserved: Number, at: Below(5));
    ioctl(file: File, command: Number, at: Below(5));
    // `len` zero: as the call that made the ring has told.
    map(map: Map, file: File, ring: Ring, len: Length);
    unmap(map: Map);
    // Words of the head of a ring, and entries, of two words each.
    word(map: Map, index: Below(32), value: Number);
    entry(map: Map, index: Number, value: Address, len: Length);
    produce(map: Map, by: Number);
    consume(map: Map, by: Number);
    // As a sane program does: `count` buffers from `addr` on, and those that came on an rx ring back.
    give(map: Map, addr: Address, count: Number);
    give_back(map: Map, from: Map, count: Number);
    socket(socket: Socket, family: Below(3));
    connect(socket: Socket);
    listen(socket: Socket);
    bind_to(socket: Socket, device: Below(4));
    // As if the upper layer protocol were to be had by setsockopt(2).
    ulp(socket: Socket);
    linger(socket: Socket);
    buffers(socket: Socket, bytes: Length);
    send(socket: Socket, addr: Address, len: Length, zerocopy: Below(2));
    // Two iovecs.
    sendv(socket: Socket, addr: Address, len: Length, addr2: Address, len2: Length, zerocopy: Below(2));
    recv(socket: Socket, len: Length, flags: Below(4));
    splice(socket: Socket, len: Length);
    poll(socket: Socket, ms: Below(100));
    shutdown(socket: Socket, how: Below(3));
    close_socket(socket: Socket);
    // What becomes of the arena; `how` as in `execute::memory`.
    memory(addr: Address, len: Length, how: Below(7));
    // From here on the process is nobody's.
    drop_rights();
    memlock(bytes: Length);
    // A child that holds all files until it is reaped.
    fork();
    reap();
    sleep(ms: Below(30));
}

impl Name {
    /// What it takes.
    pub fn op(self) -> &'static Op {
        &OPS[self as usize]
    }

    /// The call with that index in [`OPS`].
    pub fn nth(index: usize) -> Self {
        NAMES[index]
    }
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which one.
    pub name: Name,
    /// In a thread of its own.
    pub beside: bool,
    /// One for each of the op's.
    pub args: Vec<u64>,
}

/// A list of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// In the order in which they are made.
    pub calls: Vec<Call>,
}

const RINGS: [(&str, u64); 3] = [("fill", 1), ("rx", 2), ("completion", 3)];

/// Where a ring is mapped from: `src/ioctl.rs` has the same.
pub fn ring_offset(kind: u64, id: u64) -> u64 {
    kind << 56 | id << 32
}

fn write_value(f: &mut fmt::Formatter<'_>, kind: Kind, value: u64) -> fmt::Result {
    match kind {
        File => write!(f, "f{value}"),
        Socket => write!(f, "s{value}"),
        Map => write!(f, "m{value}"),
        Address if (ARENA..=ARENA + ARENA_LEN).contains(&value) => {
            write!(f, "@{:#x}", value - ARENA)
        }
        Ring => {
            let id = value >> 32 & 0xff_ffff;
            match RINGS
                .iter()
                .find(|(_, kind)| ring_offset(*kind, id) == value)
            {
                Some((name, _)) => write!(f, "{name}:{id}"),
                None => write!(f, "{value:#x}"),
            }
        }
        _ if value >= 1000 => write!(f, "{value:#x}"),
        _ => write!(f, "{value}"),
    }
}

fn number(text: &str) -> Result<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .with_context(|| format!("{text:?} is no number"))
}

fn read_value(kind: Kind, text: &str) -> Result<u64> {
    let place = |letter| {
        let text = text
            .strip_prefix(letter)
            .with_context(|| format!("{text:?} is no place; those here start with {letter:?}"))?;
        number(text)
    };
    match kind {
        File => place('f'),
        Socket => place('s'),
        Map => place('m'),
        _ => {
            if let Some(offset) = text.strip_prefix('@') {
                return Ok(ARENA + number(offset)?);
            }
            for (name, kind) in RINGS {
                if let Some(id) = text.strip_prefix(name).and_then(|t| t.strip_prefix(':')) {
                    return Ok(ring_offset(kind, number(id)?));
                }
            }
            number(text)
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.beside {
            f.write_str("& ")?;
        }
        f.write_str(self.name.op().name)?;
        for (&(name, kind), &value) in self.name.op().args.iter().zip(&self.args) {
            // As good as left out.
            if value == 0 && !matches!(kind, File | Socket | Map) {
                continue;
            }
            write!(f, " {name}=")?;
            write_value(f, kind, value)?;
        }
        Ok(())
    }
}

impl FromStr for Call {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = line.split_whitespace().peekable();
        let beside = words.next_if_eq(&"&").is_some();
        let name = words.next().context("no call")?;
        let name = NAMES
            .iter()
            .copied()
            .find(|n| n.op().name == name)
            .with_context(|| format!("there is no call {name}"))?;
        // What a line leaves out is zero.
        let mut args = vec![0; name.op().args.len()];
        for word in words {
            let (key, value) = word
                .split_once('=')
                .with_context(|| format!("{word:?} is not name=value"))?;
            let Some(at) = name.op().args.iter().position(|(n, _)| *n == key) else {
                bail!("{} has no argument {key}", name.op().name);
            };
            args[at] = read_value(name.op().args[at].1, value)?;
        }
        Ok(Self { name, beside, args })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calls.iter().try_for_each(|call| writeln!(f, "{call}"))
    }
}

impl FromStr for Program {
    type Err = Error;

    /// Empty lines, and those that start with `#`, are for people.
    fn from_str(text: &str) -> Result<Self> {
        let calls = (1..)
            .zip(text.lines())
            .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
            .map(|(n, line)| {
                line.parse()
                    .with_context(|| format!("line {n}: {}", line.trim()))
            })
            .collect::<Result<_>>()?;
        Ok(Self { calls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_read_as_they_are_written() {
        let text = "open file=f0\n\
            add_region file=f0 addr=@0x1000 len=0x4000 fd=f0 at=3\n\
            & map map=m1 file=f0 ring=rx:2\n\
            map map=m1 file=f0 ring=0x100000000001000 len=16\n\
            drop_rights\n";
        let program: Program = text.parse().unwrap();
        assert_eq!(program.to_string(), text);
        assert_eq!(program.calls[2].args, [1, 0, 2 << 56 | 2 << 32, 0]);
        assert!(program.calls[2].beside);
    }

    #[test]
    fn what_is_left_out_is_zero() {
        let program: Program = "# a remark\n\nbind file=f3\n".parse().unwrap();
        let (file, others) = program.calls[0].args.split_first().unwrap();
        assert_eq!(*file, 3);
        assert!(others.iter().all(|&other| other == 0));
    }

    #[test]
    fn mistakes_name_their_line() {
        for bad in [
            "open file=f0\nopne file=f1",
            "open file=f0\nopen fle=f1",
            "open file=f0\nopen file=s1",
        ] {
            let error = bad.parse::<Program>().unwrap_err();
            assert!(error.to_string().starts_with("line 2: "), "{error}");
        }
    }
}
