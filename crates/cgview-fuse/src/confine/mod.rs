//! What the daemon gives up before it answers the first request: capabilities, files, system calls.
//!
//! [`apply`] confines the calling thread, and all threads that it starts from then on. Before that it starts
//! the one thread that is confined in another way, the [`deputy`]: it may look at which namespaces a process
//! is in and enter cgroup namespaces, and has a dozen system calls to do it with.
//!
//! What a kernel does not have is left out, and said in the log. `docs/security.md` tells what is in force
//! and why.

mod calls;
mod paths;
mod rights;

use cgview_host::{Host, deputy};

use crate::settings::Settings;

/// What the rights depend on.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Which files are written, and whether triggers are taken.
    pub settings: &'a Settings,
    /// What is read.
    pub host: &'a Host,
    /// Whether this process has mounted and is to unmount: the deputy can then.
    pub unmounts: bool,
}

/// What is in force for the thread that called [`apply`], and those that it starts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct InForce {
    /// All capabilities but a few are gone.
    pub rights: bool,
    /// Files by Landlock.
    pub paths: bool,
    /// System calls by seccomp.
    pub calls: bool,
}

/// The result of one part: words for the log, or why it is missing.
type Part = Result<String, String>;

/// Gives up what `plan` does not take, as far as the kernel knows how, and logs what is in force.
///
/// To be called once, by the thread that is to start all others; not in a process of which the daemon is only
/// a part.
pub fn apply(plan: &Plan<'_>) -> InForce {
    if !plan.settings.confine {
        tracing::warn!("not confined, as the settings have it");
        return InForce::default();
    }
    let hidden = rights::is_proc_hidden();
    let unmounts = plan.unmounts;
    let deputy = deputy::start(move || {
        [rights::limit(rights::of_deputy()), calls::limit(calls::Who::Deputy { unmounts })]
    });
    match deputy {
        Ok(parts) => {
            log(&parts, "the deputy is not confined by", |done| {
                tracing::debug!("the deputy is confined: {done}");
            });
        }
        Err(error) => {
            tracing::warn!("not confined: cannot start the deputy: {error}");
            return InForce::default();
        }
    }

    let (own, landlock) = if hidden {
        // Then all threads need what only the deputy may do elsewhere.
        let why = "Landlock: /proc is mounted with hidepid, and would look empty";
        (rights::of_deputy(), Err(why.to_owned()))
    } else {
        let own = rights::of_service(plan.settings.psi_triggers);
        (own, paths::limit(plan.settings, plan.host))
    };
    // Opening a path for Landlock's rules may take rights, so these go after it.
    let rights = rights::limit(own);
    let parts = [rights, landlock, calls::limit(calls::Who::Service)];
    log(&parts, "not confined by", |done| tracing::info!("confined: {done}"));
    let [rights, paths, calls] = parts.map(|part| part.is_ok());
    InForce { rights, paths, calls }
}

fn log(parts: &[Part], missing: &str, done: impl FnOnce(&str)) {
    for part in parts.iter().filter_map(|part| part.as_ref().err()) {
        tracing::warn!("{missing} {part}");
    }
    let words: Vec<_> = parts.iter().filter_map(|part| part.as_deref().ok()).collect();
    done(&words.join("; "));
}
