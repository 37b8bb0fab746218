// SPDX-License-Identifier: MIT OR Apache-2.0
//! One network device: its driver, and the settings that receiving takes.

use crate::device::{DataSplit, Fact, Facts};

use super::finding::{Finding, Status};
use super::pci;
use crate::machine::Machine;

/// Drivers that let others have receive queues and split headers; netgpu was run on the first only.
const DRIVERS: [&str; 4] = ["mlx5_core", "bnxt_en", "fbnic", "gve"];

/// The kernel's name of what `ethtool -K DEVICE ntuple` turns on.
const NTUPLE: &str = "rx-ntuple-filter";
const LRO: &str = "rx-lro";

const IFF_UP: u32 = 1;

/// Name of the kernel's driver of a network device; [`None`] for one that is no hardware.
pub(crate) fn driver_of(machine: &Machine, device: &str) -> Option<String> {
    machine.name_behind(&format!("/sys/class/net/{device}/device/driver"))
}

/// Whether it is worth while to look closer.
pub(crate) fn may_serve(driver: &str) -> bool {
    DRIVERS.contains(&driver)
}

/// All that is to be said of the settings of one device.
pub(crate) fn all(machine: &Machine, facts: &Facts) -> Vec<Finding> {
    let driver = driver(machine, facts);
    if driver.status == Status::Fail {
        // The rest would say of no NIC how well it is set up.
        return vec![driver];
    }
    vec![
        driver,
        link(machine, facts),
        channels(facts),
        split(facts),
        ntuple(facts),
        rss(facts),
        xdp(facts),
        owner(facts),
        pci::iommu(machine, &facts.device),
    ]
}

/// The fact, or that it is missing.
fn know<'a, T>(check: &'static str, device: &str, fact: &'a Fact<T>) -> Result<&'a T, Finding> {
    fact.as_ref()
        .map_err(|why| Finding::skip(check, format!("{device} does not tell: {why}")))
}

fn driver(machine: &Machine, facts: &Facts) -> Finding {
    const NAME: &str = "driver";
    let device = &facts.device;
    let Some(driver) = driver_of(machine, device) else {
        return Finding::fail(
            NAME,
            format!(
                "{device} is no hardware that reads and writes memory; netgpu takes the port of a NIC"
            ),
        );
    };
    let firmware = match &facts.driver {
        Ok((_, firmware)) if !firmware.is_empty() => format!(", firmware {firmware}"),
        _ => String::new(),
    };
    if driver == DRIVERS[0] {
        Finding::ok(NAME, format!("{device}: {driver}{firmware}"))
    } else if may_serve(&driver) {
        Finding::warn(
            NAME,
            format!(
                "{device}: {driver}{firmware}; netgpu should work with it, and nobody has tried"
            ),
        )
    } else {
        Finding::warn(
            NAME,
            format!(
                "{device}: {driver}{firmware}; netgpu does not know whether it gives receive queues to others; sending works"
            ),
        )
    }
}

fn link(machine: &Machine, facts: &Facts) -> Finding {
    const NAME: &str = "link";
    let device = &facts.device;
    let read = |file: &str| {
        machine
            .read(&format!("/sys/class/net/{device}/{file}"))
            .ok()
    };
    let flags = read("flags")
        .and_then(|flags| u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
    if flags.is_none_or(|flags| flags & IFF_UP == 0) {
        return Finding::fail(NAME, format!("{device} is down"))
            .mend(format!("ip link set dev {device} up"));
    }
    if read("carrier").as_deref() != Some("1") {
        return Finding::warn(
            NAME,
            format!("{device} is up, without a carrier: no cable, or the other end is down"),
        );
    }
    let mtu = read("mtu").unwrap_or_default();
    Finding::ok(NAME, format!("{device} is up, MTU {mtu}"))
}

fn channels(facts: &Facts) -> Finding {
    const NAME: &str = "channels";
    let device = &facts.device;
    let channels = match know(NAME, device, &facts.channels) {
        Ok(channels) => channels,
        Err(finding) => return finding,
    };
    let queues = channels.combined + channels.receive;
    if facts.queue >= queues && queues >= 2 {
        return Finding::fail(
            NAME,
            format!(
                "{device} has no receive queue {}: {queues} are in use, counted from 0",
                facts.queue
            ),
        )
        .mend(format!("ethtool -L {device} combined {}", facts.queue + 1));
    }
    if queues >= 2 {
        return Finding::ok(
            NAME,
            format!(
                "{device} has {queues} receive queues, {} is for netgpu",
                facts.queue
            ),
        );
    }
    let finding = Finding::fail(
        NAME,
        format!(
            "{device} has {queues} receive queue in use; netgpu takes one, and all other traffic needs another"
        ),
    );
    if channels.most_combined >= 2 {
        finding.mend(format!("ethtool -L {device} combined 2"))
    } else {
        finding
    }
}

fn split(facts: &Facts) -> Finding {
    const NAME: &str = "hds";
    let device = &facts.device;
    let rings = match know(NAME, device, &facts.rings) {
        Ok(rings) => rings,
        Err(finding) => return finding,
    };
    let threshold = match rings.split_threshold {
        Some(0) | None => "",
        Some(_) => " hds-thresh 0",
    };
    if rings.data_split != DataSplit::On {
        let lro = facts
            .features
            .as_ref()
            .is_ok_and(|features| features.active.contains(LRO));
        let first = if lro {
            format!("ethtool -K {device} lro off; ")
        } else {
            String::new()
        };
        return Finding::fail(
            NAME,
            format!("{device} does not split headers from payload (hds), so payload cannot go to memory of its own"),
        )
        .mend(format!(
            "{first}ethtool -G {device} tcp-data-split on{threshold}"
        ));
    }
    match rings.split_threshold {
        Some(bytes) if bytes > 0 => Finding::fail(
            NAME,
            format!(
                "{device} splits headers from payload only of packets of more than {bytes} bytes"
            ),
        )
        .mend(format!("ethtool -G {device} hds-thresh 0")),
        _ => Finding::ok(NAME, format!("{device} splits headers from payload")),
    }
}

fn ntuple(facts: &Facts) -> Finding {
    const NAME: &str = "ntuple";
    let device = &facts.device;
    let rules = match &facts.rules {
        Ok(rules) => *rules,
        Err(why) => {
            let finding = Finding::fail(
                NAME,
                format!(
                    "{device} takes no steering rules, so connections cannot be led to a queue: {why}"
                ),
            );
            let may = facts.features.as_ref().is_ok_and(|features| {
                features.changeable.contains(NTUPLE) && !features.active.contains(NTUPLE)
            });
            return if may {
                finding.mend(format!("ethtool -K {device} ntuple on"))
            } else {
                finding
            };
        }
    };
    let features = match know(NAME, device, &facts.features) {
        Ok(features) => features,
        Err(finding) => return finding,
    };
    if features.active.contains(NTUPLE) {
        Finding::ok(
            NAME,
            format!("{device} takes n-tuple rules, and has {rules}"),
        )
    } else if features.changeable.contains(NTUPLE) {
        Finding::warn(
            NAME,
            format!(
                "{device} has n-tuple rules turned off; mlx5 takes them all the same, others do not"
            ),
        )
        .mend(format!("ethtool -K {device} ntuple on"))
    } else {
        Finding::warn(
            NAME,
            format!(
                "{device} says that it has no n-tuple rules, which would lead connections to a queue"
            ),
        )
    }
}

fn rss(facts: &Facts) -> Finding {
    const NAME: &str = "rss";
    let (device, queue) = (&facts.device, facts.queue);
    let table = match know(NAME, device, &facts.rss) {
        Ok(table) => table,
        Err(finding) => return finding,
    };
    if table.is_empty() {
        return Finding::skip(
            NAME,
            format!("{device} does not tell how it spreads connections"),
        );
    }
    if !table.contains(&queue) {
        return Finding::ok(
            NAME,
            format!("{device} keeps connections that are not steered off queue {queue}"),
        );
    }
    let finding = Finding::fail(
        NAME,
        format!(
            "{device} spreads connections over queue {queue} too, whose packets would be netgpu's"
        ),
    );
    let queues = facts
        .channels
        .as_ref()
        .map_or(0, |channels| channels.combined + channels.receive);
    if queues < 2 {
        return finding;
    }
    let command = if queue + 1 == queues {
        format!("equal {queue}")
    } else {
        let weights: Vec<&str> = (0..queues)
            .map(|other| if other == queue { "0" } else { "1" })
            .collect();
        format!("weight {}", weights.join(" "))
    };
    finding.mend(format!("ethtool -X {device} {command}"))
}

fn xdp(facts: &Facts) -> Finding {
    const NAME: &str = "xdp";
    let device = &facts.device;
    match know(NAME, device, &facts.xdp) {
        Ok(false) => Finding::ok(NAME, format!("{device} runs no XDP program")),
        Ok(true) => Finding::fail(
            NAME,
            format!("{device} runs an XDP program, which would have to read what the CPU cannot"),
        )
        .mend(format!("ip link set dev {device} xdp off")),
        Err(finding) => finding,
    }
}

fn owner(facts: &Facts) -> Finding {
    const NAME: &str = "queue";
    let (device, queue) = (&facts.device, facts.queue);
    match know(NAME, device, &facts.owner) {
        Ok(None) => Finding::ok(NAME, format!("queue {queue} of {device} is nobody else's")),
        Ok(Some(owner)) => Finding::fail(
            NAME,
            format!(
                "{owner} has queue {queue} of {device}; end the program, or take another queue with --queue"
            ),
        ),
        Err(finding) => finding,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::device::{Channels, Features, Owner, Rings};
    use crate::machine::tests::Tree;

    /// A device that is set up.
    fn facts() -> Facts {
        let names = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        Facts {
            device: "eth0".into(),
            driver: Ok(("mlx5_core".into(), "16.35.2000".into())),
            channels: Ok(Channels {
                combined: 4,
                receive: 0,
                most_combined: 8,
            }),
            features: Ok(Features {
                active: names(&[NTUPLE]),
                changeable: names(&[NTUPLE, LRO]),
            }),
            rings: Ok(Rings {
                data_split: DataSplit::On,
                split_threshold: Some(0),
            }),
            rss: Ok(vec![0, 1, 2, 0]),
            rules: Ok(2),
            xdp: Ok(false),
            queue: 3,
            owner: Ok(None),
        }
    }

    fn tree() -> Tree {
        Tree::new()
            .dir("sys/bus/pci/drivers/mlx5_core")
            .link(
                "sys/devices/pci0000:00/0000:01:00.0/driver",
                "../../../bus/pci/drivers/mlx5_core",
            )
            .link(
                "sys/class/net/eth0/device",
                "../../../devices/pci0000:00/0000:01:00.0",
            )
            .file("sys/class/net/eth0/flags", "0x1003\n")
            .file("sys/class/net/eth0/carrier", "1\n")
            .file("sys/class/net/eth0/mtu", "1500\n")
    }

    fn mend(finding: &Finding) -> &str {
        finding.mend.as_deref().unwrap_or_default()
    }

    #[test]
    fn a_device_that_is_set_up_is_well() {
        for finding in all(&tree(), &facts()) {
            assert_eq!(finding.status, Status::Ok, "{finding:?}");
        }
    }

    #[test]
    fn other_drivers_are_a_warning_and_no_hardware_a_failure() {
        let machine = tree()
            .dir("sys/bus/pci/drivers/e1000e")
            .link(
                "sys/devices/pci0000:00/0000:02:00.0/driver",
                "../../../bus/pci/drivers/e1000e",
            )
            .link(
                "sys/class/net/eth1/device",
                "../../../devices/pci0000:00/0000:02:00.0",
            );
        assert_eq!(driver_of(&machine, "eth1").as_deref(), Some("e1000e"));
        let of = |device: &str| Facts {
            device: device.into(),
            ..facts()
        };
        assert_eq!(driver(&machine, &of("eth1")).status, Status::Warn);
        assert_eq!(driver(&machine, &of("lo")).status, Status::Fail);
        assert_eq!(all(&machine, &of("lo")).len(), 1);
        assert!(driver(&machine, &facts()).text.contains("16.35.2000"));
    }

    #[test]
    fn a_link_is_down_or_without_a_carrier() {
        let down = tree().file("sys/class/net/eth0/flags", "0x1002\n");
        let found = link(&down, &facts());
        assert_eq!(
            (found.status, mend(&found)),
            (Status::Fail, "ip link set dev eth0 up")
        );
        let loose = tree().file("sys/class/net/eth0/carrier", "0\n");
        assert_eq!(link(&loose, &facts()).status, Status::Warn);
    }

    #[test]
    fn two_queues_are_needed() {
        let with = |combined, most_combined, queue| Facts {
            channels: Ok(Channels {
                combined,
                receive: 0,
                most_combined,
            }),
            queue,
            ..facts()
        };
        let found = channels(&with(1, 8, 0));
        assert_eq!(
            (found.status, mend(&found)),
            (Status::Fail, "ethtool -L eth0 combined 2")
        );
        let found = channels(&with(1, 1, 0));
        assert_eq!((found.status, mend(&found)), (Status::Fail, ""));
        let found = channels(&with(4, 8, 6));
        assert_eq!(
            (found.status, mend(&found)),
            (Status::Fail, "ethtool -L eth0 combined 7")
        );
        let unknown = Facts {
            channels: Err("Operation not supported".into()),
            ..facts()
        };
        assert_eq!(channels(&unknown).status, Status::Skip);
    }

    #[test]
    fn headers_are_to_be_split_always() {
        let with = |data_split, split_threshold| Facts {
            rings: Ok(Rings {
                data_split,
                split_threshold,
            }),
            ..facts()
        };
        let off = "ethtool -G eth0 tcp-data-split on";
        for data_split in [DataSplit::Off, DataSplit::Unknown] {
            let found = split(&with(data_split, None));
            assert_eq!((found.status, mend(&found)), (Status::Fail, off));
        }
        let found = split(&with(DataSplit::Off, Some(256)));
        assert_eq!(mend(&found), format!("{off} hds-thresh 0"));
        let found = split(&with(DataSplit::On, Some(256)));
        assert_eq!(
            (found.status, mend(&found)),
            (Status::Fail, "ethtool -G eth0 hds-thresh 0")
        );
        // What keeps it from being turned on goes first.
        let mut merging = with(DataSplit::Off, None);
        if let Ok(features) = &mut merging.features {
            features.active.insert(LRO.into());
        }
        assert_eq!(
            mend(&split(&merging)),
            format!("ethtool -K eth0 lro off; {off}")
        );
    }

    #[test]
    fn rules_are_refused_or_turned_off() {
        let refused = Facts {
            rules: Err("Operation not supported".into()),
            ..facts()
        };
        let found = ntuple(&refused);
        assert_eq!((found.status, mend(&found)), (Status::Fail, ""));
        let mut off = facts();
        if let Ok(features) = &mut off.features {
            features.active.clear();
        }
        let found = ntuple(&off);
        assert_eq!(
            (found.status, mend(&found)),
            (Status::Warn, "ethtool -K eth0 ntuple on")
        );
        off.rules = refused.rules;
        let found = ntuple(&off);
        assert_eq!(
            (found.status, mend(&found)),
            (Status::Fail, "ethtool -K eth0 ntuple on")
        );
    }

    #[test]
    fn rss_leaves_the_queue_out_by_the_exact_command() {
        let with = |queue| Facts {
            rss: Ok(vec![0, 1, 2, 3]),
            queue,
            ..facts()
        };
        let found = rss(&with(3));
        assert_eq!(
            (found.status, mend(&found)),
            (Status::Fail, "ethtool -X eth0 equal 3")
        );
        assert_eq!(mend(&rss(&with(1))), "ethtool -X eth0 weight 1 0 1 1");
        let none = Facts {
            rss: Ok(Vec::new()),
            ..facts()
        };
        assert_eq!(rss(&none).status, Status::Skip);
    }

    #[test]
    fn who_has_the_device_already_is_told() {
        let busy = Facts {
            xdp: Ok(true),
            owner: Ok(Some(Owner::AfXdp)),
            ..facts()
        };
        assert_eq!(mend(&xdp(&busy)), "ip link set dev eth0 xdp off");
        let found = owner(&busy);
        assert_eq!(found.status, Status::Fail);
        assert!(found.text.contains("AF_XDP has queue 3"), "{found:?}");
    }
}
