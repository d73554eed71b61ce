//! A file of an engine's configuration, and how cgview gets into it and out of it.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Setup, change, change::Change, containerd, docker};
use crate::report::Advice;

/// One file.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) setup: Setup,
}

/// Whose it is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// All of it is cgview's.
    Own(String),
    /// Docker's `daemon.json`.
    Docker,
    /// containerd's `config.toml`.
    Containerd,
}

impl File {
    /// What makes it have cgview.
    pub(super) fn install(&self) -> anyhow::Result<Vec<Change>> {
        let before = change::read(&self.path)?;
        let after = self.with(before.as_deref())?;
        let is_shared = !matches!(self.kind, Kind::Own(_));
        // What was there before cgview came is kept.
        let saved = change::read(&change::saved(&self.path))?;
        let copy = (is_shared && saved.is_none() && before.as_ref() != Some(&after))
            .then(|| Change::copy(&self.path, None, before.clone()))
            .flatten();
        Ok(copy.into_iter().chain(Change::new(&self.path, before, Some(after))).collect())
    }

    /// What makes it be without.
    pub(super) fn uninstall(&self) -> anyhow::Result<Vec<Change>> {
        let before = change::read(&self.path)?;
        let saved = change::read(&change::saved(&self.path))?;
        let after = match (&self.kind, &before) {
            (Kind::Own(_), _) | (_, None) => None,
            (_, Some(text)) => self.without(text, saved.as_deref())?,
        };
        let copy = Change::copy(&self.path, saved, None);
        Ok(Change::new(&self.path, before, after).into_iter().chain(copy).collect())
    }

    fn with(&self, text: Option<&str>) -> anyhow::Result<String> {
        self.parsed(match &self.kind {
            Kind::Own(text) => Ok(text.clone()),
            Kind::Docker => docker::install(text, &self.setup),
            Kind::Containerd => containerd::install(text, &self.setup),
        })
    }

    /// `None` if nothing is left of it that was not cgview's.
    fn without(&self, text: &str, saved: Option<&str>) -> anyhow::Result<Option<String>> {
        let rest = self.parsed(match self.kind {
            Kind::Own(_) => return Ok(None),
            Kind::Docker => docker::uninstall(text, saved),
            Kind::Containerd => containerd::uninstall(text, saved),
        })?;
        // Nobody else changed it: to the letter as it was.
        if let Some(saved) = saved
            && self.means_the_same(&rest, saved)
        {
            return Ok(Some(saved.to_owned()));
        }
        let is_new = saved.is_none() && rest != text && self.is_empty(&rest);
        Ok((!is_new).then_some(rest))
    }

    fn means_the_same(&self, a: &str, b: &str) -> bool {
        match self.kind {
            Kind::Own(_) => a == b,
            Kind::Docker => docker::same(a, b),
            Kind::Containerd => containerd::same(a, b),
        }
    }

    fn is_empty(&self, text: &str) -> bool {
        match self.kind {
            Kind::Own(_) => true,
            Kind::Docker => docker::same(text, "{}"),
            Kind::Containerd => containerd::same(text, "version = 2"),
        }
    }

    /// Names the file in what is wrong with it.
    fn parsed<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        result.with_context(|| {
            Advice::new(
                format!("cannot change {}", self.path.display()),
                "no file was changed; mend this one, and run the command again.",
            )
        })
    }
}

/// A path of the machine below the root that was given.
pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}
