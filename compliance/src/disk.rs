//! A disk of a test's own.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use cgview_testkit::skip;
use tempfile::TempDir;

/// A loop device (loop(4)) over a file. Dropping it takes it away.
#[derive(Debug)]
pub struct Disk {
    device: PathBuf,
    dir: TempDir,
    mounted: bool,
}

impl Disk {
    /// One of so many bytes; if this machine has no loop devices, says that the test is skipped.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Disk> {
        // Where it is built in, there is no such module.
        let _ = Command::new("modprobe").arg("loop").output();
        let dir = TempDir::new().unwrap();
        // All of it is there, so that what a container writes needs no more memory than its own.
        let mut file = File::create(dir.path().join("disk")).unwrap();
        let block = vec![0; 1 << 20];
        for _ in 0..bytes.div_ceil(1 << 20) {
            file.write_all(&block).unwrap();
        }
        file.sync_all().unwrap();
        let arguments = ["--find", "--show"];
        let output = Command::new("losetup").args(arguments).arg(dir.path().join("disk")).output();
        let output = output.unwrap();
        if !output.status.success() {
            skip(&format!(
                "needs a loop device: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
            return None;
        }
        let device = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        Some(Disk { device, dir, mounted: false })
    }

    /// Makes a file system on it, and mounts that.
    pub fn mount(&mut self) -> PathBuf {
        let mountpoint = self.dir.path().join("mnt");
        fs::create_dir(&mountpoint).unwrap();
        let _ = Command::new("modprobe").arg("ext4").output();
        // Blocks of a page each, as on larger disks: smaller ones take memory of the kernel's. Nothing is
        // discarded: a file in memory would then be made again by whoever writes, and be theirs.
        let options = ["-q", "-F", "-b", "4096", "-O", "^has_journal", "-E", "nodiscard"];
        run(Command::new("mkfs.ext4").args(options).arg(&self.device));
        run(Command::new("mount").args(["-o", "noatime"]).arg(&self.device).arg(&mountpoint));
        self.mounted = true;
        mountpoint
    }

    /// Its file in `/dev`.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Its major and minor number.
    #[must_use]
    pub fn number(&self) -> (u32, u32) {
        let number = fs::metadata(&self.device).unwrap().rdev();
        (rustix::fs::major(number), rustix::fs::minor(number))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let mountpoint = self.dir.path().join("mnt");
            let _ = rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH);
        }
        // When nobody has it open any more, the kernel lets go of it.
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
