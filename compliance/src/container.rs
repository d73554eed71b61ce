//! A container with the files of a server bound over its own.

use std::{
    cell::RefCell,
    fs,
    io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use cgview_testkit::{Cgroup, Process, Spawn};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

use crate::Server;

/// A running container: its init answers requests to read files, so that a read costs no process.
/// Dropping it kills it.
#[derive(Debug)]
pub struct Container {
    init: Process,
    cgroup: Cgroup,
    pipes: RefCell<(PipeWriter, BufReader<PipeReader>)>,
}

/// What a program in a container did.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit status; 128 and the signal, if that ended it.
    pub status: i32,
    /// Its standard output and error.
    pub text: String,
}

impl Container {
    /// Starts one in a cgroup, with pid, mount and cgroup namespaces of its own.
    #[must_use]
    pub fn start(server: &Server, cgroup: &Cgroup) -> Container {
        Container::with(server, cgroup, Spawn::new().cgroup(cgroup).container())
    }

    /// Starts one whose init is made by `spawn`, which has to give it a mount namespace.
    #[must_use]
    pub fn with(server: &Server, cgroup: &Cgroup, spawn: Spawn) -> Container {
        Container::prepared(server, cgroup, spawn, || ())
    }

    /// The same with something that the init does first.
    #[must_use]
    pub fn prepared(
        server: &Server,
        cgroup: &Cgroup,
        spawn: Spawn,
        prepare: impl FnOnce(),
    ) -> Container {
        let (requests, ask) = io::pipe().unwrap();
        let (hear, answers) = io::pipe().unwrap();
        let (proc, system) = (server.proc(cgroup), server.path("sys/devices/system"));
        let init = spawn.run(|| {
            // Nobody waits for orphans.
            // SAFETY: it has no handler.
            #[expect(unsafe_code, reason = "there is no safe name")]
            unsafe {
                libc::signal(libc::SIGCHLD, libc::SIG_IGN)
            };
            prepare();
            bind(&proc, &system);
            serve(requests, answers)
        });
        let pipes = RefCell::new((ask, BufReader::new(hear)));
        let container = Container { init, cgroup: cgroup.clone(), pipes };
        // The binds are in place with the first answer.
        assert!(container.try_read("/proc/self/stat").is_ok(), "the container does not start");
        container
    }

    /// Its init.
    #[must_use]
    pub fn init(&self) -> &Process {
        &self.init
    }

    /// The cgroup that it was started in, for the truth.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What its init reads in a file, such as `/proc/meminfo`.
    #[must_use]
    pub fn read(&self, file: &str) -> String {
        self.try_read(file).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// What its init reads in a file, or the error that it gets.
    ///
    /// # Errors
    ///
    /// That of the kernel or the server.
    pub fn try_read(&self, file: &str) -> io::Result<String> {
        let mut pipes = self.pipes.borrow_mut();
        let (ask, hear) = &mut *pipes;
        ask.write_all(format!("{file}\n").as_bytes())?;
        let mut head = String::new();
        hear.read_line(&mut head)?;
        let mut words = head.split_whitespace().map(|word| word.parse().unwrap());
        let (Some(errno), Some(length)) = (words.next(), words.next()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut text = vec![0; usize::try_from(length).unwrap()];
        hear.read_exact(&mut text)?;
        match errno {
            0 => Ok(String::from_utf8_lossy(&text).into_owned()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// A process that enters it as `docker exec` does, to be run.
    #[must_use]
    pub fn enter(&self) -> Spawn {
        self.enter_at(&self.cgroup)
    }

    /// The same in a cgroup below its own.
    #[must_use]
    pub fn enter_at(&self, cgroup: &Cgroup) -> Spawn {
        let mut names = vec!["cgroup", "mnt", "pid"];
        for name in ["time", "user"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
            if of("self") != of(&self.init.pid().to_string()) {
                names.push(name);
            }
        }
        Spawn::new().cgroup(cgroup).join(&self.init, &names)
    }

    /// Runs a shell script in it.
    #[must_use]
    pub fn try_run(&self, script: &str) -> Output {
        run(self.enter(), script)
    }

    /// Runs a shell script that is to succeed in it, and gives what it wrote.
    #[must_use]
    pub fn run(&self, script: &str) -> String {
        let Output { status, text } = self.try_run(script);
        assert_eq!(status, 0, "{script}: {text}");
        text
    }

    /// Starts a process that uses all the CPU time that it gets.
    #[must_use]
    pub fn burn(&self) -> Process {
        self.enter().run(|| burn_for(Duration::MAX))
    }

    /// Has a process use so much CPU time, and waits for its end.
    pub fn burn_for(&self, time: Duration) {
        assert_eq!(self.enter().run(|| burn_for(time)).wait(), 0);
    }
}

/// Runs a shell script in a process to be.
#[must_use]
pub fn run(spawn: Spawn, script: &str) -> Output {
    let output = tempfile::tempfile().unwrap();
    let process = spawn.run(|| {
        let (out, err) = (output.try_clone().unwrap(), output.try_clone().unwrap());
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stdin(Stdio::null()).stdout(out).stderr(err);
        command.exec().raw_os_error().unwrap_or(101)
    });
    let status = process.wait();
    let mut bytes = Vec::new();
    let mut output = &output;
    io::Seek::rewind(&mut output).unwrap();
    output.read_to_end(&mut bytes).unwrap();
    Output { status, text: String::from_utf8_lossy(&bytes).into_owned() }
}

/// Uses so much CPU time, by this thread's own clock.
fn burn_for(time: Duration) -> i32 {
    let end = i128::try_from(time.as_nanos()).unwrap();
    let clock = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
    };
    let start = clock();
    while clock() - start < end {
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
    }
    0
}

/// Makes the mounts of this process its own, and mounts the `/proc` of its pid namespace: what a runtime does
/// for a container that has another's pid namespace, for [`Container::prepared`].
pub fn mount_proc() {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap();
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).unwrap();
}

/// Binds the files below `proc`, and the directories of CPUs and nodes in `system`, over their namesakes.
fn bind(proc: &Path, system: &Path) {
    for file in files(proc) {
        let target = Path::new("/proc").join(file.strip_prefix(proc).unwrap());
        if target.exists() {
            mount_bind(&file, &target).unwrap();
        }
    }
    // Others than those that are listed are there too with LXCFS, which knows all names of the host.
    for entry in fs::read_dir(system).unwrap() {
        let name = entry.unwrap().file_name();
        let target = Path::new("/sys/devices/system").join(&name);
        if target.exists() {
            mount_bind(system.join(&name), &target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Answers each line of `requests`, which names a file, by an errno, a length and the text.
fn serve(requests: PipeReader, mut answers: PipeWriter) -> i32 {
    for line in BufReader::new(requests).lines() {
        let (errno, text) = match line.and_then(fs::read) {
            Ok(text) => (0, text),
            Err(error) => (error.raw_os_error().unwrap_or(libc::EIO), Vec::new()),
        };
        let mut answer = format!("{errno} {}\n", text.len()).into_bytes();
        answer.extend(text);
        if answers.write_all(&answer).is_err() {
            return 1;
        }
    }
    0
}
