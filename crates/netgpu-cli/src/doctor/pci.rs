// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies between a NIC and the memory that it is to reach: the IOMMU, and the way to each GPU.

use std::path::Path;

use super::finding::Finding;
use crate::machine::Machine;

/// PCI base classes: displays, and accelerators without one.
const DISPLAY: u32 = 0x03;
const ACCELERATOR: u32 = 0x12;
const NVIDIA: &str = "0x10de";

/// A BAR below this shows a part of a GPU's memory only, on any GPU that is in use for computing.
const LARGE_BAR: u64 = 1 << 30;

/// Flags in a line of the file `resource`, from `include/linux/ioport.h`.
const IORESOURCE_MEM: u64 = 0x200;
const IORESOURCE_PREFETCH: u64 = 0x2000;

/// The extended capability of access control, and of its control word the bits that send a packet from device to device up to the
/// root: request redirect, completion redirect, egress control. From `include/uapi/linux/pci_regs.h`.
const PCI_EXT_CAP_ID_ACS: u32 = 0x0d;
const PCI_ACS_CTRL: usize = 6;
const ACS_REDIRECT: u16 = 0x04 | 0x08 | 0x20;

/// Whether addresses that the device uses are translated.
pub(crate) fn iommu(machine: &Machine, device: &str) -> Finding {
    const NAME: &str = "iommu";
    let group = format!("/sys/class/net/{device}/device/iommu_group");
    if !machine.has(&group) {
        return Finding::ok(NAME, format!("{device} is behind no IOMMU"));
    }
    match machine.read(&format!("{group}/type")).as_deref() {
        Ok("identity") => Finding::ok(NAME, format!("{device}: passed through (identity)")),
        Ok(mode @ ("DMA" | "DMA-FQ")) => Finding::ok(
            NAME,
            format!(
                "{device}: addresses are translated ({mode}); each region takes addresses of its own"
            ),
        ),
        Ok(mode) => Finding::warn(
            NAME,
            format!("{device}: in mode {mode}, which netgpu does not know"),
        ),
        Err(error) => Finding::skip(NAME, format!("{device} does not tell its mode: {error}")),
    }
}

/// PCI addresses of GPUs.
fn gpus(machine: &Machine) -> Vec<String> {
    let mut names = machine.names("/sys/bus/pci/devices");
    names.retain(|name| {
        machine
            .read(&format!("/sys/bus/pci/devices/{name}/class"))
            .ok()
            .and_then(|class| u32::from_str_radix(class.trim_start_matches("0x"), 16).ok())
            .is_some_and(|class| matches!(class >> 16, DISPLAY | ACCELERATOR))
    });
    names
}

/// Each GPU, as it is seen from the network devices.
pub(crate) fn gpu(machine: &Machine, devices: &[String]) -> Vec<Finding> {
    let gpus = gpus(machine);
    if gpus.is_empty() {
        return vec![Finding::skip(
            "gpu",
            "there is no GPU; memory of the host is all that can be registered",
        )];
    }
    let mut findings: Vec<Finding> = Vec::new();
    for gpu in &gpus {
        findings.push(bar(machine, gpu));
        for device in devices {
            findings.push(distance(machine, device, gpu));
        }
    }
    let is_nvidia = |gpu: &String| {
        machine
            .read(&format!("/sys/bus/pci/devices/{gpu}/vendor"))
            .is_ok_and(|vendor| vendor == NVIDIA)
    };
    if gpus.iter().any(is_nvidia) {
        findings.push(nvidia(machine));
    }
    findings
}

/// The size of the largest prefetchable BAR, of the text of a device's file `resource`.
fn largest_bar(resource: &str) -> u64 {
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let sizes = resource.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (start, end, flags) = (
            number(words.next()?)?,
            number(words.next()?)?,
            number(words.next()?)?,
        );
        let wanted = IORESOURCE_MEM | IORESOURCE_PREFETCH;
        (flags & wanted == wanted && end > start).then(|| end - start + 1)
    });
    sizes.max().unwrap_or(0)
}

fn bar(machine: &Machine, gpu: &str) -> Finding {
    const NAME: &str = "bar";
    let path = format!("/sys/bus/pci/devices/{gpu}/resource");
    match machine.read(&path).map(|text| largest_bar(&text)) {
        Ok(0) => Finding::warn(NAME, format!("GPU {gpu} shows no memory to other devices")),
        Ok(size) if size < LARGE_BAR => Finding::warn(
            NAME,
            format!(
                "GPU {gpu} shows {} MiB of its memory to other devices at a time; \"Resizable BAR\" and \"Above 4G decoding\" in the \
                 firmware's setup show all of it",
                size >> 20
            ),
        ),
        Ok(size) => Finding::ok(
            NAME,
            format!("GPU {gpu} shows {} MiB of memory", size >> 20),
        ),
        Err(error) => Finding::skip(NAME, format!("GPU {gpu}: cannot read {path}: {error}")),
    }
}

/// A device's host bridge, and the bridges from there down to the device, which is the last one.
fn way(path: &Path) -> Vec<String> {
    path.iter()
        .filter_map(|part| part.to_str())
        .skip_while(|part| !part.starts_with("pci"))
        .map(str::to_owned)
        .collect()
}

/// Whether a bridge sends what goes from device to device below it up to the root, of its configuration space.
fn redirects(config: &[u8]) -> bool {
    let word = |at: usize| Some(u16::from_le_bytes(config.get(at..at + 2)?.try_into().ok()?));
    let mut at = 0x100;
    // Each is at least four bytes long: more than this many would be a circle.
    for _ in 0..1024 {
        let Some(header) = config
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes)
        else {
            return false;
        };
        if header & 0xffff == PCI_EXT_CAP_ID_ACS {
            return word(at + PCI_ACS_CTRL).is_some_and(|control| control & ACS_REDIRECT != 0);
        }
        at = (header >> 20) as usize;
        if at < 0x100 {
            return false;
        }
    }
    false
}

fn distance(machine: &Machine, device: &str, gpu: &str) -> Finding {
    const NAME: &str = "p2p";
    let nic = machine.resolve(&format!("/sys/class/net/{device}/device"));
    let memory = machine.resolve(&format!("/sys/bus/pci/devices/{gpu}"));
    let (Ok(nic), Ok(memory)) = (nic, memory) else {
        return Finding::skip(
            NAME,
            format!("{device} and GPU {gpu}: sysfs does not tell where they are"),
        );
    };
    let (nic, memory) = (way(&nic), way(&memory));
    let common = nic
        .iter()
        .zip(&memory)
        .take_while(|(one, other)| one == other)
        .count();
    if common == 0 {
        return Finding::warn(
            NAME,
            format!(
                "{device} and GPU {gpu} are below different host bridges: slow, and not all machines can"
            ),
        );
    }
    // As the kernel's calc_map_type_and_dist() counts: steps from each up to where they meet.
    let steps = nic.len() + memory.len() - 2 * common;
    if common == 1 {
        return Finding::warn(
            NAME,
            format!(
                "{device} and GPU {gpu} meet at the host bridge only, {steps} steps apart; the kernel allows it for host bridges that it knows"
            ),
        );
    }
    // The device itself, at the end, is no bridge.
    let between = |way: &[String]| way[common..way.len() - 1].to_vec();
    let redirecting = between(&nic)
        .into_iter()
        .chain(between(&memory))
        .find(|bridge| {
            machine
                .bytes(&format!("/sys/bus/pci/devices/{bridge}/config"))
                .is_ok_and(|config| redirects(&config))
        });
    let meeting = &nic[common - 1];
    match redirecting {
        Some(bridge) => Finding::warn(
            NAME,
            format!("{device} and GPU {gpu} are both below {meeting}, {steps} steps apart, but ACS of {bridge} sends everything up to the root"),
        )
        .mend(format!("setpci -s {bridge} ECAP_ACS+6.w=0000:002c    # for good: pci=disable_acs_redir={bridge} at boot")),
        None => Finding::ok(
            NAME,
            format!("{device} and GPU {gpu} are both below {meeting}, {steps} steps apart"),
        ),
    }
}

/// Whether NVIDIA's driver is the flavour that shares memory with modules under the GPL.
fn nvidia(machine: &Machine) -> Finding {
    const NAME: &str = "nvidia";
    match machine.read("/proc/driver/nvidia/version") {
        Ok(text) if text.contains("Open Kernel Module") => {
            Finding::ok(NAME, "NVIDIA's driver is the open flavour")
        }
        Ok(_) => Finding::warn(
            NAME,
            "NVIDIA's driver is the closed flavour, which keeps its peer-to-peer functions from modules under the GPL: \
             memory of CUDA cannot be registered",
        )
        .mend("apt install nvidia-open-kernel-dkms    # or what your distribution calls its open flavour"),
        Err(_) => Finding::warn(NAME, "NVIDIA's driver is not loaded: memory of CUDA cannot be registered")
            .mend("modprobe nvidia"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;
    use crate::machine::tests::Tree;

    const ROOT: &str = "sys/devices/pci0000:00";

    /// A NIC and a GPU below one switch, and a GPU at a root port of its own.
    fn tree() -> Tree {
        let mut tree = Tree::new();
        for (name, path) in [
            ("0000:00:01.0", "0000:00:01.0"),
            ("0000:01:00.0", "0000:00:01.0/0000:01:00.0"),
            ("0000:02:00.0", "0000:00:01.0/0000:01:00.0/0000:02:00.0"),
            ("0000:02:01.0", "0000:00:01.0/0000:01:00.0/0000:02:01.0"),
            (
                "0000:03:00.0",
                "0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0",
            ),
            (
                "0000:04:00.0",
                "0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:04:00.0",
            ),
            ("0000:05:00.0", "0000:00:02.0/0000:05:00.0"),
        ] {
            let class = match name {
                "0000:03:00.0" => "0x020000",
                "0000:04:00.0" | "0000:05:00.0" => "0x030200",
                _ => "0x060400",
            };
            tree = tree.file(&format!("{ROOT}/{path}/class"), class).link(
                &format!("sys/bus/pci/devices/{name}"),
                &format!("../../../devices/pci0000:00/{path}"),
            );
        }
        tree.link(
            "sys/class/net/eth0/device",
            "../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0",
        )
    }

    /// A bridge's configuration space with ACS behind another capability.
    fn config(control: u16) -> Vec<u8> {
        let mut config = vec![0; 4096];
        config[0x100..0x104].copy_from_slice(&(0x0001_u32 | 1 << 16 | 0x148 << 20).to_le_bytes());
        config[0x148..0x14c].copy_from_slice(&(0x000d_u32 | 1 << 16).to_le_bytes());
        config[0x14e..0x150].copy_from_slice(&control.to_le_bytes());
        config
    }

    #[test]
    fn gpus_are_found_by_their_class() {
        assert_eq!(gpus(&tree()), ["0000:04:00.0", "0000:05:00.0"]);
        let found = gpu(&Tree::new(), &[]);
        assert_eq!(found[0].status, Status::Skip);
    }

    #[test]
    fn the_way_between_nic_and_gpu_is_counted() {
        let machine = tree();
        let near = distance(&machine, "eth0", "0000:04:00.0");
        assert_eq!(near.status, Status::Ok, "{near:?}");
        assert!(
            near.text.contains("below 0000:01:00.0, 4 steps"),
            "{near:?}"
        );
        let far = distance(&machine, "eth0", "0000:05:00.0");
        assert_eq!(far.status, Status::Warn);
        assert!(far.text.contains("host bridge only, 6 steps"), "{far:?}");
    }

    #[test]
    fn access_control_on_the_way_is_told() {
        let path = format!("{ROOT}/0000:00:01.0/0000:01:00.0/0000:02:01.0/config");
        for (control, status) in [(0x1d, Status::Warn), (0x11, Status::Ok), (0, Status::Ok)] {
            let machine = tree().bytes(&path, &config(control));
            let found = distance(&machine, "eth0", "0000:04:00.0");
            assert_eq!(found.status, status, "{control:#x}: {found:?}");
        }
        // That of a bridge above both does not matter.
        let path = format!("{ROOT}/0000:00:01.0/config");
        let machine = tree().bytes(&path, &config(0x1d));
        assert_eq!(
            distance(&machine, "eth0", "0000:04:00.0").status,
            Status::Ok
        );
        // Neither a list that ends nowhere, nor one without end, nor a space that is cut short.
        assert!(!redirects(&[0; 256]));
        let mut circle = config(0x1d);
        circle[0x100..0x104].copy_from_slice(&(0x0001_u32 | 0x100 << 20).to_le_bytes());
        assert!(!redirects(&circle));
        assert!(!redirects(&config(0x1d)[..0x14c]));
    }

    #[test]
    fn the_largest_bar_counts() {
        let resource = "0x00000000f8000000 0x00000000f8ffffff 0x0000000000040200\n\
                        0x0000004000000000 0x000000400fffffff 0x000000000014220c\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        assert_eq!(largest_bar(resource), 256 << 20);
        assert_eq!(largest_bar("nonsense\n"), 0);
        let path = format!("{ROOT}/0000:00:02.0/0000:05:00.0/resource");
        let found = bar(&tree().file(&path, resource), "0000:05:00.0");
        assert_eq!(found.status, Status::Warn);
        let large = "0x0000004000000000 0x0000004fffffffff 0x000000000014220c\n";
        let found = bar(&tree().file(&path, large), "0000:05:00.0");
        assert_eq!(found.status, Status::Ok);
    }

    #[test]
    fn modes_of_an_iommu() {
        assert_eq!(iommu(&tree(), "eth0").status, Status::Ok);
        let nic = format!("{ROOT}/0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0");
        for (mode, status) in [
            ("DMA", Status::Ok),
            ("DMA-FQ", Status::Ok),
            ("identity", Status::Ok),
            ("blocked", Status::Warn),
        ] {
            let machine = tree().file(&format!("{nic}/iommu_group/type"), mode);
            assert_eq!(iommu(&machine, "eth0").status, status, "{mode}");
        }
    }

    #[test]
    fn the_flavour_of_nvidias_driver() {
        let with =
            |text: &str| nvidia(&Tree::new().file("proc/driver/nvidia/version", text)).status;
        assert_eq!(
            with("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95\n"),
            Status::Ok
        );
        assert_eq!(
            with("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104\n"),
            Status::Warn
        );
        assert_eq!(nvidia(&Tree::new()).status, Status::Warn);
    }
}
