//! Files of `/proc/PID`: membership with the containers that it names, `stat`, `status`, `timens_offsets`.
#![no_main]

use cgview_core::{Ticks, Usec, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    for entry in parse::cgroup_membership(text).flatten() {
        assert!(entry.path.starts_with(b"/") && !entry.path.contains(&b'\n'));
        assert!(!entry.controllers.contains(&b':'));
        let mut again = format!("{}:", entry.hierarchy).into_bytes();
        again.extend_from_slice(entry.controllers);
        again.push(b':');
        again.extend_from_slice(entry.path);
        again.extend_from_slice(b" (deleted)\n");
        assert_eq!(parse::cgroup_membership(&again).next(), Some(Ok(entry)));

        let Ok(path) = std::str::from_utf8(entry.path) else { continue };
        if let Some(found) = parse::container_path(path) {
            assert!(!found.id.is_empty() && path.starts_with(found.path));
            let (inner, own) = (format!("{}/init.scope", found.path), found.path);
            assert_eq!(parse::container_path(own).as_ref(), Some(&found));
            // What is made in a container belongs to it, unless it is called as the directory of LXC's is.
            if !own.ends_with("/lxc") && !own.ends_with("/lxc.payload") {
                assert_eq!(parse::container_path(&inner), Some(found));
            }
        }
    }

    if let Ok(stat) = parse::pid_stat(text) {
        // With any name of the command before it.
        let behind = text.iter().rposition(|&byte| byte == b')').expect("a name ends with one");
        let mut again = b"1 (a) R 2) ".to_vec();
        again.extend_from_slice(&text[behind..]);
        assert_eq!(parse::pid_stat(&again), Ok(stat));
        assert!(stat.starttime <= Ticks(u64::MAX));
    }
    if let Some((_, depth)) = parse::status_nspid(text) {
        assert!((1..=text.len()).contains(&depth));
    }
    if let Ok(offsets) = parse::timens_offsets(text) {
        let (now, shown) = (Usec::from_secs(1000), offsets.apply(Usec::from_secs(1000)));
        assert_eq!(offsets.boottime >= 0, shown >= now);
    }
});
