// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stream from one plain-peer to another.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

fn plain_peer() -> Command {
    Command::new(env!("CARGO_BIN_EXE_plain-peer"))
}

/// Sends with these arguments; the last lines of the sender and the receiver.
fn send(arguments: &[&str]) -> (String, String) {
    let mut receiver = plain_peer()
        .args(["recv", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the receiver starts");
    let mut first = String::new();
    let stderr = receiver.stderr.take().expect("it is piped");
    BufReader::new(stderr)
        .read_line(&mut first)
        .expect("the receiver says where it listens");
    let address = first
        .trim_end()
        .rsplit(' ')
        .next()
        .expect("a line has words");

    let sender = plain_peer()
        .args(["send", address])
        .args(arguments)
        .output()
        .expect("the sender starts");
    let receiver = receiver.wait_with_output().expect("the receiver ends");
    (line(&sender), line(&receiver))
}

fn line(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).expect("it prints text")
}

fn word_after<'a>(line: &'a str, word: &str) -> &'a str {
    let mut words = line.split_whitespace();
    words
        .find(|found| *found == word)
        .expect("the line has the word");
    words.next().expect("the line goes on")
}

#[test]
fn a_stream_arrives_as_it_was_sent() {
    let (sent, received) = send(&["--bytes", "3000001", "--seed", "7"]);
    assert_eq!(word_after(&sent, "sent"), "3000001");
    assert_eq!(word_after(&received, "received"), "3000001");
    assert_eq!(word_after(&sent, "sha256"), word_after(&received, "sha256"));
}

#[test]
fn a_seed_determines_the_stream() {
    let hash = |seed| {
        let (sent, _) = send(&["--bytes", "100000", "--seed", seed]);
        word_after(&sent, "sha256").to_owned()
    };
    assert_eq!(hash("1"), hash("1"));
    assert_ne!(hash("1"), hash("2"));
}

#[test]
fn an_empty_file_is_a_stream_too() {
    let (sent, received) = send(&["--file", "/dev/null"]);
    assert_eq!(
        (word_after(&sent, "sent"), word_after(&received, "received")),
        ("0", "0")
    );
}
