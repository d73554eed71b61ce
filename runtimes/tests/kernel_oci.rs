//! runc and crun: the hook in a bundle, by hand and by `cgview-runtime` (`docs/runtimes.md`, "Any OCI runtime").
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Output, Stdio},
    time::Instant,
};

use cgview_runtimes::{Host as _, Image, LOOK, MEMORY, Rig, Seen, program};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A bundle, and the runtime to start it with.
struct Bundle {
    rig: Rig,
    runtime: String,
    dir: PathBuf,
}

impl Bundle {
    fn new(runtime: &str) -> Option<Bundle> {
        let rig = Rig::start(&[runtime])?;
        let dir = rig.path("bundle");
        let image = Image::make(&dir.join("rootfs"));
        assert_eq!(image.path(), dir.join("rootfs"));
        rig.sandbox.run(&format!("cd {} && {runtime} spec", dir.display()));
        // crun takes no hybrid hierarchies with controllers in both.
        rig.sandbox.run("umount /sys/fs/cgroup/unified 2>/dev/null; true");
        let state = rig.path("state");
        let bundle = Bundle { runtime: format!("{runtime} --root {}", state.display()), rig, dir };
        bundle.edit(|spec| {
            spec["root"]["readonly"] = json!(false);
            spec["process"]["terminal"] = json!(false);
            spec["process"]["rlimits"] = json!([]);
            spec["process"]["args"] = json!(["sh", "-c", LOOK]);
            spec["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.rig.name));
            spec["linux"]["resources"]["memory"] = json!({ "limit": MEMORY });
            spec["linux"]["resources"]["cpu"] = json!({ "quota": 150_000, "period": 100_000 });
        });
        Some(bundle)
    }

    fn read(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join("config.json")).unwrap()).unwrap()
    }

    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut spec = self.read();
        change(&mut spec);
        fs::write(self.dir.join("config.json"), spec.to_string()).unwrap();
    }

    /// The hook, with a log of this test's own.
    fn hook(&self, more: &[&str]) -> Value {
        let mut args = vec!["cgview".to_owned(), "oci-hook".into()];
        args.push(format!("--mountpoint={}", self.rig.mountpoint().display()));
        args.push(format!("--log={}", self.log().display()));
        args.extend(more.iter().map(|&word| word.to_owned()));
        json!({ "path": program("cgview"), "args": args })
    }

    fn log(&self) -> PathBuf {
        self.rig.path("hook.log")
    }

    /// Takes what the hook has logged.
    fn take_log(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let _ = fs::remove_file(self.log());
        text
    }

    fn try_run(&self) -> Output {
        let (runtime, dir, name) = (&self.runtime, self.dir.display(), &self.rig.name);
        self.rig.sandbox.command(&format!("{runtime} run --bundle {dir} {name}")).output().unwrap()
    }

    fn run(&self) -> Seen {
        let output = self.try_run();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        Seen::new(String::from_utf8(output.stdout).unwrap())
    }
}

fn the_hook_gives_the_view(runtime: &str) {
    let Some(mut bundle) = Bundle::new(runtime) else { return };
    bundle.run().is_the_hosts();
    let hook = bundle.hook(&[]);
    bundle.edit(|spec| spec["hooks"] = json!({ "createContainer": [hook] }));
    bundle.run().is_own();
    assert_eq!(bundle.take_log(), "");

    // One that goes on.
    bundle.edit(|spec| spec["process"]["args"] = json!(["sleep", "600"]));
    let (runtime, name) = (bundle.runtime.clone(), bundle.rig.name.clone());
    let dir = bundle.dir.display().to_string();
    let null = "</dev/null >/dev/null 2>&1";
    bundle.rig.sandbox.run(&format!("{runtime} run --detach --bundle {dir} {name} {null}"));
    let look = format!("{runtime} exec {name} sh -c '{LOOK}'");
    Seen::new(bundle.rig.sandbox.run(&look)).is_own();
    bundle.rig.replace_daemon();
    Seen::new(bundle.rig.sandbox.run(&look)).is_own();
    bundle.rig.sandbox.run(&format!("{runtime} delete --force {name}"));
    assert_eq!(bundle.rig.mounts(), 1);

    bundle.edit(|spec| spec["process"]["args"] = json!(["sh", "-c", LOOK]));
    bundle.edit(|spec| spec["annotations"] = json!({ "cgview.dev/view": "none" }));
    bundle.run().is_the_hosts();
    assert_eq!(bundle.take_log(), "");
}

#[test]
fn runc_s_containers_have_the_view() {
    the_hook_gives_the_view("runc");
}

#[test]
fn crun_s_containers_have_the_view() {
    the_hook_gives_the_view("crun");
}

// "it must not stop a container from starting": whatever the daemon does.
fn a_container_starts_without_a_daemon(runtime: &str) {
    let Some(mut bundle) = Bundle::new(runtime) else { return };
    let hook = bundle.hook(&["--deadline=300"]);
    bundle.edit(|spec| spec["hooks"] = json!({ "createContainer": [hook] }));
    bundle.edit(|spec| spec["process"]["args"] = json!(["sh", "-c", "echo started"]));
    let start = |bundle: &Bundle| {
        let output = bundle.try_run();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && output.stdout == b"started\n", "{error}");
        bundle.take_log()
    };

    // Stopped: nobody reads what is asked. The keeper is stopped first, or it would replace the worker.
    let signal = |bundle: &Bundle, signal| {
        for pid in bundle.rig.daemon() {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ = kill_process(pid, signal);
        }
    };
    signal(&bundle, Signal::STOP);
    let log = start(&bundle);
    assert!(log.contains("does not answer within"), "{log}");
    assert!(log.contains(&format!("container {}: ", bundle.rig.name)), "{log}");
    assert!(log.contains("starts without the view"), "{log}");
    signal(&bundle, Signal::CONT);

    // Dead, and its mount is there.
    bundle.rig.kill_daemon();
    let log = start(&bundle);
    assert!(log.contains("is dead: its daemon is gone"), "{log}");

    // Not there.
    let none = bundle.rig.path("none");
    let mut hook = bundle.hook(&[]);
    hook["args"][2] = json!(format!("--mountpoint={}", none.display()));
    bundle.edit(|spec| spec["hooks"]["createContainer"][0] = hook);
    let log = start(&bundle);
    assert!(log.contains("no cgview is mounted there"), "{log}");
}

#[test]
fn runc_s_containers_start_without_a_daemon() {
    a_container_starts_without_a_daemon("runc");
}

#[test]
fn crun_s_containers_start_without_a_daemon() {
    a_container_starts_without_a_daemon("crun");
}

fn the_wrapper_adds_the_hook(runtime: &str) {
    let Some(mut bundle) = Bundle::new(runtime) else { return };
    let real = bundle.runtime.clone();
    let wrapper = format!(
        "{} --cgview-runtime={runtime} --cgview-mountpoint={}",
        program("cgview-runtime").display(),
        bundle.rig.mountpoint().display()
    );
    bundle.runtime = real.replacen(runtime, &wrapper, 1);
    bundle.run().is_own();
    let spec = bundle.read();
    assert_eq!(spec["hooks"]["createContainer"].as_array().unwrap().len(), 1, "{spec}");
    // It is there already.
    bundle.run().is_own();
    assert_eq!(bundle.read(), spec);

    // What is not about making a container is the runtime's own.
    for line in ["--version", "list", "state none"] {
        let run = |runtime: &str| {
            let output = bundle.rig.sandbox.command(&format!("{runtime} {line}")).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            // Some say the time.
            let error = error
                .split("msg=")
                .last()
                .unwrap_or_default()
                .split("Z: ")
                .last()
                .map(str::to_owned);
            (output.status.code(), String::from_utf8(output.stdout).unwrap(), error)
        };
        assert_eq!(run(&bundle.runtime), run(&real), "{line}");
    }

    // A bundle that is none: the runtime says so.
    fs::write(bundle.dir.join("config.json"), "{").unwrap();
    let output = bundle.try_run();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        error.contains("cgview-runtime: cannot parse") && error.contains("left as it is"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(bundle.dir.join("config.json")).unwrap(), "{");
}

#[test]
fn the_wrapper_starts_runc() {
    the_wrapper_adds_the_hook("runc");
}

#[test]
fn the_wrapper_starts_crun() {
    the_wrapper_adds_the_hook("crun");
}

// A time namespace where the runtime has it; else the container starts without, and it is said why.
#[test]
fn a_time_namespace_is_added_where_the_runtime_has_them() {
    let Some(mut bundle) = Bundle::new("runc") else { return };
    let features = bundle.rig.sandbox.command("runc features").output().unwrap();
    let features: Value = serde_json::from_slice(&features.stdout).unwrap_or_default();
    let namespaces = features["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
    let wrapper = format!(
        "{} --cgview-time-namespace --cgview-mountpoint={}",
        program("cgview-runtime").display(),
        bundle.rig.mountpoint().display()
    );
    bundle.runtime = bundle.runtime.replacen("runc", &wrapper, 1);
    let output = bundle.try_run();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    Seen::new(String::from_utf8(output.stdout).unwrap()).is_own();
    let spec = bundle.read();
    if namespaces.iter().any(|kind| kind == "time") {
        assert!(spec["linux"]["timeOffsets"]["boottime"]["secs"].as_i64().unwrap() < 0, "{spec}");
    } else {
        assert!(error.contains("is too old for time namespaces"), "{error}");
        assert!(spec["linux"].get("timeOffsets").is_none(), "{spec}");
    }
}

// A pod's root may have the host's /proc, shared with it: mounts there would be mounts on the host.
#[test]
fn a_proc_that_is_shared_with_the_host_is_left_alone() {
    let Some(bundle) = Bundle::new("runc") else { return };
    let root = bundle.dir.join("rootfs");
    let root = root.display();
    bundle.rig.sandbox.run(&format!(
        "mount --bind {root} {root} && mount -t proc proc {root}/proc && mount --make-shared {root}/proc"
    ));
    let state = json!({ "id": "x", "bundle": bundle.dir, "pid": 0 }).to_string();
    let hook = bundle.hook(&[]);
    let line = hook["args"].as_array().unwrap()[1..].iter().map(|word| word.as_str().unwrap());
    let line = line.collect::<Vec<_>>().join(" ");
    let run = || {
        let mut command =
            bundle.rig.sandbox.command(&format!("{} {line}", program("cgview").display()));
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(state.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        bundle.take_log()
    };
    let log = run();
    assert!(log.contains("/proc is shared with the host"), "{log}");
    assert_eq!(bundle.rig.mounts(), 1);

    // The same, but private: it works, and how long it takes is printed, as a matter of interest.
    bundle.rig.sandbox.run(&format!("mount --make-private {root}/proc"));
    let started = Instant::now();
    assert_eq!(run(), "");
    println!("the hook took {:?}, with the start of nsenter and a shell", started.elapsed());
    assert!(bundle.rig.mounts() > 10);
}

// What containers of containerd begin with (`base_runtime_spec`).
#[test]
fn a_specification_gets_the_hook_on_standard_input() {
    let Some(bundle) = Bundle::new("runc") else { return };
    let mountpoint = bundle.rig.mountpoint();
    let mut command = bundle.rig.cgview(&["generate", "spec", "--mountpoint"]);
    let mut child =
        command.arg(mountpoint).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let text = fs::read(bundle.dir.join("config.json")).unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    fs::write(bundle.dir.join("config.json"), output.stdout).unwrap();
    bundle.run().is_own();
}
