//! What a runtime tells a hook: the state of the container on the standard input (runtime-spec, `runtime.md`,
//! "State"), and the bundle that it names.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{PROC_SUPER_MAGIC, statfs};
use serde::Deserialize;

use crate::{ANNOTATION, OPT_OUT};

/// The state of a container, as far as the hook needs it. All fields may be missing: runtimes differ.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct State {
    /// The container's name.
    pub id: String,
    /// The directory of `config.json`.
    pub bundle: PathBuf,
    /// Its root, which crun tells.
    pub root: Option<PathBuf>,
    /// Those of `config.json`.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Of `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    root: Root,
    process: Process,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Root {
    path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Process {
    env: Vec<String>,
}

/// Why there is nothing to do, or nothing that can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bundle has no `config.json` that can be read.
    #[error("cannot read {}", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It is not a specification.
    #[error("cannot parse {}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// No directory is the container's root with its `/proc` mounted.
    #[error(
        "cannot find the container's root with a /proc at {}: the hook is for stage createContainer",
        tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    Root {
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
}

/// What the hook is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// Mount the view below this root.
    View(PathBuf),
    /// Nothing: the container is not to have it, for this reason.
    Nothing(&'static str),
}

impl State {
    /// Finds out what is wanted, in the container's mount namespace.
    ///
    /// # Errors
    ///
    /// If the bundle cannot be read, or no root is found.
    pub fn wanted(&self) -> Result<Wanted, Error> {
        let path = self.bundle.join("config.json");
        let config = match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| Error::Parse { path, source })?
            }
            // As it is for a root of a user namespace of its own.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Config::default(),
            Err(source) => return Err(Error::Config { path, source }),
        };
        let annotation = self.annotations.as_ref().and_then(|all| all.get(ANNOTATION));
        if annotation.is_some_and(|value| value == "none") {
            return Ok(Wanted::Nothing("its annotation cgview.dev/view is none"));
        }
        if config.process.env.iter().any(|variable| variable == OPT_OUT) {
            return Ok(Wanted::Nothing("it has CGVIEW=none in its environment"));
        }
        // runc starts a hook in the root, which is what is left where a user namespace may not see the path to it.
        let named = self.bundle.join(&config.root.path);
        let tried: Vec<_> = self.root.iter().cloned().chain([named, PathBuf::from(".")]).collect();
        match tried.iter().find(|root| is_root_of_container(root)) {
            Some(root) => Ok(Wanted::View(root.clone())),
            None => Err(Error::Root { tried }),
        }
    }
}

/// Whether a directory has procfs mounted, and is not the root of the machine.
fn is_root_of_container(root: &Path) -> bool {
    let is_own_root = || {
        let (Ok(root), Ok(own)) = (rustix::fs::stat(root), rustix::fs::stat("/")) else {
            return true;
        };
        (root.st_dev, root.st_ino) == (own.st_dev, own.st_ino)
    };
    let is_proc = statfs(root.join("proc")).is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC);
    is_proc && !is_own_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config).unwrap();
        dir
    }

    fn state(bundle: &Path, more: &str) -> State {
        let text = format!("{{\"bundle\": \"{}\"{more}}}", bundle.display());
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_container_may_do_without() {
        let dir = bundle(r#"{"root":{"path":"rootfs"},"process":{"env":["A=1","CGVIEW=none"]}}"#);
        assert!(matches!(state(dir.path(), "").wanted(), Ok(Wanted::Nothing(_))));
        let dir = bundle("{}");
        let none = state(dir.path(), r#", "annotations": {"cgview.dev/view": "none"}"#);
        assert!(matches!(none.wanted(), Ok(Wanted::Nothing(_))));
    }

    #[test]
    fn the_machine_s_own_root_is_nobody_s() {
        for root in ["/", "/../", "rootfs"] {
            let dir = bundle(&format!(r#"{{"root":{{"path":"{root}"}}}}"#));
            let error = state(dir.path(), r#", "pid": 0, "annotations": null"#).wanted();
            assert!(matches!(error, Err(Error::Root { .. })), "{error:?}");
        }
    }

    #[test]
    fn a_bundle_that_cannot_be_read_is_named() {
        let dir = bundle("{");
        let error = state(dir.path(), "").wanted().unwrap_err();
        assert!(error.to_string().starts_with("cannot parse /"), "{error}");
        let error = state(Path::new("/none"), "").wanted().unwrap_err();
        assert_eq!(error.to_string(), "cannot read /none/config.json");
    }
}
