// SPDX-License-Identifier: MIT OR Apache-2.0
//! Colours are for terminals.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// What `netgpu doctor lo`, which is no NIC, says to `stdout`; on a terminal that has colours.
fn doctor(stdout: Stdio) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netgpu"));
    command
        .args(["doctor", "lo"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR")
        .env_remove("CLICOLOR_FORCE")
        .stdout(stdout);
    command
}

/// The same, to a terminal.
fn on_a_terminal(configure: impl FnOnce(&mut Command)) -> String {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are ptys");
    grantpt(&controller).expect("it is ours");
    unlockpt(&controller).expect("it is ours");
    let name = ptsname(&controller, Vec::new()).expect("it has a name");
    let terminal = File::options()
        .read(true)
        .write(true)
        .open(Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())))
        .expect("it can be opened");
    let mut command = doctor(terminal.into());
    configure(&mut command);
    let mut child = command.spawn().expect("netgpu runs");
    // Its copy of the terminal, without which there is an end to what is read.
    drop(command);
    let mut said = Vec::new();
    let mut part = [0; 4096];
    let mut controller = File::from(controller);
    // At the end it is EIO.
    while let Ok(count @ 1..) = controller.read(&mut part) {
        said.extend_from_slice(&part[..count]);
    }
    child.wait().expect("it ends");
    String::from_utf8(said).expect("it is text")
}

#[test]
fn colours_are_for_terminals() {
    let fail = "\u{1b}[31mfail";
    let coloured = on_a_terminal(|_| {});
    assert!(coloured.contains(fail), "{coloured:?}");

    let refused = on_a_terminal(|command| {
        command.env("NO_COLOR", "1");
    });
    assert!(refused.contains("fail"), "{refused:?}");
    assert!(!refused.contains('\u{1b}'), "{refused:?}");

    let piped = doctor(Stdio::piped()).output().expect("netgpu runs");
    let piped = String::from_utf8(piped.stdout).expect("it is text");
    assert!(piped.contains("fail"), "{piped:?}");
    assert!(!piped.contains('\u{1b}'), "{piped:?}");
}
