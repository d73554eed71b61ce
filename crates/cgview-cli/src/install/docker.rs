//! Docker's `/etc/docker/daemon.json`, edited as text: what is not cgview's stays to the letter.

use anyhow::{Context, bail};
use jsonc_parser::{
    ParseOptions,
    cst::{CstInputValue, CstObject, CstRootNode},
};
use serde_json::Value;

use super::Setup;
use crate::mountpoint;

const NAME: &str = "cgview";

/// The text with the runtime `cgview`, which is the default one unless containers are to ask for it.
pub(super) fn install(text: Option<&str>, setup: &Setup) -> anyhow::Result<String> {
    let (root, values) = parse(text.filter(|text| !text.trim().is_empty()).unwrap_or("{}\n"))?;
    let object = root.object_value().context("it is not an object")?;
    let default = values.get("default-runtime").and_then(Value::as_str).unwrap_or("runc");
    // A default that is not Docker's own goes on behind cgview's.
    let wrapped = match default {
        NAME => None,
        // Nor one that stays the default.
        other if other == "runc" || setup.opt_in => Some(Vec::new()),
        other => Some(arguments_for(&values, other)?),
    };
    let runtimes = object_at(&object, "runtimes")?;
    match (runtimes.get(NAME), wrapped) {
        // It wraps what it wrapped; its path may have changed.
        (Some(entry), None) => {
            let entry = entry.object_value().context("runtimes.cgview is not an object")?;
            set(&entry, "path", string(setup.program("cgview-runtime").display()));
        }
        (entry, wrapped) => {
            let mut arguments = wrapped.unwrap_or_default();
            if setup.mountpoint.as_os_str() != mountpoint::DEFAULT {
                arguments.push(format!("--cgview-mountpoint={}", setup.mountpoint.display()));
            }
            // Ours come first, the wrapped runtime's own after them.
            arguments.sort_by_key(|argument| !argument.starts_with("--cgview-"));
            let mut value =
                vec![("path".to_owned(), string(setup.program("cgview-runtime").display()))];
            if !arguments.is_empty() {
                let list = arguments.iter().map(string).collect();
                value.push(("runtimeArgs".to_owned(), CstInputValue::Array(list)));
            }
            let value = CstInputValue::Object(value);
            match entry {
                Some(entry) if is(&entry.to_serde_value(), &value) => {}
                Some(entry) => entry.set_value(value),
                None => drop(runtimes.append(NAME, value)),
            }
        }
    }
    if !setup.opt_in && default != NAME {
        set(&object, "default-runtime", string(NAME));
    }
    Ok(ended(root.to_string()))
}

/// The text without it. `saved` is what was before.
pub(super) fn uninstall(text: &str, saved: Option<&str>) -> anyhow::Result<String> {
    let (root, values) = parse(text)?;
    let object = root.object_value().context("it is not an object")?;
    if values.get("default-runtime").and_then(Value::as_str) == Some(NAME)
        && let Some(property) = object.get("default-runtime")
    {
        let before = saved.and_then(|saved| serde_json::from_str::<Value>(saved).ok());
        match before.as_ref().and_then(|before| before.get("default-runtime")?.as_str()) {
            Some(before) if before != NAME => property.set_value(string(before)),
            _ => property.remove(),
        }
    }
    if let Some(runtimes) = object.object_value("runtimes")
        && let Some(entry) = runtimes.get(NAME)
    {
        entry.remove();
        if runtimes.properties().is_empty()
            && let Some(property) = object.get("runtimes")
        {
            property.remove();
        }
    }
    Ok(ended(root.to_string()))
}

/// Whether two texts say the same.
pub(super) fn same(a: &str, b: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Strictly, as Docker does, and with all blanks.
fn parse(text: &str) -> anyhow::Result<(CstRootNode, Value)> {
    let values: Value = serde_json::from_str(text).context("it is not JSON")?;
    let root = CstRootNode::parse(text, &ParseOptions::default()).context("it is not JSON")?;
    Ok((root, values))
}

/// How the wrapper is to start a runtime that the file defines.
fn arguments_for(values: &Value, name: &str) -> anyhow::Result<Vec<String>> {
    let runtime = values.get("runtimes").and_then(|all| all.get(name));
    let Some(path) = runtime.and_then(|runtime| runtime.get("path")?.as_str()) else {
        bail!(
            "the default runtime {name} has no path, as it is not one that is called like runc: \
             use --opt-in to leave it the default, or `cgview attach --watch`"
        );
    };
    let own = runtime.and_then(|runtime| runtime.get("runtimeArgs")?.as_array());
    let own = own.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    Ok([format!("--cgview-runtime={path}")].into_iter().chain(own).collect())
}

fn object_at(object: &CstObject, name: &str) -> anyhow::Result<CstObject> {
    object.object_value_or_create(name).with_context(|| format!("{name} is not an object"))
}

fn set(object: &CstObject, name: &str, value: CstInputValue) {
    match object.get(name) {
        Some(property) if is(&property.to_serde_value(), &value) => {}
        Some(property) => property.set_value(value),
        None => drop(object.append(name, value)),
    }
}

fn string(text: impl ToString) -> CstInputValue {
    CstInputValue::String(text.to_string())
}

/// Whether a value is there already.
fn is(found: &Option<Value>, wanted: &CstInputValue) -> bool {
    fn value(input: &CstInputValue) -> Value {
        match input {
            CstInputValue::String(text) => Value::String(text.clone()),
            CstInputValue::Array(list) => Value::Array(list.iter().map(value).collect()),
            CstInputValue::Object(list) => Value::Object(
                list.iter().map(|(name, input)| (name.clone(), value(input))).collect(),
            ),
            _ => Value::Null,
        }
    }
    found.as_ref() == Some(&value(wanted))
}

fn ended(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
