//! `cgview install` and `uninstall`, on directories that stand for the root of a machine.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A machine's root.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new(files: &[(&str, &str)]) -> Machine {
        let machine = Machine(tempfile::tempdir().unwrap());
        for (path, text) in files {
            machine.write(path, text);
        }
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// All files, with their text.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        fn walk(dir: &Path, files: &mut BTreeMap<PathBuf, String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, files);
                } else {
                    files.insert(path.clone(), fs::read_to_string(path).unwrap());
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(self.0.path(), &mut files);
        files
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cgview"));
        command.args(line.split(' ')).arg("--root").arg(self.0.path());
        command.output().unwrap()
    }

    fn succeed(&self, line: &str) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its one error, as people see it. Nothing is changed.
    fn fail(&self, line: &str) -> String {
        let before = self.files();
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert_eq!(self.files(), before);
        String::from_utf8(output.stderr).unwrap()
    }
}

/// The program as it is named in configuration.
fn program(name: &str) -> String {
    let own = Path::new(env!("CARGO_BIN_EXE_cgview")).canonicalize().unwrap();
    own.with_file_name(name).display().to_string()
}

const DAEMON_JSON: &str = "etc/docker/daemon.json";
const CONFIG_TOML: &str = "etc/containerd/config.toml";

#[test]
fn docker_keeps_what_was_there() {
    // Tabs, an order of its own, and a runtime.
    let before = "{\n\t\"storage-driver\": \"overlay2\",\n\t\"runtimes\": {\n\t\t\"kata\": {\"path\": \"/opt/kata\"}\n\t},\n\t\"bip\": \"10.0.0.1/24\"\n}\n";
    let machine = Machine::new(&[(DAEMON_JSON, before)]);
    let files = machine.files();
    let planned = machine.succeed("install --runtime docker --dry-run");
    assert_eq!(machine.files(), files, "a dry run changed something");
    let said = machine.succeed("install --runtime docker");
    assert!(said.contains("+\t\t\"cgview\""), "{said}");
    let diff = said.split("Docker: ").next().unwrap();
    assert!(planned.starts_with(diff), "{planned}\n{said}");
    assert!(said.contains("systemctl reload docker"), "{said}");

    let after = machine.read(DAEMON_JSON);
    for line in before.lines().filter(|line| line.contains(':')) {
        let line = line.trim_end_matches(['{', ',', '}']);
        assert!(after.contains(line), "{line} in {after}");
    }
    let json: serde_json::Value = serde_json::from_str(&after).unwrap();
    assert_eq!(json["default-runtime"], "cgview");
    assert_eq!(
        json["runtimes"],
        serde_json::json!({
            "kata": { "path": "/opt/kata" }, "cgview": { "path": program("cgview-runtime") },
        })
    );
    assert!(machine.read("etc/cdi/cgview.json").contains("\"createContainer\""));

    let again = machine.succeed("install --runtime docker");
    assert!(again.starts_with("nothing to do"), "{again}");
    assert_eq!(machine.read(DAEMON_JSON), after);

    let said = machine.succeed("uninstall --runtime docker");
    // A reload would keep the default.
    assert!(said.contains("systemctl restart docker"), "{said}");
    assert!(said.contains("-\t\t\"cgview\""), "{said}");
    assert_eq!(machine.files(), files);
    let again = machine.succeed("uninstall --runtime docker");
    assert!(again.starts_with("nothing to do"), "{again}");
}

#[test]
fn docker_without_a_file_gets_one_and_loses_it() {
    let machine = Machine::new(&[]);
    machine.succeed("install --runtime docker --opt-in");
    let json: serde_json::Value = serde_json::from_str(&machine.read(DAEMON_JSON)).unwrap();
    let runtimes = serde_json::json!({ "cgview": { "path": program("cgview-runtime") } });
    assert_eq!(json, serde_json::json!({ "runtimes": runtimes }));
    machine.succeed("uninstall --runtime docker");
    assert!(machine.files().is_empty(), "{:?}", machine.files());
}

#[test]
fn docker_s_changes_since_then_stay() {
    let machine = Machine::new(&[(DAEMON_JSON, r#"{"default-runtime":"runc"}"#)]);
    machine.succeed("install --runtime docker");
    let with = machine.read(DAEMON_JSON);
    machine.write(DAEMON_JSON, &with.replacen('{', r#"{"debug": true, "#, 1));
    machine.succeed("uninstall --runtime docker");
    let json: serde_json::Value = serde_json::from_str(&machine.read(DAEMON_JSON)).unwrap();
    assert_eq!(json, serde_json::json!({ "debug": true, "default-runtime": "runc" }));
    assert_eq!(machine.files().len(), 1);
}

#[test]
fn docker_s_other_default_is_wrapped() {
    let before = r#"{"default-runtime": "nvidia", "runtimes": {"nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": ["--debug"]}}}"#;
    let machine = Machine::new(&[(DAEMON_JSON, before)]);
    machine.succeed("install --runtime docker --mountpoint /srv/view");
    let json: serde_json::Value = serde_json::from_str(&machine.read(DAEMON_JSON)).unwrap();
    assert_eq!(
        json["runtimes"]["cgview"]["runtimeArgs"],
        serde_json::json!([
            "--cgview-runtime=nvidia-container-runtime",
            "--cgview-mountpoint=/srv/view",
            "--debug"
        ])
    );
    let after = machine.read(DAEMON_JSON);
    machine.succeed("install --runtime docker");
    assert_eq!(machine.read(DAEMON_JSON), after);
    machine.succeed("uninstall --runtime docker");
    assert_eq!(machine.read(DAEMON_JSON), before);

    let machine = Machine::new(&[(DAEMON_JSON, r#"{"default-runtime": "io.containerd.kata.v2"}"#)]);
    let error = machine.fail("install --runtime docker");
    assert!(error.contains("default runtime io.containerd.kata.v2 has no path"), "{error}");
    machine.succeed("install --runtime docker --opt-in");
}

#[test]
fn a_file_that_cannot_be_understood_is_never_overwritten() {
    for (file, text, runtime, what) in [
        (DAEMON_JSON, "{\"debug\": true,}", "docker", "it is not JSON"),
        (DAEMON_JSON, "[]", "docker", "it is not an object"),
        (DAEMON_JSON, "{\"runtimes\": []}", "docker", "runtimes is not an object"),
        (CONFIG_TOML, "version = ", "containerd", "it is not TOML"),
        (CONFIG_TOML, "plugins = 1\nversion = 2", "containerd", "plugins is not a table"),
        (CONFIG_TOML, "[plugins]", "containerd", "its version 1 is too old"),
        (CONFIG_TOML, "version = 9", "containerd", "its version 9 is newer"),
    ] {
        let machine = Machine::new(&[(file, text)]);
        // Podman's files are not written either.
        let error = machine.fail(&format!("install --runtime podman,{runtime}"));
        assert!(error.contains(what) && error.contains(file), "{text}: {error}");
        assert!(error.contains("hint: no file was changed"), "{error}");
    }
}

#[test]
fn containerd_s_default_runtime_is_copied() {
    let before = "\
# ours
version = 2

[plugins.\"io.containerd.grpc.v1.cri\"]
  sandbox_image = \"registry.k8s.io/pause:3.8\" # kept

  [plugins.\"io.containerd.grpc.v1.cri\".containerd]
    default_runtime_name = \"runc\"

    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
      runtime_type = \"io.containerd.runc.v2\"

      [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]
        SystemdCgroup = true
";
    let machine = Machine::new(&[(CONFIG_TOML, before)]);
    let said = machine.succeed("install --runtime containerd");
    assert!(said.contains("systemctl restart containerd"), "{said}");
    let after = machine.read(CONFIG_TOML);
    let document: toml_edit::DocumentMut = after.parse().unwrap();
    let settings = &document["plugins"]["io.containerd.grpc.v1.cri"]["containerd"];
    assert_eq!(settings["default_runtime_name"].as_str(), Some("cgview"));
    let options = &settings["runtimes"]["cgview"]["options"];
    assert_eq!(options["SystemdCgroup"].as_bool(), Some(true));
    assert_eq!(options["BinaryName"].as_str(), Some(&*program("cgview-runtime")));
    assert!(settings["runtimes"]["runc"]["options"].get("BinaryName").is_none());
    for line in before.lines().filter(|line| !line.contains("default_runtime_name")) {
        assert!(after.lines().any(|other| other == line), "{line} in {after}");
    }
    assert!(machine.succeed("install --runtime containerd").starts_with("nothing to do"));
    // Somebody edits it, and what is cgview's goes without that.
    machine.write(CONFIG_TOML, &format!("{after}\n[debug]\nlevel = \"info\"\n"));
    machine.succeed("uninstall --runtime containerd");
    let rest = machine.read(CONFIG_TOML);
    assert!(!rest.contains("cgview") && rest.contains("level = \"info\""), "{rest}");
    assert!(rest.contains("default_runtime_name = \"runc\""), "{rest}");

    let machine = Machine::new(&[(CONFIG_TOML, before)]);
    machine.succeed("install --runtime containerd");
    machine.succeed("uninstall --runtime containerd");
    assert_eq!(machine.read(CONFIG_TOML), before);
}

#[test]
fn containerd_of_each_version_and_without_a_file() {
    let machine = Machine::new(&[(CONFIG_TOML, "version = 3\n")]);
    machine.succeed("install --runtime containerd --opt-in");
    let document: toml_edit::DocumentMut = machine.read(CONFIG_TOML).parse().unwrap();
    let settings = &document["plugins"]["io.containerd.cri.v1.runtime"]["containerd"];
    assert_eq!(
        settings["runtimes"]["cgview"]["runtime_type"].as_str(),
        Some("io.containerd.runc.v2")
    );
    assert!(settings.get("default_runtime_name").is_none());
    machine.succeed("uninstall --runtime containerd");
    assert_eq!(machine.read(CONFIG_TOML), "version = 3\n");

    let machine = Machine::new(&[]);
    machine.succeed("install --runtime containerd");
    assert!(machine.read(CONFIG_TOML).contains("version = 2"));
    machine.succeed("uninstall --runtime containerd");
    assert!(machine.files().is_empty(), "{:?}", machine.files());

    let kata = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"kata\"\n\
        [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\nruntime_type = \"io.containerd.kata.v2\"\n";
    let machine = Machine::new(&[(CONFIG_TOML, kata)]);
    let error = machine.fail("install --runtime containerd");
    assert!(error.contains("by io.containerd.kata.v2: use `cgview attach --watch`"), "{error}");
}

#[test]
fn podman_and_crio_have_a_hook() {
    let machine = Machine::new(&[("usr/share/containers/seccomp.json", "{}")]);
    let before = machine.files();
    machine.succeed("install --runtime podman,crio");
    let hook = machine.read("usr/share/containers/oci/hooks.d/cgview.json");
    let hook: serde_json::Value = serde_json::from_str(&hook).unwrap();
    assert_eq!(hook["when"], serde_json::json!({ "always": true }));
    assert_eq!(hook["hook"]["path"], program("cgview"));
    let said = machine.succeed("install --runtime podman --opt-in");
    assert!(said.contains("^cgview\\\\.dev/view$"), "{said}");
    machine.succeed("uninstall --runtime podman");
    assert_eq!(machine.files(), before);
    assert!(!machine.path("usr/share/containers/oci").exists());
}

#[test]
fn lxc_has_a_mount_hook_or_the_view_in_the_place_of_lxcfs() {
    let readme = ("usr/share/lxc/config/common.conf.d/README", "");
    let machine = Machine::new(&[readme]);
    let before = machine.files();
    machine.succeed("install --runtime lxc");
    let config = machine.read("usr/share/lxc/config/common.conf.d/10-cgview.conf");
    let hook = format!("lxc.hook.mount = {} lxc-hook\n", program("cgview"));
    assert!(config.ends_with(&hook), "{config}");
    machine.succeed("uninstall --runtime lxc");
    assert_eq!(machine.files(), before);

    let machine = Machine::new(&[readme, ("usr/share/lxc/config/common.conf.d/00-lxcfs.conf", "")]);
    let before = machine.files();
    let said = machine.succeed("install --mountpoint /srv/view");
    assert!(said.contains("systemctl restart lxcfs"), "{said}");
    let unit = machine.read("etc/systemd/system/lxcfs.service.d/cgview.conf");
    assert!(unit.contains("\nExecStart=/bin/mount --bind /srv/view /var/lib/lxcfs\n"), "{unit}");
    machine.succeed("uninstall");
    assert_eq!(machine.files(), before);
}

#[test]
fn engines_are_found() {
    let machine = Machine::new(&[]);
    let error = machine.fail("install");
    assert!(error.contains("cannot find a container engine below"), "{error}");
    // Docker's containerd is not one for Kubernetes.
    for path in ["usr/bin/podman", "usr/sbin/dockerd", "usr/bin/containerd"] {
        machine.write(path, "");
    }
    let planned = machine.succeed("install --dry-run");
    assert!(planned.contains(DAEMON_JSON) && planned.contains("hooks.d/cgview.json"), "{planned}");
    assert!(!planned.contains("containerd"), "{planned}");
    machine.write(CONFIG_TOML, "disabled_plugins = [\"cri\"]\n");
    assert!(!machine.succeed("install --dry-run").contains("containerd"));
    machine.write(CONFIG_TOML, "version = 2\n");
    assert!(machine.succeed("install --dry-run").contains(CONFIG_TOML));
}

#[test]
fn links_and_modes_stay() {
    use std::os::unix::fs::PermissionsExt as _;
    let machine = Machine::new(&[("srv/daemon.json", "{}\n"), ("etc/docker/key.json", "")]);
    let file = machine.path("srv/daemon.json");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink("../../srv/daemon.json", machine.path(DAEMON_JSON)).unwrap();
    machine.succeed("install --runtime docker");
    assert!(machine.path(DAEMON_JSON).is_symlink());
    assert!(machine.read("srv/daemon.json").contains("cgview-runtime"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    machine.succeed("uninstall --runtime docker");
    assert_eq!(machine.read("srv/daemon.json"), "{}\n");
}
