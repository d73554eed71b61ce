//! Effective limits: never impossible, whatever the levels say.
#![no_main]

use cgview_core::{
    Cpus, Snapshot,
    effective::{CpuLimits, MemoryLimits},
};
use cgview_fuzz::situation;
use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};

fuzz_target!(|input: &[u8]| {
    let _ = limits(&mut Unstructured::new(input));
});

fn limits(u: &mut Unstructured<'_>) -> Result<()> {
    let policy = situation::policy(u)?;
    let host = situation::host(u, b"")?;
    let snapshot = situation::snapshot(u)?;

    let cpus = CpuLimits::of(&snapshot, &host, &policy);
    assert!(!cpus.visible.is_empty());
    assert_eq!(cpus.set.intersection(&host.online), cpus.set, "online CPUs");
    assert_eq!(cpus.visible, cpus.set.iter().take(cpus.visible.len() as usize).collect());
    assert!(cpus.entitlement <= Cpus::whole(u64::from(cpus.set.len())));
    assert_eq!(cpus.entitlement.ceil(), u64::from(cpus.visible.len()));

    let memory = MemoryLimits::of(&snapshot, &host, &policy);
    assert!(memory.total.0 <= host.memory.total, "{memory:?}");
    if memory.memory_limited {
        assert!(memory.free.0 <= memory.available.0, "{memory:?}");
        assert!(memory.available.0 <= memory.total.0, "{memory:?}");
    }
    if memory.swap_limited {
        assert!(memory.swap_free.0 <= memory.swap_total.0, "{memory:?}");
        assert!(memory.swap_total.0 <= host.memory.swap_total, "{memory:?}");
    }

    // A level more never gives more.
    let inner =
        Snapshot { cpu: snapshot.cpu.iter().skip(1).cloned().collect(), ..snapshot.clone() };
    assert!(CpuLimits::of(&inner, &host, &policy).entitlement >= cpus.entitlement);
    let inner =
        Snapshot { memory: snapshot.memory.iter().skip(1).cloned().collect(), ..snapshot.clone() };
    let outer = MemoryLimits::of(&inner, &host, &policy);
    if snapshot.memory.iter().all(|level| level.high.at().is_none()) {
        assert!(outer.total.0 >= memory.total.0, "{outer:?} without the innermost of {memory:?}");
    }
    Ok(())
}
