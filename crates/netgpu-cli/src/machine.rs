// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files below /proc, /sys, /dev and /lib that tell what a machine is like: of this one, or of a copy below another root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A tree of such files.
pub(crate) struct Machine {
    root: PathBuf,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        Self::at("/")
    }

    /// The one whose files lie below `root`.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The text of a file, without white space around it.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.path(path))?.trim().to_owned())
    }

    pub(crate) fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(path))
    }

    pub(crate) fn metadata(&self, path: &str) -> io::Result<fs::Metadata> {
        fs::metadata(self.path(path))
    }

    /// Names in a directory, in order.
    pub(crate) fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(self.path(path))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The same; none where there is no such directory.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        self.list(path).unwrap_or_default()
    }

    /// What a symbolic link says, be that there or not.
    pub(crate) fn link(&self, path: &str) -> io::Result<PathBuf> {
        fs::read_link(self.path(path))
    }

    /// Where a path leads through all symbolic links, from the root.
    pub(crate) fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        let root = fs::canonicalize(&self.root)?;
        let there = fs::canonicalize(self.path(path))?;
        let inside = there.strip_prefix(root).map_err(io::Error::other)?;
        Ok(Path::new("/").join(inside))
    }

    /// The last name of where a path leads.
    pub(crate) fn name_behind(&self, path: &str) -> Option<String> {
        let there = self.resolve(path).ok()?;
        Some(there.file_name()?.to_str()?.to_owned())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::ops::Deref;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Files of a machine that does not exist.
    pub(crate) struct Tree {
        dir: tempfile::TempDir,
        machine: Machine,
    }

    impl Deref for Tree {
        type Target = Machine;

        fn deref(&self) -> &Machine {
            &self.machine
        }
    }

    impl Tree {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder can be made");
            let machine = Machine::at(dir.path());
            Self { dir, machine }
        }

        fn place(&self, path: &str) -> std::path::PathBuf {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().expect("it lies in the tree"))
                .expect("a folder can be made");
            path
        }

        pub(crate) fn bytes(self, path: &str, content: &[u8]) -> Self {
            fs::write(self.place(path), content).expect("a file can be made");
            self
        }

        pub(crate) fn file(self, path: &str, text: &str) -> Self {
            self.bytes(path, text.as_bytes())
        }

        pub(crate) fn dir(self, path: &str) -> Self {
            fs::create_dir_all(self.place(path)).expect("a folder can be made");
            self
        }

        pub(crate) fn link(self, path: &str, to: &str) -> Self {
            symlink(to, self.place(path)).expect("a link can be made");
            self
        }
    }

    #[test]
    fn a_tree_is_read_from_its_root() {
        let tree = Tree::new()
            .file("proc/x", " text\n")
            .dir("sys/bus/driver")
            .link("sys/class/eth0/driver", "../../bus/driver");
        assert_eq!(tree.read("/proc/x").ok().as_deref(), Some("text"));
        assert!(tree.read("/proc/y").is_err());
        assert_eq!(tree.names("/sys"), ["bus", "class"]);
        assert!(tree.names("/none").is_empty());
        let driver = tree.resolve("/sys/class/eth0/driver").ok();
        assert_eq!(driver.as_deref(), Some(Path::new("/sys/bus/driver")));
        assert_eq!(
            tree.name_behind("/sys/class/eth0/driver").as_deref(),
            Some("driver")
        );
    }
}
