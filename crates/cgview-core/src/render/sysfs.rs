//! `/sys/devices/system/cpu` and `node`.

use alloc::string::String;

use crate::{
    explain::Output,
    tree::{Entry, SysFile},
    view::{Error, View},
};

pub(crate) fn render(
    view: &View<'_>,
    file: SysFile,
    host: &[u8],
    out: &mut Output<'_>,
) -> Result<(), Error> {
    let _ = (view, file);
    out.copy(host);
    Ok(())
}

pub(crate) fn shows(view: &View<'_>, entry: Entry) -> bool {
    let _ = (view, entry);
    true
}

pub(crate) fn host_path(view: &View<'_>, entry: Entry) -> Option<String> {
    let _ = view;
    Some(entry.path())
}
