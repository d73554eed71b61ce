//! `cgview run` on a real kernel, with the tools that people use.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::{Tree, skip};
use rustix::process::{Pid, Signal, kill_process};

/// How long what should happen at once may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether runs can be made here, with these controllers; if not, says that the test is skipped.
fn can_run(controllers: &[&str]) -> bool {
    if Tree::with(controllers).is_none() {
        return false;
    }
    if !Path::new("/dev/fuse").exists() {
        skip("needs /dev/fuse");
        return false;
    }
    true
}

/// A run to be, of a command line of the shell's.
fn run(options: &str, script: &str) -> Command {
    // Whoever runs the tests may ignore signals, as shells do for jobs in the background.
    let mut command = Command::new("env");
    command.args(["--default-signal", env!("CARGO_BIN_EXE_cgview"), "run", "--view", "own"]);
    command.args(options.split_whitespace());
    command.args(["--", "sh", "-c", script]).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// What a run printed, if its exit status is 0.
fn output(options: &str, script: &str) -> String {
    let Output { status, stdout, stderr } = run(options, script).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{status}: {stderr}");
    assert_eq!(stderr, "");
    String::from_utf8(stdout).unwrap()
}

/// A run under way. Dropping it kills it.
struct Running {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Running {
    /// Starts it, and waits for the first line that it prints.
    fn start(mut command: Command) -> (Running, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the run printed nothing");
        (Running { child, stdout }, line)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// The exit status, 128 and the signal if one ended cgview itself, and the rest of what was printed.
    fn wait(mut self) -> (i32, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        (shell_status(status), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shell_status(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// The cgroups of a run, in all hierarchies.
fn cgroups(pid: u32) -> Vec<PathBuf> {
    let name = format!("cgview.run-{pid}");
    let roots = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    roots
        .chain([PathBuf::from("/sys/fs/cgroup")])
        .map(|root| root.join(&name))
        .filter(|dir| dir.exists())
        .collect()
}

/// The processes of a run, the init first.
fn processes(pid: u32) -> Vec<u32> {
    let dirs = cgroups(pid);
    let procs = dirs.iter().map(|dir| fs::read_to_string(dir.join("cgroup.procs")).unwrap());
    let text = procs.max_by_key(String::len).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Waits until something holds.
#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn assert_nothing_left(pid: u32, processes: &[u32]) {
    let alive = |pid: &u32| {
        // One that nobody has reaped yet is dead all the same.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    eventually("processes are left", || !processes.iter().any(alive));
    eventually("cgroups are left", || cgroups(pid).is_empty());
}

fn number(text: &str) -> f64 {
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn online() -> usize {
    thread::available_parallelism().unwrap().get()
}

#[test]
fn memory_is_the_limit_for_free_and_top() {
    if !can_run(&["memory"]) {
        return;
    }
    let free = output("--memory 256M --swap 0", "free -b");
    let words = |name: &str| -> Vec<String> {
        let line = free.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words("Mem:")[1], (256 << 20).to_string(), "{free}");
    // The shell and free itself.
    assert!(number(&words("Mem:")[2]) < f64::from(64 << 20), "{free}");
    assert_eq!(words("Swap:")[1], "0", "{free}");
    let top = output("--memory 256M --swap 0", "top -bn1");
    assert!(top.contains("MiB Mem :    256.0 total"), "{top}");
}

#[test]
fn memory_in_use_is_seen_and_the_limit_holds() {
    if !can_run(&["memory"]) {
        return;
    }
    // tail prints nothing before it has all that it is to keep.
    let script =
        "head -c 100M /dev/zero | tail -c 100M | (head -c 1 >/dev/null; free -m; cat >/dev/null)";
    let free = output("--memory 256M --swap 0", script);
    let used =
        free.lines().find(|line| line.starts_with("Mem:")).unwrap().split_whitespace().nth(2);
    let used = number(used.unwrap());
    assert!((100.0..200.0).contains(&used), "{free}");

    let Output { status, stderr, .. } =
        run("--memory 32M --swap 0", "exec tail /dev/zero").output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(shell_status(status), 137, "{stderr}");
    assert_eq!(stderr, "cgview: warning: the kernel killed 1 process at the memory limit\n");
}

#[test]
fn all_agree_on_the_number_of_cpus() {
    if !can_run(&["cpu", "cpuset"]) {
        return;
    }
    for (cpus, shown) in [("0.5", 1), ("1", 1), ("1.5", 2), ("100", usize::MAX)] {
        let shown = shown.min(online());
        let script = "nproc; nproc --all; grep -c ^processor /proc/cpuinfo; grep -c '^cpu[0-9]' /proc/stat; \
                      ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l; getconf _NPROCESSORS_ONLN";
        let counts = output(&format!("--cpus {cpus}"), script);
        assert_eq!(counts, format!("{shown}\n").repeat(6), "{cpus} CPUs");
    }
}

#[test]
fn a_cpuset_is_what_the_command_runs_on() {
    if !can_run(&["cpuset"]) {
        return;
    }
    let last = online() - 1;
    let text = output(
        &format!("--cpuset {last}"),
        "nproc; cat /sys/devices/system/cpu/online; grep Cpus_allowed_list /proc/self/status",
    );
    assert_eq!(text, format!("1\n0\nCpus_allowed_list:\t{last}\n"));
    let refused = run("--cpuset 8191", "true").output().unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr.starts_with("cgview: cannot run on CPU 8191\n\nhint: "), "{stderr}");
}

#[test]
fn runs_at_the_same_time_have_different_cpus() {
    if !can_run(&["cpu", "cpuset"]) {
        return;
    }
    if online() < 2 {
        return skip("needs two CPUs");
    }
    let script = "grep Cpus_allowed_list /proc/self/status; exec sleep 60";
    // Others may run too; but two that start one after the other do not get the same CPU while there is
    // another one with fewer runs.
    let cpu = |run: &Running| {
        let dirs = cgroups(run.pid());
        let files = dirs.iter().map(|dir| fs::read_to_string(dir.join("cpuset.cpus")));
        files.flatten().find(|text| !text.trim().is_empty()).unwrap()
    };
    let runs: Vec<Running> =
        (0..2 * online()).map(|_| Running::start(run("--cpus 1", script)).0).collect();
    let mut used: Vec<String> = runs.iter().map(cpu).collect();
    used.sort();
    used.dedup();
    assert!(used.len() > 1, "all runs are on {used:?}");
}

#[test]
fn a_container_s_root_cgroup_is_left_as_it_is() {
    if !can_run(&["memory"]) {
        return;
    }
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return skip("needs cgroup v2 at /sys/fs/cgroup");
    }
    // The cgroup namespace of a container whose processes are in its root.
    let tree = Tree::new().unwrap();
    let cgroup = tree.cgroup("container");
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec unshare --cgroup --mount sh -c '
        mount -t cgroup2 cgroup2 /mnt && umount -l /sys/fs/cgroup && mount --move /mnt /sys/fs/cgroup &&
        {{ {cgview} run --view own --memory 64M true; {cgview} run --view own true; echo $?; }}
        cat /sys/fs/cgroup/cgroup.type /sys/fs/cgroup/cgroup.subtree_control'",
        cgroup.dirs()[0].display(),
        cgview = env!("CARGO_BIN_EXE_cgview"),
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr
            .starts_with("cgview: cannot enable the memory controller in /sys/fs/cgroup\n\nhint: "),
        "{stderr}"
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0\ndomain\n", "{stderr}");
}

#[test]
fn age_begins_with_the_run() {
    if !can_run(&[]) {
        return;
    }
    if !Path::new("/proc/self/timens_offsets").exists() {
        return skip("needs time namespaces");
    }
    let script = "sleep 2; cut -d' ' -f1 /proc/uptime; ps -o etimes= -p 1; ps -o etimes= -p $$; \
                  uptime -p; date +%s; btime=$(grep btime /proc/stat | cut -d' ' -f2); echo $btime; \
                  ps -o stime= -p 1; for s in -1 0 1 2; do date -d @$((btime + s)) +%H:%M; done";
    let text = output("", script);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[..3] {
        assert!((2.0..15.0).contains(&number(line)), "{text}");
    }
    assert_eq!(lines[3], "up 0 minutes");
    let booted = number(lines[4]) - number(lines[5]);
    assert!((1.0..16.0).contains(&booted), "{text}");
    // ps(1) adds up two clocks, each in whole seconds.
    assert!(lines[7..].contains(&lines[6]), "{text}");
}

#[test]
fn the_container_is_alone_in_ps_and_in_its_cgroup() {
    if !can_run(&["pids"]) {
        return;
    }
    let text = output("--pids 30", "ps -e -o pid=,comm=; cat /proc/self/cgroup");
    let words: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["1", "cgview-init"]);
    assert_eq!(words[1], ["2", "sh"]);
    assert_eq!(words[2][1], "ps");
    assert!(words[3..].iter().all(|line| line[0].ends_with(":/")), "{text}");
    // The limit is where programs look for it.
    let max =
        output("--pids 30", "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>&-; true");
    assert_eq!(max, "30\n");
    let status = run("--pids 5", "for i in 1 2 3 4 5 6; do sleep 5 & done").output().unwrap();
    assert!(!status.status.success());
}

#[test]
fn the_exit_status_is_the_command_s() {
    if !can_run(&[]) {
        return;
    }
    for (script, expected) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ] {
        let status = run("", script).status().unwrap();
        assert_eq!(shell_status(status), expected, "{script}");
    }
    for (program, expected, message) in [
        ("no-such-program", 127, "cgview: cannot run no-such-program: No such file"),
        ("/etc/passwd", 126, "cgview: cannot run /etc/passwd: Permission denied"),
        ("/", 126, "cgview: cannot run /: "),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cgview"));
        let output = command.args(["run", "--view", "own", program]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(expected), "{stderr}");
        assert!(stderr.starts_with(message), "{stderr}");
    }
}

#[test]
fn standard_streams_are_the_command_s_own() {
    if !can_run(&[]) {
        return;
    }
    let mut child = run("", "cat; echo error >&2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"through\n"[..], &b"error\n"[..])
    );
    // Its reader's end is the end of the command: SIGPIPE is not ignored.
    let mut child = run("", "yes").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(shell_status(child.wait().unwrap()), 141);
}

#[test]
fn signals_are_passed_on() {
    if !can_run(&[]) {
        return;
    }
    let script =
        "trap 'echo got' USR1; trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let (mut run, _) = Running::start(run("", script));
    run.signal(Signal::USR1);
    let mut line = String::new();
    run.stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "got\n");
    run.signal(Signal::TERM);
    assert_eq!(run.wait().0, 3);
}

#[test]
fn nothing_is_left_however_it_ends() {
    if !can_run(&["memory"]) {
        return;
    }
    for (signal, expected) in [
        (None, 0),
        (Some(Signal::TERM), 143),
        (Some(Signal::INT), 130),
        (Some(Signal::HUP), 129),
        (Some(Signal::KILL), 137),
    ] {
        let seconds = if signal.is_some() { 60 } else { 1 };
        let script = format!(
            "mkdir /sys/fs/cgroup/memory/below /sys/fs/cgroup/below 2>&-; sleep 61 & echo ready; \
             exec sleep {seconds}"
        );
        let (run, _) = Running::start(run("--memory 64M", &script));
        let (pid, processes) = (run.pid(), processes(run.pid()));
        assert!(processes.len() >= 3, "{processes:?}");
        if let Some(signal) = signal {
            run.signal(signal);
        }
        assert_eq!(run.wait().0, expected);
        if signal == Some(Signal::KILL) {
            assert_nothing_left(pid, &processes);
        } else {
            assert_eq!(cgroups(pid), Vec::<PathBuf>::new(), "{signal:?}");
        }
    }
}

#[test]
fn what_a_killed_keeper_leaves_is_swept_by_the_next_run() {
    if !can_run(&["memory"]) {
        return;
    }
    let mut command = run("--memory 64M", "echo ready; exec sleep 60");
    let (mut run, _) = Running::start({
        command.stderr(Stdio::piped());
        command
    });
    let pid = run.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let keeper = children
        .split_whitespace()
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "cgview-keeper\n");
    send(keeper.unwrap().parse().unwrap(), Signal::KILL);
    // The command goes on, but its files are dead.
    let mut warning = String::new();
    BufReader::new(run.child.stderr.take().unwrap()).read_line(&mut warning).unwrap();
    assert!(warning.starts_with("cgview: warning: the server of the view has ended"), "{warning}");
    run.signal(Signal::KILL);
    drop(run);
    assert!(!cgroups(pid).is_empty());
    eventually("cgroups are left", || {
        output("", "true");
        cgroups(pid).is_empty()
    });
}

#[test]
fn orphans_are_reaped() {
    if !can_run(&[]) {
        return;
    }
    let text = output("", "sh -c 'sleep 0.2 & exit'; sleep 1; ps -e -o stat=,comm=");
    assert!(!text.contains('Z'), "{text}");
}

#[test]
fn ctrl_c_reaches_the_command_once_and_the_terminal_is_its() {
    if !can_run(&[]) {
        return;
    }
    // script(1) gives the line to $SHELL, and some shells are ended by the signal themselves: none is to be left.
    let line = format!(
        "exec env --default-signal '{}' run --view own -- bash -c 'trap \"echo; echo interrupted\" INT; tty; stty size; echo ready; \
         for i in {{1..100}}; do sleep 0.1; done; exit 5'",
        env!("CARGO_BIN_EXE_cgview")
    );
    let script = Command::new("script")
        .args(["-qec", &format!("stty rows 41 cols 90; {line}"), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut script = match script {
        Ok(script) => script,
        Err(error) => return skip(&format!("script: {error}")),
    };
    let mut stdout = BufReader::new(script.stdout.take().unwrap());
    let mut lines = String::new();
    while !lines.contains("ready") {
        assert!(stdout.read_line(&mut lines).unwrap() > 0, "{lines}");
    }
    assert!(lines.contains("/dev/pts/") && lines.contains("41 90"), "{lines}");
    let mut stdin = script.stdin.take().unwrap();
    stdin.write_all(b"\x03").unwrap();
    stdin.flush().unwrap();
    stdout.read_to_string(&mut lines).unwrap();
    assert_eq!(lines.matches("interrupted").count(), 1, "{lines}");
    assert_eq!(script.wait().unwrap().code(), Some(5), "{lines}");
}

#[test]
fn the_private_mountpoint_is_not_seen_inside_nor_outside() {
    if !can_run(&[]) {
        return;
    }
    let (run, inside) =
        Running::start(run("", "grep -c ' /tmp .*cgview' /proc/self/mountinfo; exec sleep 60"));
    assert_eq!(inside, "0\n");
    let outside = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!outside.contains("/proc/meminfo"), "{outside}");
    drop(run);
}

#[test]
fn show_prints_what_the_command_reads() {
    if !can_run(&["memory", "cpu"]) {
        return;
    }
    let files = [
        "/proc/cpuinfo",
        "/proc/swaps",
        "/proc/partitions",
        "/sys/devices/system/cpu/online",
        "/sys/devices/system/cpu/possible",
        "/sys/devices/system/cpu/cpu0/topology/core_id",
    ];
    let present: Vec<&str> = files.into_iter().filter(|file| Path::new(file).exists()).collect();
    // The frequency of a CPU may change from read to read.
    let script = format!(
        "cat {} | grep -v MHz | md5sum; head -1 /proc/meminfo; cut -d: -f1 /proc/meminfo | md5sum; exec sleep 60",
        present.join(" ")
    );
    let (mut run, static_sum) = Running::start(run("--memory 300M --cpus 0.7", &script));
    let mut total = String::new();
    run.stdout.read_line(&mut total).unwrap();
    let mut names_sum = String::new();
    run.stdout.read_line(&mut names_sum).unwrap();
    let pid = processes(run.pid())[1].to_string();
    let show = |files: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cgview"));
        let output = command.args(["show", "--pid", &pid]).args(files).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let shown = String::from_utf8(show(&present)).unwrap();
    let shown = shown.split_inclusive('\n').filter(|line| !line.contains("MHz"));
    assert_eq!(md5sum(shown.collect::<String>().as_bytes()), static_sum);
    let meminfo = String::from_utf8(show(&["meminfo"])).unwrap();
    assert_eq!(meminfo.lines().next().unwrap(), total.trim_end());
    let names: String =
        meminfo.lines().map(|line| format!("{}\n", line.split(':').next().unwrap())).collect();
    assert_eq!(md5sum(names.as_bytes()), names_sum);
    let diff = Command::new(env!("CARGO_BIN_EXE_cgview"))
        .args(["diff", "--pid", &pid, "meminfo"])
        .output();
    assert_eq!(diff.unwrap().status.code(), Some(1));
}

fn md5sum(bytes: &[u8]) -> String {
    let mut child =
        Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

/// The daemon, which is built beside the command.
fn daemon() -> Option<PathBuf> {
    let daemon = Path::new(env!("CARGO_BIN_EXE_cgview")).with_file_name("cgview-fuse");
    if !daemon.exists() {
        skip("needs cgview-fuse, built beside cgview");
        return None;
    }
    Some(daemon)
}

#[test]
fn a_running_daemon_s_view_is_taken_and_its_death_is_diagnosed() {
    if !can_run(&["memory"]) {
        return;
    }
    let Some(program) = daemon() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (mountpoint, state) = (dir.path().join("view"), dir.path().join("state"));
    fs::create_dir(&mountpoint).unwrap();
    fs::create_dir(&state).unwrap();
    let daemon = Command::new(program)
        .args(["-f", "--runtime-dir"])
        .args([&state, &mountpoint])
        .stderr(Stdio::null())
        .spawn();
    let mut daemon = Daemon { child: daemon.unwrap(), mountpoint: mountpoint.clone() };
    eventually("the daemon has not mounted", || mountpoint.join("proc/meminfo").exists());
    let path = mountpoint.to_str().unwrap();
    let run_with = |view: &str, script: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cgview"));
        command.args(["run", "--memory", "64M", "--view", view, "--", "sh", "-c", script]);
        command
    };
    let output = run_with(path, "head -1 /proc/meminfo").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "MemTotal:          65536 kB\n");

    // Without being told of one, a run finds a daemon: this one, or another that runs here.
    let views = || -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().filter(|line| line.contains(" - fuse.cgview ")).map(device).collect()
    };
    let before = views();
    let output = run_with("auto", "cat /proc/self/mountinfo").output().unwrap();
    let mounts = String::from_utf8(output.stdout).unwrap();
    let found = device(mounts.lines().find(|line| line.contains(" /proc/meminfo ")).unwrap());
    assert!(before.contains(&found) || views().contains(&found), "{found}: {mounts}");

    // The daemon dies while a run has its files.
    let (run, _) = Running::start(run_with(path, "echo ready; exec sleep 60"));
    let doctor = || {
        let output = Command::new(env!("CARGO_BIN_EXE_cgview")).arg("doctor").output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let line =
        |text: &str| text.lines().find(|line| line.contains(path)).unwrap_or_default().to_owned();
    let (_, healthy) = doctor();
    assert!(line(&healthy).starts_with("ok "), "{healthy}");
    assert!(
        line(&healthy).contains("answers; 1 other mount namespace has files of it"),
        "{healthy}"
    );
    daemon.kill();
    let (status, dead) = doctor();
    assert_eq!(status, Some(1));
    assert!(
        line(&dead).starts_with("broken ") && line(&dead).contains("its daemon is gone"),
        "{dead}"
    );
    let mend = format!("start cgview-fuse --replace {path}, then run `cgview doctor --repair`");
    assert!(dead.contains(&mend), "{dead}");
    drop(run);

    // The next run takes no view that is dead.
    let output = run_with("auto", "head -1 /proc/meminfo").output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        told,
        "MemTotal:          65536 kB\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The number of the file system in a line of `mountinfo`.
fn device(line: &str) -> String {
    line.split(' ').nth(2).unwrap().to_owned()
}

/// A daemon. Dropping it kills it and unmounts.
struct Daemon {
    child: Child,
    mountpoint: PathBuf,
}

impl Daemon {
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        let _ = rustix::mount::unmount(&self.mountpoint, rustix::mount::UnmountFlags::DETACH);
    }
}
