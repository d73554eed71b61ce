//! containerd's `/etc/containerd/config.toml`, the part that Kubernetes uses (CRI), edited as text.

use anyhow::{Context, bail};
use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use super::Setup;
use crate::mountpoint;

const NAME: &str = "cgview";

/// What a runtime is called by that is started like runc.
const RUNC_SHIM: &str = "io.containerd.runc.v2";

/// Where CRI's settings are, by the version of the file (containerd's `docs/cri/config.md`).
const CRI: [(i64, &str); 2] =
    [(2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.runtime")];

/// The text with the runtime `cgview`, like the default one but for the program, and the default one itself
/// unless pods are to ask for it.
pub(super) fn install(text: Option<&str>, setup: &Setup) -> anyhow::Result<String> {
    let mut document = parse(text.unwrap_or_default())?;
    if text.is_none_or(|text| text.trim().is_empty()) {
        document.insert("version", value(2));
    }
    let plugin = cri(&document)?;
    let settings = path(document.as_table_mut(), &["plugins", plugin, "containerd"])?;
    let default = settings.get("default_runtime_name").and_then(Item::as_str);
    let default = default.unwrap_or("runc").to_owned();
    let runtimes = path(settings, &["runtimes"])?;
    let base = runtimes.get(if default == NAME { "runc" } else { &default });
    let mut runtime = match (runtimes.get(NAME), base) {
        (Some(own), _) => own.clone(),
        (None, Some(base)) => base.clone(),
        (None, None) => Item::Table(Table::new()),
    };
    let fields = runtime.as_table_like_mut().context("its runtimes are no tables")?;
    let shim = fields.get("runtime_type").and_then(Item::as_str).unwrap_or(RUNC_SHIM).to_owned();
    if shim != RUNC_SHIM {
        bail!(
            "its default runtime {default} is not started like runc, but by {shim}: use `cgview attach --watch`"
        );
    }
    set(fields, "runtime_type", RUNC_SHIM);
    let options = path(fields, &["options"])?;
    let program = options.get("BinaryName").and_then(Item::as_str).unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    let wrapper = match name {
        "" | "runc" | "cgview-runtime" => "cgview-runtime",
        "crun" | "cgview-crun" => "cgview-crun",
        _ => bail!(
            "its default runtime {default} has the program {program}, which cgview-runtime cannot stand for: \
             use `cgview attach --watch`"
        ),
    };
    set(options, "BinaryName", &setup.program(wrapper).display().to_string());
    if setup.mountpoint.as_os_str() != mountpoint::DEFAULT {
        bail!("containerd passes no options on: mount the view at {}", mountpoint::DEFAULT);
    }
    if runtimes.get(NAME).map(ToString::to_string) != Some(runtime.to_string()) {
        // At the end, whatever was copied.
        unplace(&mut runtime);
        runtimes.insert(NAME, runtime);
    }
    if !setup.opt_in {
        set(settings, "default_runtime_name", NAME);
    }
    Ok(document.to_string())
}

/// The text without it. `saved` is what was before.
pub(super) fn uninstall(text: &str, saved: Option<&str>) -> anyhow::Result<String> {
    let mut document = parse(text)?;
    let plugin = cri(&document)?;
    let before = saved.and_then(|saved| parse(saved).ok());
    let before = before.as_ref().and_then(|document| {
        let settings = document.get("plugins")?.get(cri(document).ok()?)?.get("containerd")?;
        settings.get("default_runtime_name")?.as_str()
    });
    let steps = ["plugins", plugin, "containerd", "runtimes"];
    if let Some(settings) = find(document.as_table_mut(), &steps[..3]) {
        if settings.get("default_runtime_name").and_then(Item::as_str) == Some(NAME) {
            match before {
                Some(before) if before != NAME => set(settings, "default_runtime_name", before),
                _ => drop(settings.remove("default_runtime_name")),
            }
        }
        if let Some(runtimes) = find(settings, &steps[3..]) {
            runtimes.remove(NAME);
        }
    }
    // Tables that were made for it.
    for depth in (1..=steps.len()).rev() {
        let Some((name, above)) = steps.get(..depth).and_then(<[&str]>::split_last) else { break };
        let Some(parent) = find(document.as_table_mut(), above) else { continue };
        if parent.get(name).and_then(Item::as_table_like).is_some_and(|table| table.is_empty()) {
            parent.remove(name);
        }
    }
    Ok(document.to_string())
}

/// Whether two texts say the same.
pub(super) fn same(a: &str, b: &str) -> bool {
    let words = |text: &str| {
        let blank = |line: &&str| !line.trim().is_empty();
        text.lines().map(str::trim).filter(blank).map(str::to_owned).collect::<Vec<_>>()
    };
    words(a) == words(b)
}

/// Whether the file leaves CRI on: Docker's package of containerd turns it off.
pub(super) fn has_cri(text: &str) -> bool {
    let Ok(document) = parse(text) else { return true };
    let off = document.get("disabled_plugins").and_then(Item::as_array);
    !off.is_some_and(|list| {
        list.iter()
            .filter_map(|name| name.as_str())
            .any(|name| name == "cri" || CRI.iter().any(|(_, plugin)| *plugin == name))
    })
}

fn parse(text: &str) -> anyhow::Result<DocumentMut> {
    text.parse().context("it is not TOML")
}

/// The name of CRI's part.
fn cri(document: &DocumentMut) -> anyhow::Result<&'static str> {
    let version = document.get("version").and_then(Item::as_integer).unwrap_or(1);
    match CRI.iter().find(|(known, _)| *known == version) {
        Some((_, plugin)) => Ok(plugin),
        None if version < 2 => {
            bail!("its version 1 is too old: write version 2, as by `containerd config default`")
        }
        None => bail!("its version {version} is newer than this program"),
    }
}

/// The table at a path, made if it is not there.
fn path<'a>(table: &'a mut dyn TableLike, names: &[&str]) -> anyhow::Result<&'a mut dyn TableLike> {
    let Some((first, rest)) = names.split_first() else { return Ok(table) };
    let item = table.entry(first).or_insert_with(|| {
        let mut new = Table::new();
        // Without a header of its own as long as it has nothing but tables.
        new.set_implicit(true);
        Item::Table(new)
    });
    let next = item.as_table_like_mut().with_context(|| format!("{first} is not a table"))?;
    path(next, rest)
}

fn find<'a>(table: &'a mut dyn TableLike, names: &[&str]) -> Option<&'a mut dyn TableLike> {
    let Some((first, rest)) = names.split_first() else { return Some(table) };
    find(table.get_mut(first)?.as_table_like_mut()?, rest)
}

/// Sets a value unless it is that, and keeps the comments around it.
fn set(table: &mut dyn TableLike, name: &str, text: &str) {
    match table.get_mut(name).and_then(Item::as_value_mut) {
        Some(found) if found.as_str() == Some(text) => {}
        Some(found) => {
            let decor = found.decor().clone();
            *found = text.into();
            *found.decor_mut() = decor;
        }
        None => drop(table.insert(name, value(text))),
    }
}

/// Has a copied table printed after those that are there.
fn unplace(item: &mut Item) {
    if let Item::Table(table) = item {
        table.set_position(None);
        table.decor_mut().set_prefix("\n");
        for (_, item) in table.iter_mut() {
            unplace(item);
        }
    }
}
