//! Namespaces that an engine runs in.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

/// The first process in mount and pid namespaces of their own. All that runs in them ends with it, and what is mounted
/// there goes.
#[derive(Debug)]
pub struct Sandbox {
    child: Child,
}

impl Sandbox {
    /// Starts it. It sees what is mounted outside, then and later, and not the other way round.
    pub(crate) fn start() -> Sandbox {
        let mut command = Command::new("unshare");
        command.args(["--fork", "--pid", "--mount", "--mount-proc", "--kill-child"]);
        // bash reaps what loses its parent. It ends with the test, which holds the other end.
        command.args(["--propagation", "slave", "bash", "-c", "echo ready; read -r _"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Sandbox { child }
    }

    /// A shell command to run there.
    #[must_use]
    pub fn command(&self, script: &str) -> Command {
        let pid = self.child.id();
        let first = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--pid", "--target", first.trim(), "bash", "-c", script]);
        // A path of the test's own machine, and nothing that changes what tools print.
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    /// Runs a shell command there, which must succeed; gives what it prints.
    pub fn run(&self, script: &str) -> String {
        let output = self.command(script).output().unwrap();
        let (text, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}: {}\n{text}{error}", output.status);
        text.into_owned()
    }

    /// Starts one that goes on, with its output in a file.
    pub fn spawn(&self, script: &str, log: &std::path::Path) {
        let file = std::fs::File::create(log).unwrap();
        let mut command = self.command(script);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let mut child = command.spawn().unwrap();
        // It ends with the sandbox.
        std::thread::spawn(move || child.wait());
    }

    pub(crate) fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end();
    }
}
