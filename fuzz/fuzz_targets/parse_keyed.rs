//! Flat keyed files, and the CPU time of v1: what was read can be written and read again.
#![no_main]

use std::io::Write as _;

use cgview_core::{
    Bytes, HostFacts, Usec,
    host::{HostMemory, HostNode},
    parse,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let mut again = Vec::new();
    let mut pairs = Vec::new();
    let read = parse::flat_keyed(text, |key, value| {
        again.extend_from_slice(key);
        writeln!(again, " {value}").expect("a Vec takes everything");
        pairs.push((key, value));
    });
    if read.is_ok() {
        let mut second = Vec::new();
        parse::flat_keyed(&again, |key, value| second.push((key, value))).expect("what we wrote");
        assert_eq!(pairs, second);
    }
    // Whoever knows more of a file refuses no more of it than its form.
    assert_eq!(parse::memory_stat_v2(text).is_ok(), read.is_ok());
    assert_eq!(parse::memory_stat_v1(text).is_ok(), read.is_ok());
    if let Ok((time, _throttled)) = parse::cpu_stat(text) {
        assert!(time.user.0.max(time.nice.0).max(time.system.0) <= time.sum().0);
    }

    // Each value takes a word of the text, so the text bounds the memory.
    if let Ok(times) = parse::cpuacct_usage_all(text) {
        assert!(times.len() <= text.len());
    }
    if let Ok(times) = parse::cpuacct_usage_percpu(text) {
        assert!(times.len() <= text.len());
        assert!(times.iter().all(|&time| time <= Usec(u64::MAX / 1000)));
    }
    let each = parse::cpuacct_usage_percpu(text).unwrap_or_default();
    let (list, kinds) = text.split_at(text.iter().position(|&byte| byte == b'\n').unwrap_or(0));
    let kinds = parse::cpuacct_usage_all(kinds).unwrap_or_default();
    for each in [each, parse::cpuacct_usage_percpu(list).unwrap_or_default()] {
        let per_cpu = parse::cpuacct_per_cpu(&each, &kinds);
        assert!(per_cpu.iter().map(|(_, time)| time.sum()).eq(each), "each CPU's time, split");
    }
    let memory = HostMemory::parse(text);
    if let Ok(host) = HostFacts::parse(text, b"0-3\n", Vec::new(), Bytes::from_kib(4)) {
        assert_eq!(host.memory, memory);
    }
    let node = HostNode::parse(0, b"0-3\n", text).expect("a list of CPUs");
    assert_eq!(node.total.kib() * 1024, node.total.0.min(u64::MAX - 1023));
});
