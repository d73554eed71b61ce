//! What the subcommands print, and their exit statuses, on hosts made by hand.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use cgview_testkit::{FakeHost, FakeProcess};

fn cgview(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cgview"));
    command.args(arguments).env_remove("NO_COLOR").env("TERM", "xterm");
    command
}

/// What a command printed, and how it ended.
#[derive(Debug)]
struct Ran {
    stdout: String,
    stderr: String,
    status: i32,
}

fn run(arguments: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = cgview(arguments).output().unwrap();
    Ran {
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
        status: status.code().unwrap(),
    }
}

const MEMINFO: &str = "\
MemTotal:        1048576 kB
MemFree:          524288 kB
MemAvailable:     786432 kB
Buffers:            1000 kB
Cached:           200000 kB
SwapTotal:        524288 kB
SwapFree:         524288 kB
VmallocTotal:   34359738367 kB
Hugepagesize:       2048 kB
";

/// A host with four CPUs, and process 300 in a container below an ancestor with a tighter memory limit.
fn host() -> FakeHost {
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup");
    fake.file("/proc/meminfo", MEMINFO);
    fake.file("/proc/pressure/cpu", "some avg10=1.00 avg60=0.00 avg300=0.00 total=9\n");
    fake.file("/sys/devices/system/cpu/online", "0-3\n");
    for cpu in 0..4 {
        let dir = format!("/sys/devices/system/cpu/cpu{cpu}");
        fake.file(&format!("{dir}/topology/core_id"), &format!("{cpu}\n"));
        fake.file(&format!("{dir}/online"), "1\n");
    }
    fake.file("/proc/300/comm", "java\n");
    // The host's own first process, without a cgroup of its own.
    fake.file("/proc/1/cgroup", "0::/\n");
    let limits = |usage, max| {
        [
            ("cgroup.procs", ""),
            ("cgroup.type", "domain\n"),
            ("memory.current", usage),
            ("memory.max", max),
            ("memory.swap.current", "0\n"),
            ("memory.swap.max", "0\n"),
            (
                "memory.stat",
                "anon 8388608\nfile 4194304\nactive_file 1048576\ninactive_file 3145728\n",
            ),
            ("cpu.max", "150000 100000\n"),
            ("cpu.stat", "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n"),
            ("cpuset.cpus.effective", "1-3\n"),
            ("cpuset.mems.effective", "0\n"),
            ("pids.current", "2\n"),
            ("pids.max", "50\n"),
            ("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"),
        ]
    };
    fake.files("/sys/fs/cgroup/slice", &limits("67108864\n", "268435456\n"));
    fake.files("/sys/fs/cgroup/slice/ct", &limits("33554432\n", "max\n"));
    fake.process(&FakeProcess {
        pid: 300,
        ppid: 1,
        start: 300_000,
        nspid: &[300, 1],
        cgroup: "0::/slice/ct\n",
        pid_namespace: 4_026_532_100,
        cgroup_namespace: 4_026_532_200,
        mountinfo: "50 1 0:38 /slice/ct /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        ..FakeProcess::default()
    });
    fake
}

/// Compares a text with a file of `tests/snapshots`, which `CGVIEW_BLESS=1` writes anew.
fn assert_snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("CGVIEW_BLESS").is_some() {
        return fs::write(path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(path).unwrap(), "{text}");
}

/// The arguments for a subcommand that looks at process 300 of a host.
fn at<'a>(command: &'a str, host: &'a FakeHost, rest: &[&'a str]) -> Vec<&'a str> {
    let root = host.path().to_str().unwrap();
    [&[command, "--pid", "300", "--host-root", root], rest].concat()
}

#[test]
fn show_prints_the_container_s_text() {
    let host = host();
    let ran = run(&at("show", &host, &["/proc/meminfo"]));
    assert_eq!(
        ran.stdout,
        "\
MemTotal:         262144 kB
MemFree:          196608 kB
MemAvailable:     200704 kB
Buffers:               0 kB
Cached:             4096 kB
SwapTotal:             0 kB
SwapFree:              0 kB
VmallocTotal:   34359738367 kB
Hugepagesize:       2048 kB
"
    );
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
}

#[test]
fn show_takes_a_file_by_any_of_its_names_and_several_at_once() {
    let host = host();
    let online = "/sys/devices/system/cpu/online";
    let ran = run(&at("show", &host, &["pressure/cpu", online, &online[1..]]));
    assert_eq!(ran.stdout, "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n0-1\n0-1\n");
}

#[test]
fn explain_names_the_cgroup_that_decided() {
    let host = host();
    let ran = run(&at("show", &host, &["--explain", "meminfo"]));
    let line =
        |name: &str| ran.stdout.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert_eq!(
        line("MemTotal"),
        "MemTotal:         262144 kB  # memory.max of /slice: the tightest limit up to the root"
    );
    assert!(line("Cached").contains("# memory.stat of /slice/ct: "), "{}", line("Cached"));
    assert_eq!(line("Hugepagesize"), "Hugepagesize:       2048 kB");
    let ran = run(&at("show", &host, &["--explain", "sys/devices/system/cpu/online"]));
    assert!(ran.stdout.starts_with("0-1  # cpu.max of /slice"), "{}", ran.stdout);
}

#[test]
fn explain_without_a_file_explains_all_that_differ() {
    let host = host();
    let ran = run(&at("show", &host, &["--explain"]));
    assert!(ran.stdout.contains("==> /proc/meminfo <==\nMemTotal: "), "{}", ran.stdout);
    assert!(ran.stdout.contains("\n==> /sys/devices/system/cpu/online <==\n"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("possible"), "this host has no such file: {}", ran.stdout);
}

#[test]
fn json_has_the_line_the_host_s_line_and_the_reason() {
    let host = host();
    let ran = run(&at("show", &host, &["--explain", "--json", "meminfo"]));
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let line = &value["files"][0]["lines"][0];
    assert_eq!(line["line"], "MemTotal:         262144 kB");
    assert_eq!(line["host"], "MemTotal:        1048576 kB");
    assert_eq!(line["changed"], true);
    assert_eq!(line["reasons"][0]["cgroup"], "/slice");
    assert_eq!(line["reasons"][0]["file"], "memory.max");
    assert_eq!(line["reasons"][0]["level"], 1);
    let ran = run(&at("show", &host, &["--json", "pressure/cpu"]));
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["files"][0]["text"], "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n");
}

#[test]
fn the_summary_has_the_limits_and_every_file() {
    let host = host();
    let ran = run(&at("show", &host, &[]));
    assert_snapshot("summary.txt", &ran.stdout);
    let ran = run(&at("show", &host, &["--json"]));
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["limits"]["memory"]["bytes"], 256 << 20);
    assert_eq!(value["limits"]["cpus"]["entitled"], "1.5");
    assert_eq!(value["limits"]["cpus"]["visible"], 2);
    assert_eq!(value["limits"]["pids"]["max"], 50);
    assert_eq!(value["container"]["cgroups"]["memory"], "/slice/ct");
}

#[test]
fn diff_is_a_unified_diff_from_the_host_to_the_process() {
    let host = host();
    let ran = run(&at("diff", &host, &["meminfo"]));
    assert_eq!(
        ran.stdout,
        "\
--- host/proc/meminfo
+++ process 300/proc/meminfo
@@ -1,9 +1,9 @@
-MemTotal:        1048576 kB
-MemFree:          524288 kB
-MemAvailable:     786432 kB
-Buffers:            1000 kB
-Cached:           200000 kB
-SwapTotal:        524288 kB
-SwapFree:         524288 kB
+MemTotal:         262144 kB
+MemFree:          196608 kB
+MemAvailable:     200704 kB
+Buffers:               0 kB
+Cached:             4096 kB
+SwapTotal:             0 kB
+SwapFree:              0 kB
 VmallocTotal:   34359738367 kB
 Hugepagesize:       2048 kB
"
    );
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
}

#[test]
fn diff_of_all_names_the_cpus_that_only_the_host_has() {
    let host = host();
    let ran = run(&at("diff", &host, &[]));
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    for part in [
        "+++ process 300/proc/meminfo\n",
        "--- host/sys/devices/system/cpu/online\n",
        "only on the host: /sys/devices/system/cpu/cpu2\nonly on the host: /sys/devices/system/cpu/cpu3\n",
    ] {
        assert!(ran.stdout.contains(part), "{part}{}", ran.stdout);
    }
}

#[test]
fn diff_says_by_its_status_whether_there_is_a_difference_or_trouble() {
    let host = host();
    let same = run(&at("diff", &host, &["sys/devices/system/cpu/cpu0/online"]));
    assert_eq!((same.status, same.stdout.as_str()), (0, ""), "{same:?}");
    let host_itself = run(&["diff", "--pid", "1", "--host-root", host.path().to_str().unwrap()]);
    assert_eq!((host_itself.status, host_itself.stdout.as_str()), (0, ""), "{host_itself:?}");
    let gone = run(&["diff", "--pid", "999", "--host-root", host.path().to_str().unwrap()]);
    assert_eq!(gone.status, 2);
    assert_eq!(gone.stderr, "cgview: cannot list the files of process 999: process 999 is gone\n");
    assert_eq!(run(&["diff"]).status, 2);
}

#[test]
fn colours_are_asked_for_or_refused() {
    let host = host();
    let arguments = at("diff", &host, &["meminfo"]);
    let colored = |command: &mut Command| {
        String::from_utf8(command.output().unwrap().stdout).unwrap().contains("\x1b[31m-MemTotal")
    };
    assert!(!colored(&mut cgview(&arguments)), "not a terminal");
    assert!(colored(cgview(&arguments).args(["--color", "always"])));
    assert!(!colored(cgview(&arguments).args(["--color", "never"])));
    // On a terminal, which script(1) makes.
    let on_terminal = |no_color: Option<&str>| {
        let line = format!("'{}' '{}'", env!("CARGO_BIN_EXE_cgview"), arguments.join("' '"));
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
        script.envs(no_color.map(|value| ("NO_COLOR", value))).stdin(Stdio::null());
        script
            .output()
            .map(|output| String::from_utf8(output.stdout).unwrap().contains("\x1b[31m-"))
    };
    match on_terminal(None) {
        Err(error) => cgview_testkit::skip(&format!("script: {error}")),
        Ok(colored) => {
            assert!(colored);
            assert!(on_terminal(Some("")).unwrap(), "an empty NO_COLOR says nothing");
            assert!(!on_terminal(Some("1")).unwrap());
        }
    }
}

#[test]
fn an_error_names_the_process_and_the_file() {
    let host = host();
    let root = host.path().to_str().unwrap();
    let ran = run(&["show", "--pid", "999", "--host-root", root, "meminfo"]);
    assert_eq!(
        ran.stderr,
        "cgview: cannot show /proc/meminfo of process 999: process 999 is gone\n"
    );
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));

    host.file("/sys/fs/cgroup/slice/memory.max", "many\n");
    let ran = run(&at("show", &host, &["meminfo"]));
    assert!(
        ran.stderr.starts_with(
            "cgview: cannot show /proc/meminfo of process 300: cannot parse /sys/fs/cgroup/slice/memory.max: "
        ),
        "{}",
        ran.stderr
    );
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));

    let ran = run(&["show", "--pid", "1", "--host-root", "/nonexistent", "meminfo"]);
    assert!(
        ran.stderr.starts_with("cgview: cannot use /nonexistent as the root of a host: "),
        "{ran:?}"
    );
}

#[test]
fn wrong_usage_is_status_two() {
    for arguments in [
        &["show"][..],
        &["show", "--pid", "0", "meminfo"],
        &["show", "--pid", "x", "meminfo"],
        &["show", "--pid", "1", "/etc/passwd"],
        &["show", "--pid", "1", "proc/pressure"],
        &["run"],
        &["run", "--memory", "12X", "true"],
        &["run", "--cpus", "0", "true"],
        &["run", "--cpuset", "a-b", "true"],
        &["run", "--pids", "0", "true"],
        &["nonsense"],
        &[],
    ] {
        let ran = run(arguments);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(!ran.stderr.is_empty());
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let host = host();
    let mut child = cgview(&at("show", &host, &["meminfo"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before anything can be written.
    drop(child.stdout.take());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert_eq!((status.code(), String::from_utf8(stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn a_capture_shows_what_the_host_showed() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    let captured = run(&at("capture", &host, &[copy.to_str().unwrap()]));
    assert_eq!((captured.status, captured.stdout.as_str(), captured.stderr.as_str()), (0, "", ""));
    let copied = ["show", "--pid", "300", "--host-root", copy.to_str().unwrap(), "meminfo", "stat"];
    host.file("/proc/stat", "cpu  1 2 3 4\ncpu0 1 2 3 4\nbtime 5\n");
    assert_eq!(run(&copied[..6]).stdout, run(&at("show", &host, &["meminfo"])).stdout);
    let again = run(&at("capture", &host, &[copy.to_str().unwrap()]));
    assert_eq!(again.status, 1);
    assert!(
        again.stderr.starts_with("cgview: cannot capture process 300: cannot write "),
        "{again:?}"
    );
}

#[test]
fn man_pages_and_completions_are_generated() {
    let man = run(&["generate", "man"]);
    assert!(man.stdout.contains(".TH cgview 1"), "{}", man.stdout);
    for shell in ["bash", "zsh", "fish"] {
        let completions = run(&["generate", "completions", shell]);
        assert_eq!(completions.status, 0);
        assert!(completions.stdout.contains("host-root"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let path = path.to_str().unwrap();
    assert_eq!(run(&["generate", "man", "--dir", path]).stdout, "");
    assert_eq!(run(&["generate", "completions", "--dir", path]).stdout, "");
    for name in
        ["cgview.1", "cgview-show.1", "cgview-run.1", "cgview.bash", "_cgview", "cgview.fish"]
    {
        assert!(Path::new(path).join(name).exists(), "{name}");
    }
    assert!(fs::read_to_string(Path::new(path).join("cgview-run.1")).unwrap().contains("cpuset"));
}

#[test]
fn doctor_prints_a_table_or_json() {
    let table = run(&["doctor"]);
    assert!(table.stdout.lines().any(|line| line.starts_with("ok      kernel")), "{table:?}");
    let json = run(&["doctor", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let checks = value["checks"].as_array().unwrap();
    let broken = checks.iter().any(|check| check["status"] == "broken");
    assert_eq!(json.status, i32::from(broken), "{json:?}");
    assert!(checks.iter().all(|check| check["status"] == "ok" || check["mend"].is_string()));
}
