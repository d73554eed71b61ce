//! A change of one file, shown before it is made.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{diff::Style, output::Color};

/// What becomes of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Change {
    path: PathBuf,
    /// `None`: there was none.
    before: Option<String>,
    /// `None`: it is removed.
    after: Option<String>,
    /// Whether people are to see it. A copy of what was is not worth a diff.
    is_copy: bool,
}

/// Where what was is kept.
pub(super) fn saved(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".cgview-saved");
    name.into()
}

/// The text of a file, if there is one.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

impl Change {
    /// Of a file, if it is one.
    pub(super) fn new(
        path: &Path,
        before: Option<String>,
        after: Option<String>,
    ) -> Option<Change> {
        (before != after).then(|| Change { path: path.to_owned(), before, after, is_copy: false })
    }

    /// The same for the copy of what was.
    pub(super) fn copy(
        path: &Path,
        before: Option<String>,
        after: Option<String>,
    ) -> Option<Change> {
        Some(Change { is_copy: true, ..Change::new(&saved(path), before, after)? })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn diff(&self, color: Color) -> String {
        if self.is_copy {
            return String::new();
        }
        let name = |text: &Option<String>| match text {
            Some(_) => self.path.display().to_string(),
            None => "/dev/null".to_owned(),
        };
        let bytes = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
        Style::new(color).diff(
            [name(&self.before), name(&self.after)],
            &bytes(&self.before),
            &bytes(&self.after),
        )
    }

    /// Makes it: the file is replaced as a whole, and keeps its mode and owner.
    pub(super) fn make(&self) -> anyhow::Result<()> {
        // A link stays one.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let dir = path.parent().unwrap_or(Path::new("/"));
        match &self.after {
            Some(text) => {
                let write = || {
                    fs::create_dir_all(dir)?;
                    let mut new = tempfile::Builder::new().prefix(".cgview.").tempfile_in(dir)?;
                    new.write_all(text.as_bytes())?;
                    match fs::metadata(&path) {
                        Ok(metadata) => {
                            use std::os::unix::fs::MetadataExt as _;
                            new.as_file().set_permissions(metadata.permissions())?;
                            std::os::unix::fs::fchown(
                                new.as_file(),
                                Some(metadata.uid()),
                                Some(metadata.gid()),
                            )?;
                        }
                        Err(_) => {
                            new.as_file().set_permissions(fs::Permissions::from_mode(0o644))?
                        }
                    }
                    new.as_file().sync_all()?;
                    new.persist(&path).map_err(|error| error.error)?;
                    Ok::<(), std::io::Error>(())
                };
                write().with_context(|| format!("cannot write {}", path.display()))
            }
            None => {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(error).context(format!("cannot remove {}", path.display()));
                    }
                    _ => {}
                }
                // Directories that were made for it.
                for dir in path.ancestors().skip(1).take(2) {
                    if fs::remove_dir(dir).is_err() {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}
