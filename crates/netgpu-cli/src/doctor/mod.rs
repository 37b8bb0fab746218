// SPDX-License-Identifier: MIT OR Apache-2.0
//! `netgpu doctor`: what stops netgpu from working on this machine, and the commands that mend it.

mod finding;
mod nic;
mod pci;
mod system;

use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::device::Facts;
use crate::machine::Machine;
use crate::style;

use finding::{Finding, Status};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Network device to look at [default: each whose driver may work with netgpu].
    #[arg(value_name = "DEVICE")]
    device: Option<String>,
    /// Receive queue that netgpu is to have [default: the last one].
    #[arg(long, requires = "device")]
    queue: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// All that was found.
#[derive(Serialize)]
struct Report {
    /// Nothing stops netgpu.
    works: bool,
    findings: Vec<Finding>,
}

/// Success: nothing stops netgpu.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let machine = Machine::here();
    let mut findings = vec![
        system::kernel(&machine),
        system::module(&machine),
        system::device(&machine, open()),
        system::rights(&machine),
        system::memlock(&machine),
        system::huge_pages(&machine),
    ];
    let devices = match &arguments.device {
        Some(device) => vec![device.clone()],
        None => candidates(&machine, &mut findings),
    };
    for device in &devices {
        match Facts::of(device, arguments.queue) {
            Ok(facts) => findings.extend(nic::all(&machine, &facts)),
            Err(error) => findings.push(Finding::fail("driver", crate::chain(&error))),
        }
    }
    findings.extend(pci::gpu(&machine, &devices));

    let report = Report {
        works: findings.iter().all(|found| found.status != Status::Fail),
        findings,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report, &devices);
    }
    Ok(if report.works {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Opens /dev/netgpu, and tells why that fails.
fn open() -> Result<(), String> {
    netgpu::MemoryArea::new()
        .map(drop)
        .map_err(|error| crate::chain(&error.into()))
}

/// The network devices that netgpu may be used with. What others are there is told.
fn candidates(machine: &Machine, findings: &mut Vec<Finding>) -> Vec<String> {
    let mut devices = Vec::new();
    for device in machine.names("/sys/class/net") {
        match nic::driver_of(machine, &device) {
            Some(driver) if nic::may_serve(&driver) => devices.push(device),
            Some(driver) => findings.push(Finding::skip(
                "driver",
                format!("{device}: {driver}; `netgpu doctor {device}` looks at it all the same"),
            )),
            None => {}
        }
    }
    if devices.is_empty() {
        findings.push(Finding::fail(
            "driver",
            "there is no NIC here whose driver gives receive queues to others",
        ));
    }
    devices
}

fn print(report: &Report, devices: &[String]) {
    for Finding {
        check,
        status,
        text,
        mend,
    } in &report.findings
    {
        let colour = style_of(*status);
        anstream::println!("{colour}{:<4}{colour:#}  {check:<9}  {text}", status.word());
        if let Some(command) = mend {
            anstream::println!(
                "{:<15}  {}{command}{:#}",
                "",
                style::COMMAND,
                style::COMMAND
            );
        }
    }
    let count = |status| {
        report
            .findings
            .iter()
            .filter(|found| found.status == status)
            .count()
    };
    anstream::println!(
        "{} ok, {} warn, {} fail, {} skip",
        count(Status::Ok),
        count(Status::Warn),
        count(Status::Fail),
        count(Status::Skip)
    );
    let mended_by_setup = |found: &&Finding| {
        found.status == Status::Fail && matches!(found.check, "channels" | "hds" | "rss")
    };
    if let [device] = devices
        && report.findings.iter().filter(mended_by_setup).count() > 0
    {
        anstream::println!(
            "`netgpu setup {device}` mends channels, hds, ntuple and rss at once, and `netgpu restore {device}` undoes it"
        );
    }
}

fn style_of(status: Status) -> Style {
    let colour = match status {
        Status::Ok => AnsiColor::Green,
        Status::Warn => AnsiColor::Yellow,
        Status::Fail => AnsiColor::Red,
        Status::Skip => AnsiColor::BrightBlack,
    };
    colour.on_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::Tree;

    #[test]
    fn candidates_are_those_whose_driver_may_do() {
        let mut tree = Tree::new().file("sys/class/net/lo/flags", "0x9\n");
        for (device, driver) in [("eth0", "e1000e"), ("eth1", "mlx5_core")] {
            tree = tree.dir(&format!("sys/bus/pci/drivers/{driver}")).link(
                &format!("sys/class/net/{device}/device/driver"),
                &format!("../../../../bus/pci/drivers/{driver}"),
            );
        }
        let mut findings = Vec::new();
        assert_eq!(candidates(&tree, &mut findings), ["eth1"]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].status, Status::Skip);

        let mut findings = Vec::new();
        assert!(candidates(&Tree::new(), &mut findings).is_empty());
        assert_eq!(findings[0].status, Status::Fail);
    }
}
