//! What containers of the tests have for a root: BusyBox, and procps's programs with their libraries.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A root directory.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
}

/// What is asked.
const PROGRAMS: [&str; 3] = ["/usr/bin/free", "/usr/bin/top", "/usr/bin/uptime"];

/// The terminal that top wants to know, where Debian has it, from 14 on and before.
const TERMINALS: [&str; 2] = ["/usr/share/terminfo/d/dumb", "/lib/terminfo/d/dumb"];

impl Image {
    /// Makes one in a directory, which is made, too.
    #[must_use]
    pub fn make(path: &Path) -> Image {
        for dir in ["bin", "dev", "etc", "proc", "sys", "tmp", "run", "root", "var"] {
            fs::create_dir_all(path.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", path.join("bin/busybox")).unwrap();
        // Not the copy: a child that another test makes at this moment may have it open for writing still.
        let names = output(Command::new("/bin/busybox").arg("--list"));
        for name in names.lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", path.join("bin").join(name)).unwrap();
        }
        for program in PROGRAMS {
            copy(Path::new(program), path);
            for library in output(Command::new("ldd").arg(program)).split_whitespace() {
                if library.starts_with('/') && !path.join(&library[1..]).exists() {
                    copy(Path::new(library), path);
                }
            }
        }
        let terminal = TERMINALS.map(Path::new).into_iter().find(|file| file.exists());
        copy(terminal.expect("needs ncurses-base"), path);
        fs::write(path.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::write(path.join("etc/group"), "root:x:0:\n").unwrap();
        Image { path: path.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Packs it, for `docker import`.
    #[must_use]
    pub fn tar(&self) -> PathBuf {
        let tar = self.path.with_extension("tar");
        output(Command::new("tar").arg("-C").arg(&self.path).arg("-cf").arg(&tar).arg("."));
        tar
    }
}

fn copy(file: &Path, root: &Path) {
    let target = root.join(file.strip_prefix("/").unwrap());
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(file, target).unwrap();
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
