// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses on the command line: `192.0.2.1:5000`, `[2001:db8::1]:5000`, `host:5000`.

use std::net::{SocketAddr, ToSocketAddrs};

/// The address to connect to, for clap; the first one of a name.
///
/// # Errors
///
/// What is wrong with `text`, or with the name.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let example = "it is to be ADDRESS:PORT, such as 192.0.2.1:5000 or [2001:db8::1]:5000";
    match text.rsplit_once(':') {
        None => return Err(format!("there is no port; {example}")),
        // What is left of an IPv6 address without brackets has colons, too.
        Some((host, port)) if host.contains([':', ']']) || port.parse::<u16>().is_err() => {
            return Err(example.into());
        }
        Some(_) => {}
    }
    text.to_socket_addrs()
        .map_err(|error| error.to_string())?
        .next()
        .ok_or_else(|| "the name has no address".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_port() {
        for good in ["192.0.2.1:5000", "[2001:db8::1]:5000"] {
            assert_eq!(
                address(good).map(|address| address.to_string()),
                Ok(good.into())
            );
        }
        assert!(address("localhost:50").is_ok_and(|address| address.ip().is_loopback()));
        for bad in [
            "192.0.2.1",
            "2001:db8::1",
            "[2001:db8::1]",
            "host:many",
            "host:70000",
            "",
        ] {
            let told = address(bad).expect_err(bad);
            assert!(told.contains("ADDRESS:PORT"), "{bad}: {told}");
        }
    }
}
