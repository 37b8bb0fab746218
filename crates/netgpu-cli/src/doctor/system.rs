// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel, the module, its device, and what this process may do.

use std::os::unix::fs::MetadataExt;

use super::finding::Finding;
use crate::machine::Machine;

/// Functions that only a kernel with the patches has, of those that can be seen from outside.
const PATCHED: [&str; 2] = ["net_mp_ops_valid", "netif_mp_try_close_rxq"];
/// The same of mlx5_core, when it is loaded.
const PATCHED_MLX5: [&str; 3] = [
    "mlx5e_hds_at_offset",
    "mlx5e_hds_max_mtu",
    "mlx5e_has_memory_provider",
];

const CAP_NET_ADMIN: u32 = 12;
const CAP_IPC_LOCK: u32 = 14;

/// As much as `netgpu recv` registers when nothing is said.
const MEMORY: u64 = 64 << 20;

/// Whether the kernel was built with the series in `patches/`.
pub(crate) fn kernel(machine: &Machine) -> Finding {
    const NAME: &str = "kernel";
    let release = machine
        .read("/proc/sys/kernel/osrelease")
        .unwrap_or_else(|_| "this kernel".into());
    let Ok(symbols) = machine.read("/proc/kallsyms") else {
        return Finding::skip(
            NAME,
            format!(
                "{release}: /proc/kallsyms cannot be read (CONFIG_KALLSYMS), which would tell whether it has the patches"
            ),
        );
    };
    let mlx5: &[&str] = if machine.has("/sys/module/mlx5_core") {
        &PATCHED_MLX5
    } else {
        &[]
    };
    let mut missing: Vec<&str> = PATCHED.iter().chain(mlx5).copied().collect();
    for line in symbols.lines() {
        // Address, type, name, and the module in brackets.
        let name = line.split_ascii_whitespace().nth(2);
        missing.retain(|wanted| name != Some(*wanted));
    }
    if missing.is_empty() {
        Finding::ok(NAME, format!("{release} has netgpu's patches"))
    } else {
        Finding::fail(
            NAME,
            format!(
                "{release} lacks patches of netgpu, by these functions: {}",
                missing.join(", ")
            ),
        )
        .mend(
            "make kernel-deb && apt install -t trixie-backports ./build/deb/*.deb    # in netgpu's sources; takes hours; boot it then. \
             Or apply patches/series to your own kernel",
        )
    }
}

/// Whether the package netgpu-dkms is installed.
fn is_packaged(machine: &Machine) -> bool {
    machine.names("/usr/src").iter().any(|name| {
        name.starts_with("netgpu-") && machine.has(&format!("/usr/src/{name}/dkms.conf"))
    })
}

/// Whether the module is loaded.
pub(crate) fn module(machine: &Machine) -> Finding {
    const NAME: &str = "module";
    if machine.has("/sys/module/netgpu") {
        return Finding::ok(NAME, "netgpu is loaded");
    }
    let release = machine
        .read("/proc/sys/kernel/osrelease")
        .unwrap_or_default();
    let known = machine
        .read(&format!("/lib/modules/{release}/modules.dep"))
        .is_ok_and(|modules| {
            modules
                .lines()
                .filter_map(|line| line.split_once(':'))
                .any(|(file, _)| {
                    file.rsplit('/')
                        .next()
                        .is_some_and(|name| name.starts_with("netgpu.ko"))
                })
        });
    if known {
        Finding::fail(NAME, "netgpu is not loaded").mend("modprobe netgpu")
    } else {
        Finding::fail(NAME, format!("netgpu is not installed for {release}")).mend(
            if is_packaged(machine) {
                format!("dkms autoinstall -k {release} && modprobe netgpu    # needs the headers of this kernel")
            } else {
                format!(
                    "make modules_install KDIR=/lib/modules/{release}/build && depmod && modprobe netgpu    # in netgpu's sources"
                )
            },
        )
    }
}

/// Whether /dev/netgpu can be opened and speaks this program's version; `opened` is what came of opening it.
pub(crate) fn device(machine: &Machine, opened: Result<(), String>) -> Finding {
    const NAME: &str = "device";
    const PATH: &str = "/dev/netgpu";
    let why = match opened {
        Ok(()) => {
            return Finding::ok(
                NAME,
                format!("{PATH} opens, with this program's version of the API"),
            );
        }
        Err(why) => why,
    };
    let Ok(there) = machine.metadata(PATH) else {
        return Finding::skip(
            NAME,
            format!("there is no {PATH} before the module is loaded"),
        );
    };
    let finding = Finding::fail(NAME, why);
    if there.mode() & 0o007 != 0 {
        finding
    } else if there.gid() != 0 {
        finding.mend("usermod -a -G netgpu \"$USER\"    # and log in again")
    } else if is_packaged(machine) {
        finding.mend("apt install --reinstall netgpu-dkms && udevadm trigger /dev/netgpu")
    } else {
        finding.mend(
            "groupadd -rf netgpu && install -m 644 dist/60-netgpu.rules /lib/udev/rules.d/ && udevadm trigger /dev/netgpu    # in \
             netgpu's sources",
        )
    }
}

/// The bit mask of effective capabilities, of the text of `/proc/self/status`.
fn capabilities(status: &str) -> Option<u64> {
    let digits = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

fn has(machine: &Machine, capability: u32) -> bool {
    machine
        .read("/proc/self/status")
        .ok()
        .and_then(|status| capabilities(&status))
        .is_some_and(|mask| mask & 1 << capability != 0)
}

/// Whether this process may take a receive queue.
pub(crate) fn rights(machine: &Machine) -> Finding {
    const NAME: &str = "rights";
    if has(machine, CAP_NET_ADMIN) {
        Finding::ok(
            NAME,
            "this process has CAP_NET_ADMIN, which receiving takes",
        )
    } else {
        Finding::warn(
            NAME,
            "without CAP_NET_ADMIN this process can send, but take no receive queue, and set up no device",
        )
        .mend("sudo netgpu doctor    # receive as root, or with this capability")
    }
}

/// The soft limit of locked memory in bytes, of the text of `/proc/self/limits`; the inner [`None`]: unlimited.
fn locked_memory(limits: &str) -> Option<Option<u64>> {
    let rest = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    match rest.split_ascii_whitespace().next()? {
        "unlimited" => Some(None),
        bytes => bytes.parse().ok().map(Some),
    }
}

/// How much memory this process may register.
pub(crate) fn memlock(machine: &Machine) -> Finding {
    const NAME: &str = "memlock";
    if has(machine, CAP_IPC_LOCK) {
        return Finding::ok(NAME, "this process has CAP_IPC_LOCK: memory is not limited");
    }
    match machine
        .read("/proc/self/limits")
        .ok()
        .and_then(|limits| locked_memory(&limits))
    {
        None => Finding::skip(NAME, "/proc/self/limits does not tell RLIMIT_MEMLOCK"),
        Some(None) => Finding::ok(NAME, "RLIMIT_MEMLOCK is unlimited"),
        Some(Some(bytes)) if bytes >= MEMORY => {
            Finding::ok(NAME, format!("RLIMIT_MEMLOCK is {} MiB", bytes >> 20))
        }
        Some(Some(bytes)) => Finding::warn(
            NAME,
            format!(
                "RLIMIT_MEMLOCK is {} KiB, so no more can be registered; `netgpu recv` takes {} MiB when nothing is said",
                bytes >> 10,
                MEMORY >> 20
            ),
        )
        .mend("ulimit -l unlimited    # for good: `* - memlock unlimited` in /etc/security/limits.d/"),
    }
}

/// Huge pages, which only `--huge` needs.
pub(crate) fn huge_pages(machine: &Machine) -> Finding {
    const NAME: &str = "hugepages";
    let read = |file: &str| {
        machine
            .read(&format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{file}"))
            .ok()?
            .parse::<u64>()
            .ok()
    };
    match (read("nr_hugepages"), read("free_hugepages")) {
        (Some(0), _) => Finding::ok(
            NAME,
            "none are reserved, so `--huge` cannot be used; `sysctl vm.nr_hugepages=64` reserves 128 MiB",
        ),
        (Some(all), Some(free)) => Finding::ok(NAME, format!("{free} of {all} of 2 MiB are free")),
        _ => Finding::skip(NAME, "this kernel has none of 2 MiB (CONFIG_HUGETLBFS)"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;
    use crate::machine::tests::Tree;

    fn patched() -> Tree {
        Tree::new()
            .file("proc/sys/kernel/osrelease", "7.3.4-netgpu\n")
            .file(
                "proc/kallsyms",
                "0 T net_mp_ops_valid\n0 T netif_mp_try_close_rxq\n",
            )
    }

    #[test]
    fn patches_are_told_by_their_functions() {
        let found = kernel(&patched());
        assert_eq!(found.status, Status::Ok, "{found:?}");

        let found = kernel(&patched().file("proc/kallsyms", "0 T netif_rx\n"));
        assert_eq!(found.status, Status::Fail);
        assert!(found.text.contains("net_mp_ops_valid"), "{found:?}");

        // The driver's are asked for only when it is there.
        let found = kernel(&patched().file("sys/module/mlx5_core/refcnt", "0"));
        assert_eq!(found.status, Status::Fail);
        assert!(found.text.contains("mlx5e_hds_at_offset"), "{found:?}");

        assert_eq!(kernel(&Tree::new()).status, Status::Skip);
    }

    #[test]
    fn a_module_is_loaded_or_known_or_not_installed() {
        let loaded = patched().file("sys/module/netgpu/refcnt", "0");
        assert_eq!(module(&loaded).status, Status::Ok);

        let known = patched().file(
            "lib/modules/7.3.4-netgpu/modules.dep",
            "updates/netgpu.ko.xz: kernel/x.ko\n",
        );
        let found = module(&known);
        assert_eq!(
            (found.status, found.mend.as_deref()),
            (Status::Fail, Some("modprobe netgpu"))
        );

        let other = patched().file(
            "lib/modules/7.3.4-netgpu/modules.dep",
            "updates/netgpu_nvidia.ko: updates/netgpu.ko\n",
        );
        let found = module(&other);
        assert!(found.text.contains("not installed"), "{found:?}");
        // Without KDIR nothing is installed into this machine's modules.
        let mend = found.mend.as_deref().unwrap_or_default();
        assert!(
            mend.contains(" KDIR=/lib/modules/7.3.4-netgpu/build "),
            "{mend}"
        );
        let packaged = other.file("usr/src/netgpu-0.1.0/dkms.conf", "");
        let found = module(&packaged);
        let mend = found.mend.as_deref().unwrap_or_default();
        assert!(
            mend.starts_with("dkms autoinstall -k 7.3.4-netgpu "),
            "{mend}"
        );
    }

    #[test]
    fn a_device_that_does_not_open_says_why() {
        let machine = Tree::new();
        assert_eq!(device(&machine, Ok(())).status, Status::Ok);
        assert_eq!(
            device(&machine, Err("no such file".into())).status,
            Status::Skip
        );
        let there = Tree::new().file("dev/netgpu", "");
        let found = device(&there, Err("another version".into()));
        assert_eq!(found.status, Status::Fail);
        assert_eq!(found.text, "another version");
    }

    #[test]
    fn locked_memory_is_limited_unless_it_may_be() {
        let limits = |soft: &str| {
            Tree::new()
                .file("proc/self/status", "Name:\tx\nCapEff:\t0000000000001000\n")
                .file(
                    "proc/self/limits",
                    &format!("Limit  Soft Limit  Hard Limit  Units\nMax locked memory         {soft}    8388608    bytes\n"),
                )
        };
        assert_eq!(memlock(&limits("unlimited")).status, Status::Ok);
        assert_eq!(memlock(&limits("67108864")).status, Status::Ok);
        let found = memlock(&limits("67108863"));
        assert_eq!(found.status, Status::Warn);
        let free = limits("65536").file("proc/self/status", "CapEff:\t0000000000005000\n");
        assert_eq!(memlock(&free).status, Status::Ok);
    }

    #[test]
    fn receiving_takes_a_capability() {
        let with = |mask: &str| Tree::new().file("proc/self/status", &format!("CapEff:\t{mask}\n"));
        assert_eq!(rights(&with("000001ffffffffff")).status, Status::Ok);
        assert_eq!(rights(&with("0000000000001000")).status, Status::Ok);
        assert_eq!(rights(&with("0000000000004000")).status, Status::Warn);
    }
}
