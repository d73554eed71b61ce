//! Capabilities: which are kept, and in which thread.

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    },
};

/// What the threads that answer requests keep.
///
/// `DAC_READ_SEARCH` is for cgroups that were given to a container's user, who may have taken the right to
/// read their directories or files from all others. `DAC_OVERRIDE`, with triggers on, is for opening pressure
/// files that such a user owns; it is permitted, and in effect only while that is done.
pub(super) fn of_service(triggers: bool) -> CapabilitySets {
    let effective = CapabilitySet::DAC_READ_SEARCH;
    let permitted = if triggers { effective | CapabilitySet::DAC_OVERRIDE } else { effective };
    CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() }
}

/// What the deputy keeps.
///
/// `SYS_PTRACE` is what the kernel asks for before it tells the namespaces of a process that has another user
/// or more rights (`ptrace_may_access()`). `SYS_ADMIN` is what it takes to enter a cgroup namespace, which is
/// the only way to learn where that begins (`cgroupns_install()`), and to unmount.
pub(super) fn of_deputy() -> CapabilitySets {
    let kept =
        CapabilitySet::SYS_PTRACE | CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH;
    CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() }
}

/// Gives up, in this thread, all other capabilities for good: no program that it could start would get them
/// back either. Those that it has not are not missed here, but where they are needed.
pub(super) fn limit(kept: CapabilitySets) -> Result<String, String> {
    give_up(kept).map_err(|errno| format!("capabilities: {errno}"))
}

fn give_up(kept: CapabilitySets) -> Result<String, Errno> {
    let had = capabilities(None)?.permitted;
    let permitted = kept.permitted & had;
    // Needs SETPCAP, and so it comes first. A unit or a runtime may have kept that from us, and set a bound
    // itself; no program can be started anyway, and no right be gained by starting one.
    let bounded = match bound(permitted) {
        Err(Errno::PERM) => " (within the bound that was there)",
        result => result.map(|()| "")?,
    };
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept.effective & had,
            permitted,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    clear_ambient_capability_set()?;
    set_no_new_privs(true)?;
    Ok(format!("capabilities {}{bounded}", names(permitted)))
}

/// Takes all but `kept` from the bounding set.
fn bound(kept: CapabilitySet) -> Result<(), Errno> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => {
                remove_capability_from_bounding_set(capability)?;
            }
            Ok(_) => {}
            // The kernel knows no more.
            Err(_) => break,
        }
    }
    Ok(())
}

fn names(set: CapabilitySet) -> String {
    let names: Vec<String> =
        set.iter_names().map(|(name, _)| format!("cap_{}", name.to_lowercase())).collect();
    if names.is_empty() { "none".into() } else { names.join(",") }
}

/// Whether `/proc` shows only processes that one may trace (`hidepid` of proc(5)).
pub(super) fn is_proc_hidden() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    hides_processes(&mounts)
}

fn hides_processes(mounts: &str) -> bool {
    let proc = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/proc"));
    let options = proc.and_then(|line| line.split(' ').nth(3)).unwrap_or_default();
    options.split(',').any(|option| {
        option.strip_prefix("hidepid=").is_some_and(|value| value != "0" && value != "off")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_up_its_own_rights() {
        let before = capabilities(None).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                give_up(of_service(false)).unwrap();
                let now = capabilities(None).unwrap();
                assert!(of_service(false).permitted.contains(now.permitted));
                assert_eq!(now.inheritable, CapabilitySet::empty());
                assert!(rustix::thread::no_new_privs().unwrap());
            });
        });
        assert_eq!(capabilities(None).unwrap(), before);
        assert!(!rustix::thread::no_new_privs().unwrap());
    }

    #[test]
    fn a_proc_that_hides_processes_is_known() {
        let proc =
            |options: &str| format!("proc /proc proc rw,relatime{options} 0 0\nx /a y rw 0 0\n");
        assert!(!hides_processes(&proc("")));
        assert!(!hides_processes(&proc(",hidepid=0")));
        assert!(!hides_processes(&proc(",hidepid=off")));
        for value in ["1", "2", "noaccess", "invisible", "ptraceable"] {
            assert!(hides_processes(&proc(&format!(",gid=7,hidepid={value}"))), "{value}");
        }
        assert!(!hides_processes(""));
    }
}
