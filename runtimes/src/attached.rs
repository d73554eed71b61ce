//! `cgview attach` and `detach`, for a container that an engine has started without a view.

use std::{fs, path::PathBuf, process::Command};

use cgview_compliance::eventually;
use serde_json::Value;

use crate::Seen;

/// A machine with a daemon of cgview.
pub trait Host {
    /// The command `cgview`, with these arguments.
    fn cgview(&self, arguments: &[&str]) -> Command;

    /// Where the view is mounted.
    fn mountpoint(&self) -> PathBuf;

    /// Has another daemon take the place of the one that serves.
    fn replace_daemon(&mut self);
}

/// Runs `cgview`, which has to succeed, and gives what it says.
fn said(host: &impl Host, arguments: &[&str]) -> String {
    let output = host.cgview(arguments).output().unwrap();
    let (text, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {text}{error}");
    text.into_owned()
}

/// What `cgview status` says of the container of this name.
#[must_use]
pub fn status(host: &impl Host, name: &str) -> Option<Value> {
    let status: Value = serde_json::from_str(&said(host, &["status", "--json"])).unwrap();
    let containers = status.get("containers").unwrap().as_array().unwrap();
    // The name of LXC's and containerd's is part of their cgroup.
    let is_it =
        |found: &&Value| field(found, "name") == name || field(found, "cgroup").contains(name);
    containers.iter().find(is_it).cloned()
}

fn field<'a>(found: &'a Value, name: &str) -> &'a str {
    found.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Attaches to a container by its name, looks into it while the daemon is replaced, and detaches.
pub fn attach_and_detach<H: Host>(
    host: &mut H,
    runtime: &str,
    name: &str,
    look: impl Fn(&H) -> Seen,
) {
    eventually("it is found", || status(host, name).is_some());
    let found = status(host, name).unwrap();
    assert_eq!(field(&found, "runtime"), runtime, "{found:#}");
    let pid = found.get("pid").and_then(Value::as_u64).unwrap();
    let mounts = || fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let before = mounts();
    look(host).is_the_hosts();

    let mountpoint = host.mountpoint();
    let attach = ["attach", "--mountpoint", mountpoint.to_str().unwrap()];
    let text = said(host, &[&attach[..], &[name]].concat());
    assert!(text.ends_with(" files attached\n"), "{text}");
    look(host).is_own();
    // By its id as well, and nothing more is done.
    let by_id = match field(&found, "id") {
        "" => name,
        id => id,
    };
    let text = said(host, &[&attach[..], &[by_id]].concat());
    assert!(text.ends_with(" files attached before\n"), "{text}");
    host.replace_daemon();
    look(host).is_own();

    let text = said(host, &["detach", name]);
    assert!(text.ends_with(" files detached\n"), "{text}");
    assert_eq!(mounts(), before);
    look(host).is_the_hosts();
}
