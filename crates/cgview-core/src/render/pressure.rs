//! `/proc/pressure/*`.

use crate::{
    explain::Output,
    tree::ProcFile,
    view::{Error, View},
};

pub(crate) fn render(
    view: &View<'_>,
    file: ProcFile,
    host: &[u8],
    out: &mut Output<'_>,
) -> Result<(), Error> {
    let _ = (view, file);
    out.copy(host);
    Ok(())
}
