// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sends what it reads from stdin.

use std::error::Error;
use std::io::{self, Read};
use std::net::TcpStream;

use netgpu::{Backing, Context, HostMemory, MemoryArea, SocketConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, address] = &arguments[..] else {
        return Err("usage: send DEVICE ADDRESS:PORT".into());
    };

    let context = Context::open(device)?;
    let memory = MemoryArea::new()?.add(HostMemory::new(1 << 20, Backing::Anonymous)?)?;
    context.attach(&memory)?;
    let config = SocketConfig {
        send: true,
        ..SocketConfig::default()
    };
    let mut socket = context.attach_socket(TcpStream::connect(address)?, config)?;

    let mut input = io::stdin().lock();
    loop {
        let Some(mut span) = memory.take(65536) else {
            // All of it is under way: a send that has finished frees its span.
            socket.completion()?;
            continue;
        };
        let count = input.read(&mut span)?;
        if count == 0 {
            break;
        }
        let mut payload = span.into_payload(0..count);
        while !payload.is_empty() {
            if socket.try_send(&mut payload)? == 0 {
                socket.completion()?;
            }
        }
    }
    while socket.completion()?.is_some() {}
    // When a connection fails, its sends have finished, too.
    socket.check()?;
    eprintln!("{:?}", socket.statistics()?);
    Ok(())
}
