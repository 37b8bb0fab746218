// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serves the two ports of a software ConnectX over vfio-user.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand, ValueEnum};
use connectx::control::{self, Request};
use connectx::datapath::engine;
use connectx::datapath::link::Cable;
use connectx::model::{CX5, CX7, Model};
use connectx::server::{self, PortServer};
use tracing::info;
use tracing_subscriber::EnvFilter;

/// A software ConnectX: two ports, cabled together, each a PCI function behind a vfio-user socket.
///
/// A port whose monitor has gone waits for another; it ends when the last one has gone. RUST_LOG chooses what is logged
/// (default: info).
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Args {
    /// Socket of a port; give two. They are made here and must not exist.
    #[arg(long = "port", value_name = "SOCKET", required = true)]
    ports: Vec<PathBuf>,

    /// Generation of the hardware.
    #[arg(long, value_enum, default_value_t = Profile::Cx5)]
    profile: Profile,

    /// Milliseconds that a sender waits for a receive queue without buffers before packets are
    /// dropped; 0 never waits.
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pause_ms: u64,

    /// Socket for `connectx ctl`, which makes things go wrong. It is made here and must not exist.
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Asks a running connectx to do something to its cable or ports.
    Ctl {
        /// The socket of its --control.
        socket: PathBuf,
        #[command(subcommand)]
        request: Request,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    /// ConnectX-5.
    Cx5,
    /// ConnectX-7: striding receive queues, header split, hardware GRO.
    Cx7,
}

impl Profile {
    fn model(self) -> &'static dyn Model {
        match self {
            Self::Cx5 => &CX5,
            Self::Cx7 => &CX7,
        }
    }
}

/// Sends the request and prints what the answer has to say.
fn ask(socket: &Path, request: &Request) -> anyhow::Result<()> {
    let answer = control::ask(socket, request).with_context(|| {
        format!(
            "cannot ask at {}; is a connectx running with --control?",
            socket.display()
        )
    })?;
    if let Some(refusal) = answer.error {
        return Err(anyhow!(refusal));
    }
    if let Some(fates) = answer.fates {
        for (port, fates) in fates.iter().enumerate() {
            println!("from port {port}: {}", serde_json::to_string(fates)?);
        }
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(Command::Ctl { socket, request }) = &args.command {
        return ask(socket, request);
    }
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env()
        .context("RUST_LOG is not a list of filters such as connectx=debug")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    let [a, b] = args.ports.as_slice() else {
        return Err(anyhow!(
            "a cable has two ends: give --port twice, not {}",
            args.ports.len()
        ));
    };

    let pause = Duration::from_millis(args.pause_ms);
    let cable = Arc::new(Cable::new(args.profile.model(), pause));
    let servers = [
        PortServer::listen(a, cable.clone(), 0)?,
        PortServer::listen(b, cable.clone(), 1)?,
    ];
    if let Some(path) = &args.control {
        control::serve(path, cable.clone()).with_context(|| {
            format!(
                "cannot listen at {}; is another connectx running, or did one leave it behind?",
                path.display()
            )
        })?;
    }
    info!(
        "waiting for monitors at {} and {}",
        a.display(),
        b.display()
    );

    thread::scope(|scope| {
        for port in 0..2 {
            let cable = &cable;
            thread::Builder::new()
                .name(format!("engine{port}"))
                .spawn_scoped(scope, move || engine::run(cable, port))?;
        }
        let result = server::serve(servers);
        cable.bells.iter().for_each(|bell| bell.stop());
        // Which writes what is buffered.
        (0..2).for_each(|port| cable.change_wire(port, |wire| wire.capture(None)));
        Ok(result?)
    })
}
