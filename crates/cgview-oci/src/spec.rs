//! Changes to a bundle's `config.json`, as text of which nothing is lost: it may have fields that are newer than this
//! program.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::Hook;

/// Why a specification stays as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be read, or not be replaced.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It is not JSON.
    #[error("cannot parse {}", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A part of it is not what the runtime-spec says.
    #[error("{0} is not {1}")]
    Shape(&'static str, &'static str),
}

/// Adds the hook, unless it is there.
///
/// # Errors
///
/// [`Error::Shape`] if there is no place for it.
pub fn add_hook(spec: &mut Value, hook: &Hook) -> Result<(), Error> {
    let spec = spec.as_object_mut().ok_or(Error::Shape("config.json", "an object"))?;
    let hooks = object(spec, "hooks", "hooks")?;
    let stage = array(hooks, "createContainer", "hooks.createContainer")?;
    let is_ours = |entry: &Value| {
        entry.get("path").and_then(Value::as_str).map(Path::new) == Some(&hook.path)
            && entry.pointer("/args/1").and_then(Value::as_str) == hook.args.get(1).map(|s| &**s)
    };
    if !stage.iter().any(is_ours) {
        stage.push(json!(hook));
    }
    Ok(())
}

/// Gives the container a time namespace whose boot clock begins now, so that uptime, start times of processes and
/// sysinfo(2) agree. `uptime` is what the boot clock says now (`CLOCK_BOOTTIME`). A container that joins a time
/// namespace, or has offsets, keeps them; says whether it was changed.
///
/// # Errors
///
/// [`Error::Shape`] if there is no place for it.
pub fn begin_boot_clock(spec: &mut Value, uptime: Duration) -> Result<bool, Error> {
    let spec = spec.as_object_mut().ok_or(Error::Shape("config.json", "an object"))?;
    let linux = object(spec, "linux", "linux")?;
    if linux.get("timeOffsets").is_some_and(|offsets| !offsets.is_null()) {
        return Ok(false);
    }
    let namespaces = array(linux, "namespaces", "linux.namespaces")?;
    let kind = |entry: &Value| entry.get("type").and_then(Value::as_str) == Some("time");
    match namespaces.iter().find(|entry| kind(entry)) {
        Some(entry) if entry.get("path").and_then(Value::as_str).is_some_and(|p| !p.is_empty()) => {
            return Ok(false);
        }
        Some(_) => {}
        None => namespaces.push(json!({ "type": "time" })),
    }
    // timens_set_vdso_data() takes no clock below zero: whole seconds are rounded down.
    let seconds = i64::try_from(uptime.as_secs()).unwrap_or(i64::MAX);
    let offsets = json!({ "boottime": { "secs": -seconds, "nanosecs": 0 } });
    linux.insert("timeOffsets".to_owned(), offsets);
    Ok(true)
}

fn object<'a>(
    parent: &'a mut Map<String, Value>,
    name: &str,
    path: &'static str,
) -> Result<&'a mut Map<String, Value>, Error> {
    let value = parent.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or(Error::Shape(path, "an object"))
}

fn array<'a>(
    parent: &'a mut Map<String, Value>,
    name: &str,
    path: &'static str,
) -> Result<&'a mut Vec<Value>, Error> {
    let value = parent.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().ok_or(Error::Shape(path, "a list"))
}

/// Changes a file as a whole or not at all: who reads it meanwhile sees one or the other.
///
/// # Errors
///
/// If it cannot be read or replaced, or `change` fails; it then is as it was.
pub fn edit(
    path: &Path,
    change: impl FnOnce(&mut Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |what| move |source| Error::File { what, path: path.to_owned(), source };
    let text = fs::read(path).map_err(failed("read"))?;
    let mut spec: Value = serde_json::from_slice(&text)
        .map_err(|source| Error::Json { path: path.to_owned(), source })?;
    let before = spec.clone();
    change(&mut spec)?;
    if spec == before {
        return Ok(());
    }
    let replace = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut new = tempfile::Builder::new().prefix(".config.json.").tempfile_in(dir)?;
        serde_json::to_writer(&mut new, &spec)?;
        new.flush()?;
        new.as_file().set_permissions(fs::metadata(path)?.permissions())?;
        new.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    replace().map_err(failed("replace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook() -> Hook {
        Hook::new(Path::new("/usr/bin/cgview"), &[])
    }

    #[test]
    fn a_hook_is_added_once_and_after_others() {
        let other = json!({ "path": "/usr/bin/other", "args": ["other"] });
        let mut spec = json!({ "hooks": { "createContainer": [other] }, "x-new": 1.5 });
        add_hook(&mut spec, &hook()).unwrap();
        let once = spec.clone();
        add_hook(&mut spec, &hook()).unwrap();
        assert_eq!(spec, once);
        assert_eq!(
            spec,
            json!({ "x-new": 1.5, "hooks": { "createContainer": [other, {
                "path": "/usr/bin/cgview", "args": ["cgview", "oci-hook"], "timeout": 30 }] } })
        );
        for mut spec in [json!({}), json!({ "hooks": null }), json!({ "hooks": {} })] {
            add_hook(&mut spec, &hook()).unwrap();
            assert_eq!(spec["hooks"]["createContainer"][0]["path"], "/usr/bin/cgview");
        }
    }

    #[test]
    fn what_is_not_a_specification_is_left_alone() {
        for spec in
            [json!([]), json!({ "hooks": 1 }), json!({ "hooks": { "createContainer": {} } })]
        {
            assert!(add_hook(&mut spec.clone(), &hook()).is_err(), "{spec}");
        }
    }

    #[test]
    fn a_boot_clock_begins_at_zero() {
        let mut spec = json!({ "linux": { "namespaces": [{ "type": "pid" }] } });
        assert!(begin_boot_clock(&mut spec, Duration::from_millis(1_234_900)).unwrap());
        assert_eq!(
            spec,
            json!({ "linux": {
                "namespaces": [{ "type": "pid" }, { "type": "time" }],
                "timeOffsets": { "boottime": { "secs": -1234, "nanosecs": 0 } },
            } })
        );
        // Docker since 29.5: a namespace of its own, and no offset.
        let mut spec = json!({ "linux": { "namespaces": [{ "type": "time" }] } });
        assert!(begin_boot_clock(&mut spec, Duration::from_secs(5)).unwrap());
        assert_eq!(spec["linux"]["namespaces"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_boot_clock_that_was_asked_for_stays() {
        for spec in [
            json!({ "linux": { "namespaces": [{ "type": "time", "path": "/proc/7/ns/time" }] } }),
            json!({ "linux": { "namespaces": [{ "type": "time" }],
                "timeOffsets": { "boottime": { "secs": 7 } } } }),
        ] {
            let mut changed = spec.clone();
            assert!(!begin_boot_clock(&mut changed, Duration::from_secs(5)).unwrap());
            assert_eq!(changed, spec);
        }
    }

    #[test]
    fn a_file_is_changed_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, r#"{"process":{"rlimits":[18446744073709551615]}}"#).unwrap();
        edit(&path, |spec| add_hook(spec, &hook())).unwrap();
        let changed = fs::read_to_string(&path).unwrap();
        assert!(changed.contains("18446744073709551615") && changed.contains("oci-hook"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        for text in ["{", "[]"] {
            fs::write(&path, text).unwrap();
            edit(&path, |spec| add_hook(spec, &hook())).unwrap_err();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let error = edit(&dir.path().join("none"), |_| Ok(())).unwrap_err();
        assert!(error.to_string().starts_with("cannot read "), "{error}");
    }
}
