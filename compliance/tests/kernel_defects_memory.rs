//! Defects of LXCFS in memory and swap, and what is right.

use cgview_compliance::{Container, MIB, Options, Server, text, truth};
use cgview_testkit::Tree;

// host
// └─ container (256 MiB)   <- reads
//
// semantics, meminfo: MemTotal is the smallest limit of the cgroup and those above it.
#[test]
fn a_limit_is_the_total() {
    if !Server::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB);
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &cgroup);
    let meminfo = text::numbers(&container.read("/proc/meminfo"));
    assert_eq!(meminfo["MemTotal"], 256 * 1024);
    let used = meminfo["MemTotal"] - meminfo["MemFree"];
    assert!(used * 1024 <= truth::memory_used(&cgroup) + MIB, "{meminfo:?}");
    assert_eq!(container.run("cat /proc/meminfo | head -1"), "MemTotal:         262144 kB\n");
}
