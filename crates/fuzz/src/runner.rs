// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs programs, each in a process of its own, and tells what they reached.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use regex::Regex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::execute::{self, World};
use crate::program::{MAX_CALLS, Program};
use crate::sys::{self, Kcov, Mapping};

/// No call sleeps for long: a program that has not ended by then is stuck.
const DEADLINE: Duration = Duration::from_secs(30);

/// What was reached: pairs of places in the module that one call came by in this order, and calls with their results.
pub type Reached = HashSet<u64>;

/// What became of a program.
pub struct Outcome {
    /// What it reached.
    pub reached: Reached,
    /// The result of each call that came to its end: zero or more, or a negative error number.
    pub results: Vec<Option<i32>>,
}

/// Runs programs.
pub struct Runner {
    world: World,
    kcov: Kcov,
    results: Mapping,
    log: KernelLog,
    /// What is about to run is written here, for the case that nobody is left to tell.
    last: PathBuf,
    /// How often a program was run.
    pub runs: u64,
    /// Places in the module that kcov has told of.
    pub places: HashSet<u64>,
    slow: u32,
}

/// What a call has not returned yet.
const NONE: i32 = i32::MIN;

impl Runner {
    /// Makes ready to run programs in that world. The file `last` always has what was run last; a line of the kernel's log that `bad`
    /// matches ends it all. Deadlines are `slow` times as long as on an ordinary kernel.
    pub fn new(world: World, last: PathBuf, bad: Regex, slow: u32) -> Result<Self> {
        Ok(Self {
            world,
            kcov: Kcov::open().context("/sys/kernel/debug/kcov: is this the tests' kernel?")?,
            results: Mapping::shared(4 * MAX_CALLS)?,
            log: KernelLog::open(bad)?,
            last,
            runs: 0,
            places: HashSet::new(),
            slow,
        })
    }

    /// Runs a program. Fails if the kernel complains or the program does not end.
    pub fn run(&mut self, program: &Program) -> Result<Outcome> {
        self.runs += 1;
        // Through to the other side of the file system: the kernel may not live to do it later.
        File::create(&self.last)
            .and_then(|mut file| file.write_all(program.to_string().as_bytes()))
            .with_context(|| self.last.display().to_string())?;
        self.kcov.clear();
        for n in 0..MAX_CALLS {
            self.results.result(n).unwrap().store(NONE, Relaxed);
        }
        match sys::fork()? {
            0 => self.child(program),
            child => self.wait(
                Pid::from_raw(child).context("fork(2) gave no process")?,
                program,
            )?,
        }
        self.log
            .check()
            .with_context(|| format!("it was running\n{program}"))?;
        Ok(self.outcome(program))
    }

    fn child(&self, program: &Program) -> ! {
        let report = |n, result: i64| {
            if let Some(place) = self.results.result(n) {
                place.store(result.clamp(-4096, i32::MAX.into()) as i32, Relaxed);
            }
        };
        let ran = rustix::process::setpgid(None, None)
            .map_err(Into::into)
            .and_then(|()| self.kcov.enable())
            .and_then(|()| execute::run(program, &self.world, report))
            .and_then(|()| self.kcov.disable());
        sys::leave(match ran {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("# {error}");
                1
            }
        })
    }

    fn wait(&self, child: Pid, program: &Program) -> Result<()> {
        let handle = rustix::process::pidfd_open(child, PidfdFlags::empty())?;
        let ends_within = |limit: Duration| -> Result<bool> {
            let limit = Timespec {
                tv_sec: limit.as_secs() as i64,
                tv_nsec: 0,
            };
            Ok(rustix::event::poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit))? > 0)
        };
        let ended = ends_within(DEADLINE * self.slow)?;
        // With its own children.
        let _ = rustix::process::kill_process_group(child, Signal::KILL);
        if !ended {
            let how = if ends_within(DEADLINE * self.slow)? {
                "until it was killed"
            } else {
                "even though it was killed"
            };
            bail!("it did not end, {how}:\n{program}");
        }
        let (_, status) = rustix::process::waitpid(Some(child), WaitOptions::empty())?
            .context("the process that has ended is gone")?;
        // Programs may take their own memory away, and die of it.
        if status.exit_status() == Some(1) {
            bail!("the program could not be run:\n{program}");
        }
        Ok(())
    }

    fn outcome(&mut self, program: &Program) -> Outcome {
        let mut reached = Reached::new();
        let mut before = 0;
        for place in self.kcov.trace() {
            reached.insert(hash((before, place)));
            self.places.insert(place);
            before = place;
        }
        let results: Vec<_> = (0..program.calls.len())
            .map(|n| {
                self.results
                    .result(n)
                    .map(|r| r.load(Relaxed))
                    .filter(|&r| r != NONE)
            })
            .collect();
        for (call, result) in program.calls.iter().zip(&results) {
            if let Some(result) = result {
                reached.insert(hash((call.name, (*result).min(0))));
            }
        }
        Outcome { reached, results }
    }
}

/// A name for what is hashed.
pub fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What the kernel has to say.
struct KernelLog {
    file: File,
    bad: Regex,
}

impl KernelLog {
    fn open(bad: Regex) -> Result<Self> {
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open("/dev/kmsg")?;
        let mut log = Self { file, bad };
        // What was there before is not ours.
        while log.next()?.is_some() {}
        Ok(log)
    }

    fn next(&mut self) -> Result<Option<String>> {
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(len) => return Ok(Some(String::from_utf8_lossy(&record[..len]).into_owned())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                // Some were overwritten before we came.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error).context("/dev/kmsg"),
            }
        }
    }

    fn check(&mut self) -> Result<()> {
        while let Some(record) = self.next()? {
            let text = record.split_once(';').map_or(&*record, |(_, text)| text);
            if self.bad.is_match(text) {
                bail!("the kernel says: {}", text.trim());
            }
        }
        Ok(())
    }
}
