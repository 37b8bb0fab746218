// SPDX-License-Identifier: MIT OR Apache-2.0
//! The search: programs that reach something new are kept, and others are made of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::mutate::{mutate, new_program};
use crate::program::Program;
use crate::runner::{Reached, Runner, hash};

/// A search.
pub struct Fuzz {
    runner: Runner,
    corpus: Vec<Program>,
    reached: Reached,
    /// Where programs are put that reached something new.
    out: PathBuf,
}

/// What a search has come to.
pub struct Found {
    /// How often a program was run.
    pub runs: u64,
    /// Programs that are worth to be kept.
    pub corpus: usize,
    /// How many of them are new.
    pub new: usize,
    /// Things reached.
    pub reached: usize,
    /// Places in the module that are among them.
    pub places: usize,
}

/// The programs in the files of a folder, by the order of their names.
pub fn read_corpus(folder: &Path) -> Result<Vec<(PathBuf, Program)>> {
    let mut paths = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let program = fs::read_to_string(&path)
                .map_err(Into::into)
                .and_then(|text| text.parse())
                .with_context(|| path.display().to_string())?;
            Ok((path, program))
        })
        .collect()
}

/// Of some programs, those that together reach what all do: few, and those that reach most.
pub fn distill(
    runner: &mut Runner,
    programs: Vec<(PathBuf, Program)>,
) -> Result<Vec<(PathBuf, Program)>> {
    let mut rest = programs
        .into_iter()
        .map(|named| Ok((runner.run(&named.1)?.reached, named)))
        .collect::<Result<Vec<_>>>()?;
    let mut reached = Reached::new();
    let mut kept = Vec::new();
    loop {
        rest.retain(|(reaches, _)| !reaches.is_subset(&reached));
        let most = (0..rest.len()).max_by_key(|&n| rest[n].0.difference(&reached).count());
        let Some(most) = most else { return Ok(kept) };
        let (reaches, named) = rest.swap_remove(most);
        reached.extend(reaches);
        kept.push(named);
    }
}

impl Fuzz {
    /// Runs every program of the corpus, to begin with.
    pub fn new(runner: Runner, programs: Vec<Program>, out: PathBuf) -> Result<Self> {
        let mut fuzz = Self {
            runner,
            corpus: Vec::new(),
            reached: Reached::new(),
            out,
        };
        for program in programs {
            fuzz.reached.extend(fuzz.runner.run(&program)?.reached);
            fuzz.corpus.push(program);
        }
        Ok(fuzz)
    }

    /// Searches for so long, as the seed has it.
    pub fn search(&mut self, time: Duration, seed: u64) -> Result<Found> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let end = Instant::now() + time;
        let mut tell = Instant::now() + Duration::from_secs(60);
        let before = self.corpus.len();
        while Instant::now() < end {
            let mut program = match self.corpus.choose(&mut rng) {
                Some(program) if !rng.random_ratio(1, 20) => program.clone(),
                _ => new_program(&mut rng),
            };
            mutate(&mut program, &self.corpus, &mut rng);
            self.judge(program)?;
            if Instant::now() > tell {
                tell += Duration::from_secs(60);
                println!("# {}", self.found(before));
            }
        }
        Ok(self.found(before))
    }

    fn found(&self, before: usize) -> Found {
        Found {
            runs: self.runner.runs,
            corpus: self.corpus.len(),
            new: self.corpus.len() - before,
            reached: self.reached.len(),
            places: self.runner.places.len(),
        }
    }

    /// Runs a program, and keeps what of it reaches something new.
    fn judge(&mut self, mut program: Program) -> Result<()> {
        let first = self.runner.run(&program)?.reached;
        if first.is_subset(&self.reached) {
            return Ok(());
        }
        // What other tasks do, and interrupts, comes and goes.
        let again = self.runner.run(&program)?.reached;
        let new: Reached = first
            .intersection(&again)
            .filter(|r| !self.reached.contains(r))
            .copied()
            .collect();
        self.reached.extend(first);
        self.reached.extend(again);
        if new.is_empty() {
            return Ok(());
        }
        for n in (0..program.calls.len()).rev() {
            let mut shorter = program.clone();
            shorter.calls.remove(n);
            let reached = self.runner.run(&shorter)?.reached;
            if new.is_subset(&reached) {
                program = shorter;
            }
            self.reached.extend(reached);
        }
        let text = format!("# SPDX-License-Identifier: MIT OR Apache-2.0\n{program}");
        let path = self.out.join(format!("{:016x}", hash(&text)));
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        self.corpus.push(program);
        Ok(())
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            runs,
            corpus,
            new,
            reached,
            places,
        } = self;
        write!(
            f,
            "runs {runs} programs {corpus} new {new} reached {reached} places {places}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::MAX_CALLS;

    #[test]
    fn the_corpus_is_of_programs() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus");
        let corpus = read_corpus(Path::new(folder)).unwrap();
        assert!(!corpus.is_empty());
        for (path, program) in corpus {
            let calls = program.calls.len();
            assert!(
                (1..=MAX_CALLS).contains(&calls),
                "{}: {calls} calls",
                path.display()
            );
        }
    }
}
