// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is made of the command line's own description: completions for shells, and man pages.

use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};

#[derive(Args)]
pub(crate) struct CompletionArguments {
    shell: clap_complete::Shell,
}

#[derive(Args)]
pub(crate) struct ManArguments {
    /// Where to put them.
    directory: PathBuf,
}

/// Prints the completions for a shell.
pub(crate) fn completions(arguments: &CompletionArguments, mut command: Command) {
    clap_complete::generate(arguments.shell, &mut command, "netgpu", &mut io::stdout());
}

/// Writes a page for the command and each of its subcommands.
pub(crate) fn man(arguments: &ManArguments, command: Command) -> Result<()> {
    let directory = &arguments.directory;
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(command, directory))
        .with_context(|| format!("cannot write man pages to {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn each_subcommand_has_a_page() {
        let dir = tempfile::tempdir().expect("a folder");
        let arguments = ManArguments {
            directory: dir.path().join("man1"),
        };
        man(&arguments, crate::Cli::command()).expect("they can be written");
        for command in crate::Cli::command().get_subcommands() {
            let page = dir
                .path()
                .join(format!("man1/netgpu-{}.1", command.get_name()));
            assert_eq!(page.exists(), !command.is_hide_set(), "{}", page.display());
        }
        assert!(dir.path().join("man1/netgpu.1").exists());
        assert!(dir.path().join("man1/netgpu-pad-on.1").exists());
    }
}
