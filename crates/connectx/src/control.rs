// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing things while traffic runs: requests over a Unix socket.
//!
//! A request is a line of JSON, such as `{"do":"impair","from":0,"impairment":{"drop":0.01}}`; so is the answer: `{"ok":true}`,
//! with more fields where the request asks for something, or `{"ok":false,"error":"…"}`. A connection
//! can be used for any number of requests.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::cmd;
use crate::datapath::link::{self, Cable};
use crate::fault::capture::Capture;
use crate::fault::wire::Fates;
use crate::fault::{BadImpairment, Impairment};

/// What can be asked for. Ports are 0 and 1, in the order that they were given in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Set what the cable does to frames; what is not given is off.
    Impair {
        /// The port whose frames are meant; both without it.
        #[arg(long)]
        from: Option<usize>,
        /// What is done.
        #[command(flatten)]
        #[serde(default)]
        impairment: Impairment,
    },
    /// Start the random decisions over, from a seed.
    Seed {
        /// The seed.
        value: u64,
    },
    /// Take the light off the cable, or give it back.
    Link {
        /// Whether the cable carries signal.
        #[arg(action = clap::ArgAction::Set)]
        up: bool,
    },
    /// Take the light off the cable for a while. The answer comes when it is back.
    Flap {
        /// How long, in milliseconds.
        milliseconds: u64,
    },
    /// Pull the cable's plug out of a port, or put it in.
    Plug {
        /// The port.
        port: usize,
        /// Whether it is in.
        #[arg(action = clap::ArgAction::Set)]
        on: bool,
    },
    /// Pull a port's card out of its slot while the host uses it, or put one in. An empty slot reads as ones. The host is not told:
    /// it has to look (`remove` and `rescan` of Linux).
    Card {
        /// The port.
        port: usize,
        /// Whether there is one.
        #[arg(action = clap::ArgAction::Set)]
        on: bool,
    },
    /// Let a port's receive queues seem to have no buffers, or no longer.
    Starve {
        /// The port.
        port: usize,
        /// Whether they do.
        #[arg(action = clap::ArgAction::Set)]
        on: bool,
    },
    /// Let send entries of a port fail with an error completion, as when their memory cannot be reached.
    FailSends {
        /// The port.
        port: usize,
        /// How many.
        #[arg(default_value_t = 1)]
        #[serde(default = "one")]
        count: u32,
    },
    /// Let receive entries of a port fail with an error completion, as when their memory cannot be reached.
    FailReceives {
        /// The port.
        port: usize,
        /// How many.
        #[arg(default_value_t = 1)]
        #[serde(default = "one")]
        count: u32,
    },
    /// Take commands of a port's driver and do not answer them.
    StickCommands {
        /// The port.
        port: usize,
        /// How many; with 0, those that wait get their answers.
        #[arg(default_value_t = 1)]
        #[serde(default = "one")]
        count: u32,
    },
    /// Answer commands of a port's driver that they failed for a reason of the firmware's own.
    FailCommands {
        /// The port.
        port: usize,
        /// The opcode of those that fail, as the driver's `enum MLX5_CMD_OP_*` has it.
        opcode: u16,
        /// How many.
        #[arg(default_value_t = 1)]
        #[serde(default = "one")]
        count: u32,
    },
    /// Stop a port with a firmware assert, until its driver resets it.
    Assert {
        /// The port.
        port: usize,
        /// Health syndrome; 1 is a firmware internal error.
        #[arg(default_value_t = 1)]
        #[serde(default = "one_byte")]
        syndrome: u8,
    },
    /// Write what goes over the cable to a pcapng file, or end that.
    Capture {
        /// The file; without it the capture ends.
        file: Option<PathBuf>,
    },
    /// Tell what has become of frames that went over an impaired cable, by port that sent them.
    Fates,
}

fn one() -> u32 {
    1
}

fn one_byte() -> u8 {
    1
}

/// Why a request was not met. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not a request.
    #[error("not a request: {0}")]
    Syntax(#[from] serde_json::Error),
    /// No such port.
    #[error("there is no port {0}; ports are 0 and 1")]
    Port(usize),
    /// An impossible value.
    #[error(transparent)]
    Impairment(#[from] BadImpairment),
    /// A health syndrome that says all is well.
    #[error("syndrome 0 says that all is well; give another one")]
    Well,
    /// The capture file.
    #[error("cannot capture to {path}: {source}")]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An answer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Whether what was asked has been done.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What [`Request::Fates`] asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fates: Option<[Fates; 2]>,
}

impl Request {
    /// Does what is asked to `cable`. Only [`Request::Fates`] has an answer.
    pub fn run(self, cable: &Cable) -> Result<Option<[Fates; 2]>, Refused> {
        match self {
            Self::Impair { from, impairment } => {
                impairment.check()?;
                let ports = match from {
                    Some(port) => check(port)?..=port,
                    None => 0..=1,
                };
                for port in ports {
                    cable.change_wire(port, |wire| wire.impair(impairment.clone()));
                }
            }
            Self::Seed { value } => {
                for port in 0..2 {
                    cable.change_wire(port, |wire| wire.seed(value.wrapping_add(port as u64)));
                }
            }
            Self::Link { up } => light(cable, up),
            Self::Flap { milliseconds } => {
                light(cable, false);
                thread::sleep(Duration::from_millis(milliseconds));
                light(cable, true);
            }
            Self::Plug { port, on } => {
                let mut ports = cable.ports.write();
                ports[check(port)?].plug(on);
                link::update(&mut ports);
            }
            Self::Card { port, on } => {
                let mut ports = cable.ports.write();
                ports[check(port)?].seat(on);
                link::update(&mut ports);
            }
            Self::Starve { port, on } => cable.ports.read()[check(port)?].faults.starve(on),
            Self::FailSends { port, count } => {
                cable.ports.read()[check(port)?].faults.fail_sends(count);
            }
            Self::FailReceives { port, count } => {
                cable.ports.read()[check(port)?].faults.fail_receives(count);
            }
            Self::StickCommands { port, count } => {
                let ports = &mut cable.ports.write();
                let faults = &mut ports[check(port)?].faults;
                faults.stuck_commands = count;
                if count == 0 {
                    let late = std::mem::take(&mut faults.stuck_slots);
                    cmd::doorbell(ports, port, late);
                }
            }
            Self::FailCommands {
                port,
                opcode,
                count,
            } => {
                cable.ports.write()[check(port)?].faults.failing_commands = Some((opcode, count));
            }
            Self::Assert { port, syndrome } => {
                check(port)?;
                if syndrome == 0 {
                    return Err(Refused::Well);
                }
                cable.ports.read()[port].registers.set_assert(syndrome);
            }
            Self::Capture { file } => {
                let capture = file
                    .map(|path| {
                        Capture::create(&path).map_err(|source| Refused::Capture { path, source })
                    })
                    .transpose()?;
                for port in 0..2 {
                    cable.change_wire(port, |wire| wire.capture(capture.clone()));
                }
            }
            Self::Fates => return Ok(Some([0, 1].map(|port| cable.fates(port)))),
        }
        Ok(None)
    }
}

fn check(port: usize) -> Result<usize, Refused> {
    if port < 2 {
        Ok(port)
    } else {
        Err(Refused::Port(port))
    }
}

fn light(cable: &Cable, up: bool) {
    let mut ports = cable.ports.write();
    ports.iter_mut().for_each(|port| port.faults.dark = !up);
    link::update(&mut ports);
}

/// Answers requests about `cable` at a new socket at `path`, in threads of its own, for the life of the process.
pub fn serve(path: &Path, cable: Arc<Cable>) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for connection in listener.incoming() {
                let cable = cable.clone();
                let served = connection.and_then(|stream| {
                    thread::Builder::new()
                        .name("control".into())
                        .spawn(move || {
                            // The other end has gone: there is nobody to tell.
                            let _ = converse(&stream, &cable);
                        })
                });
                if let Err(error) = served {
                    warn!("control connection: {error}");
                }
            }
        })?;
    Ok(())
}

/// The longest line that is read.
const LONGEST: u64 = 64 << 10;

fn converse(stream: &UnixStream, cable: &Cable) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if io::Read::take(&mut reader, LONGEST).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let result =
            serde_json::from_str(&line)
                .map_err(Refused::from)
                .and_then(|request: Request| {
                    info!("asked to {request:?}");
                    request.run(cable)
                });
        let answer = match result {
            Ok(fates) => Answer {
                ok: true,
                fates,
                ..Answer::default()
            },
            Err(refused) => Answer {
                error: Some(refused.to_string()),
                ..Answer::default()
            },
        };
        write_line(stream, &answer)?;
    }
}

/// Writes a request or an answer.
fn write_line(mut stream: &UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    stream.write_all(text.as_bytes())
}

/// Sends a request to the socket at `path` and returns the answer.
pub fn ask(path: &Path, request: &Request) -> io::Result<Answer> {
    let stream = UnixStream::connect(path)?;
    write_line(&stream, request)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CX5;

    fn cable() -> Cable {
        Cable::new(&CX5, Duration::ZERO)
    }

    fn request(text: &str) -> Result<Option<[Fates; 2]>, String> {
        let request: Request = serde_json::from_str(text).map_err(|error| error.to_string())?;
        request.run(&cable()).map_err(|refused| refused.to_string())
    }

    #[test]
    fn requests_are_lines_of_json() {
        let impair = r#"{"do":"impair","from":1,"impairment":{"drop":0.25,"delay-us":100}}"#;
        let parsed: Request = serde_json::from_str(impair).unwrap();
        let impairment = Impairment {
            drop: 0.25,
            delay_us: 100,
            ..Default::default()
        };
        assert_eq!(
            parsed,
            Request::Impair {
                from: Some(1),
                impairment
            }
        );
        let back = serde_json::to_string(&parsed).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&back).unwrap(), parsed);
        for text in [
            r#"{"do":"impair"}"#,
            r#"{"do":"seed","value":7}"#,
            r#"{"do":"link","up":false}"#,
            r#"{"do":"fail-sends","port":0}"#,
            r#"{"do":"fates"}"#,
        ] {
            assert!(request(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        assert_eq!(
            request(r#"{"do":"starve","port":2,"on":true}"#).unwrap_err(),
            "there is no port 2; ports are 0 and 1"
        );
        assert!(
            request(r#"{"do":"impair","impairment":{"drop":2}}"#)
                .unwrap_err()
                .contains("between 0 and 1")
        );
        assert!(request(r#"{"do":"impair","drop":0.1}"#).is_err());
        assert!(request(r#"{"do":"impair","impairment":{"dorp":0.1}}"#).is_err());
        assert!(request(r#"{"do":"dance"}"#).unwrap_err().contains("dance"));
        assert!(
            request(r#"{"do":"assert","port":0,"syndrome":0}"#)
                .unwrap_err()
                .contains("well")
        );
        assert!(
            request(r#"{"do":"capture","file":"/nonexistent/x"}"#)
                .unwrap_err()
                .contains("/nonexistent/x")
        );
    }

    #[test]
    fn light_goes_off_and_on_for_both_ends() {
        let cable = cable();
        for port in cable.ports.write().iter_mut() {
            port.hca.vport.admin_up = true;
        }
        let up = |expected| {
            cable
                .ports
                .read()
                .iter()
                .all(|port| port.link_up() == expected)
        };
        Request::Link { up: true }.run(&cable).unwrap();
        assert!(up(true));
        Request::Link { up: false }.run(&cable).unwrap();
        assert!(up(false));
        Request::Flap { milliseconds: 1 }.run(&cable).unwrap();
        assert!(up(true));
        for on in [false, true] {
            Request::Plug { port: 1, on }.run(&cable).unwrap();
            assert!(up(on));
        }
    }
}
