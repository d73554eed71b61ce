//! The laws that a rendered text keeps, whatever the host's text and the situation.

use std::collections::BTreeMap;

use cgview_core::{
    File, Mask, View,
    effective::MemoryLimits,
    host::HostMemory,
    stat_outline,
    tree::{Dir, Entry, ProcFile, SysRule},
    view::{Error, Parts},
};

use crate::{Situation, split};

/// Renders `file` and checks what holds for every file: the same text a second time, with reasons that lie
/// within it, behind what was in the buffer, and of a bounded size.
fn render(situation: &Situation, file: File, host: &[u8]) -> Result<Vec<u8>, Error> {
    let view = situation.view();
    let mut text = b"before".to_vec();
    let rendered = view.render(file, host, &mut text);
    let mut explained = Vec::new();
    let explanation = view.explain(file, host, &mut explained);
    assert_eq!(rendered.is_ok(), explanation.is_ok());
    rendered?;
    let text = text.strip_prefix(b"before").expect("what was in the buffer stays").to_vec();
    assert_eq!(text, explained, "rendered twice");
    for (range, why) in explanation?.notes {
        assert!(range.start <= range.end && range.end <= text.len(), "{range:?} of {}", text.len());
        assert!(!why.describe(&situation.snapshot).to_string().is_empty());
    }
    let (mut facts, mut cpus) = (situation.host.clone(), situation.cpus.clone());
    if !file.parts().contain(Parts::MEMORY) {
        facts.memory = HostMemory::default();
    }
    if !file.parts().contain(Parts::NODES) {
        cpus.nodes = Mask::new();
    }
    let mut bare = Vec::new();
    View { host: &facts, cpus: &cpus, ..view }.render(file, host, &mut bare)?;
    assert_eq!(text, bare, "rendered from what is not among its parts");
    let pressure = &situation.snapshot.pressure;
    let own = [&pressure.cpu, &pressure.memory, &pressure.io, &pressure.irq];
    let own: usize = own.into_iter().flatten().map(Vec::len).sum();
    // A number has at most 20 digits, and a line of a CPU less than 20 of them.
    let numbers = host.len() / 2 + 20 * (1 + situation.cpus.visible.len() as usize);
    assert!(text.len() <= host.len() + 21 * numbers + own, "{} bytes", text.len());
    Ok(text)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&byte| byte == b'\n')
}

fn words(line: &[u8]) -> Vec<&[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect()
}

/// A number as the kernel writes it, without a sign.
fn number(word: &[u8]) -> Option<u64> {
    let digits = word.iter().all(u8::is_ascii_digit).then_some(word)?;
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Situation and host's text of an input for one of `proc`'s files, and whether it is a view, not a
/// pass-through.
fn proc(input: &[u8], file: ProcFile) -> Option<(Situation, &[u8], Vec<u8>)> {
    let (host, mut u) = split(input);
    let situation = Situation::arbitrary(&mut u, host).ok()?;
    let text = render(&situation, File::Proc(file), host).ok()?;
    if situation.policy.passthrough.contains(file) {
        assert_eq!(text, host, "a documented pass-through");
        return None;
    }
    Some((situation, host, text))
}

/// Law 5: the same lines in the same order. Names end at `end`.
fn same_lines(host: &[u8], text: &[u8], end: u8) {
    let name = |line: &[u8]| line.split(|&byte| byte == end).next().unwrap_or_default().to_vec();
    let names = |text| lines(text).map(name).map(|name| name.trim_ascii_end().to_vec());
    assert!(names(host).eq(names(text)), "other lines than the host's");
    assert_eq!(host.ends_with(b"\n"), text.ends_with(b"\n"), "the end of the host's text");
}

/// `/proc/meminfo`.
pub fn meminfo(input: &[u8]) {
    let Some((situation, host, text)) = proc(input, ProcFile::Meminfo) else { return };
    same_lines(host, &text, b':');
    let limits = memory_limits(&situation);
    let pages = situation.snapshot.hugetlb.iter().any(|level| level.max.at().is_some());
    if !limits.memory_limited && !limits.swap_limited && !pages && situation.policy.zswap {
        return assert_eq!(text, host, "no limit");
    }
    let (before, after) = (sizes(host), sizes(&text));
    // A text with a line twice is no kernel's.
    if lines(host).count() != before.len() {
        return;
    }
    let shown = |name: &str| after.get(name.as_bytes()).copied();
    let at_most = |part: &str, whole: &str| {
        if let (Some(part_size), Some(whole_size)) = (shown(part), shown(whole)) {
            assert!(part_size <= whole_size, "{part} {part_size} > {whole} {whole_size}");
        }
    };
    if limits.swap_limited {
        at_most("SwapFree:", "SwapTotal:");
    }
    if limits.memory_limited {
        at_most("MemFree:", "MemAvailable:");
        at_most("MemAvailable:", "MemTotal:");
        at_most("Mlocked:", "Unevictable:");
        at_most("Shmem:", "Cached:");
        at_most("SReclaimable:", "Slab:");
        at_most("SUnreclaim:", "Slab:");
    }
    if let (Some(total), Some(free)) = (shown("MemTotal:"), shown("MemFree:"))
        && limits.memory_limited
    {
        assert!(free <= total && total <= situation.host.memory.total.kib(), "MemTotal {total}");
        let in_use = |names: &[&str]| {
            let sum: u64 = names.iter().filter_map(|name| shown(name)).sum();
            assert!(sum <= total - free, "{names:?} {sum} of {total} less {free}");
        };
        in_use(&["Buffers:", "Cached:", "SReclaimable:"]);
        in_use(&["Active:", "Inactive:", "Unevictable:"]);
        for name in ["AnonPages:", "Mapped:", "Dirty:", "Slab:", "KernelStack:", "PageTables:"] {
            in_use(&[name]);
        }
    }
}

fn memory_limits(situation: &Situation) -> MemoryLimits {
    MemoryLimits::of(&situation.snapshot, &situation.host, &situation.policy)
}

/// The lines `Name: NUMBER` and `Name: NUMBER kB`.
fn sizes(text: &[u8]) -> BTreeMap<Vec<u8>, u64> {
    let line = |line: &[u8]| match words(line)[..] {
        // A name stands at the start of its line.
        [name, ..] if !line.starts_with(name) => None,
        [name, value] | [name, value, b"kB"] => Some((name.to_vec(), number(value)?)),
        _ => None,
    };
    lines(text).filter_map(line).collect()
}

/// `/proc/vmstat`.
pub fn vmstat(input: &[u8]) {
    let Some((_, host, text)) = proc(input, ProcFile::Vmstat) else { return };
    same_lines(host, &text, b' ');
}

/// `/proc/stat`.
pub fn stat(input: &[u8]) {
    let Some((situation, host, text)) = proc(input, ProcFile::Stat) else { return };
    if situation.cpus.is_whole_host(&situation.snapshot, &situation.host) {
        // But for btime, which a time namespace shifts.
        return assert!(situation.reader.timens.boottime != 0 || text == host, "it is the host");
    }
    let outlined = render(&situation, File::Proc(ProcFile::Stat), &stat_outline(host));
    assert_eq!(outlined.ok().as_ref(), Some(&text), "the outline gives the same");
    let mut total: Option<Vec<u64>> = None;
    let mut sum: Vec<u64> = Vec::new();
    let mut numbers = Vec::new();
    for line in lines(&text) {
        let words = words(line);
        let Some(cpu) = words.first().and_then(|name| name.strip_prefix(b"cpu")) else { continue };
        let Some(times) = words[1..].iter().map(|word| number(word)).collect::<Option<Vec<u64>>>()
        else {
            continue;
        };
        if cpu.is_empty() {
            // More than one such line is no kernel's text.
            if total.replace(times).is_some() {
                return;
            }
        } else if let Some(cpu) = number(cpu) {
            numbers.push(cpu);
            sum.resize(times.len().max(sum.len()), 0);
            sum.iter_mut().zip(times).for_each(|(sum, time)| *sum = sum.saturating_add(time));
        }
    }
    if let Some(total) = total.filter(|total| total.len() == sum.len()) {
        assert_eq!(total, sum, "cpu is the sum of cpuN");
    }
    assert!(numbers.iter().all(|&cpu| cpu < u64::from(situation.cpus.visible.len())));
}

/// `/proc/cpuinfo`.
pub fn cpuinfo(input: &[u8]) {
    let Some((situation, _, text)) = proc(input, ProcFile::Cpuinfo) else { return };
    // A container with all of the CPUs has the host's text, which may have seen one more by now.
    if situation.cpus.visible == situation.host.online {
        return;
    }
    let processors = lines(&text).filter_map(|line| line.strip_prefix(b"processor\t: "));
    let numbers = processors.filter_map(|cpu| number(cpu.trim_ascii_end()));
    // The kernel's numbers have 32 bits.
    for cpu in numbers.filter_map(|cpu| u32::try_from(cpu).ok()) {
        assert!(cpu < situation.cpus.visible.len(), "processor {cpu}");
    }
}

/// `/proc/uptime`.
pub fn uptime(input: &[u8]) {
    let Some((_, host, text)) = proc(input, ProcFile::Uptime) else { return };
    if words(host).len() == 2 && words(host).into_iter().all(seconds) {
        let words = words(&text);
        assert!(words.len() == 2 && words.iter().all(|word| seconds(word)), "{text:?}");
    }
}

/// `12345.67`.
fn seconds(word: &[u8]) -> bool {
    let mut parts = word.split(|&byte| byte == b'.');
    let (Some(whole), Some(part), None) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    number(whole).is_some() && part.len() == 2 && part.iter().all(u8::is_ascii_digit)
}

/// `/proc/loadavg`.
pub fn loadavg(input: &[u8]) {
    let Some((_, host, text)) = proc(input, ProcFile::Loadavg) else { return };
    if let [one, five, fifteen, tasks, last] = words(host)[..]
        && [one, five, fifteen].into_iter().all(seconds)
        && number(last).is_some()
        && tasks.split(|&byte| byte == b'/').filter_map(number).count() == 2
    {
        let words = words(&text);
        assert!(words.len() == 5 && words[..3].iter().all(|word| seconds(word)), "{text:?}");
        let tasks: Vec<_> = words[3].split(|&byte| byte == b'/').filter_map(number).collect();
        assert!(tasks.len() == 2, "{text:?}");
    }
}

/// `/proc/swaps`.
pub fn swaps(input: &[u8]) {
    let Some((situation, host, text)) = proc(input, ProcFile::Swaps) else { return };
    if !memory_limits(&situation).swap_limited {
        return assert_eq!(text, host, "no limit");
    }
    for row in lines(&text).skip(1) {
        // Filename, Type, Size, Used, Priority.
        if let [_, _, size, used, _] = words(row)[..]
            && let (Some(size), Some(used)) = (number(size), number(used))
        {
            assert!(used <= size, "{used} of {size} used");
        }
    }
}

/// `/proc/diskstats`: no row that the container has not used, and no column more or less.
pub fn diskstats(input: &[u8]) {
    let Some((situation, host, text)) = proc(input, ProcFile::Diskstats) else { return };
    let Some(io) = &situation.snapshot.io else {
        return assert!(text.is_empty(), "no accounting");
    };
    if io.cgroup.is_root() {
        return assert_eq!(text, host, "the root is the host");
    }
    let mut of_host = lines(host).map(words);
    for row in lines(&text).map(words) {
        let device = row.first().zip(row.get(1)).and_then(|(major, minor)| {
            let (major, minor) = (number(major)?, number(minor)?);
            io.devices
                .iter()
                .find(|device| (u64::from(device.major), u64::from(device.minor)) == (major, minor))
        });
        let device = device.expect("a device that the container has used");
        let same = |host: &Vec<&[u8]>| host.len() == row.len() && host[..2] == row[..2];
        assert!(of_host.any(|host| same(&host)), "a row of the host, in its order");
        if let Some(reads) = row.get(3) {
            assert_eq!(number(reads), Some(device.rios));
        }
    }
}

/// `/proc/partitions`: rows of the host, and none that the container has not used.
pub fn partitions(input: &[u8]) {
    let Some((situation, host, text)) = proc(input, ProcFile::Partitions) else { return };
    let io = situation.snapshot.io.as_ref();
    if io.is_some_and(|io| io.cgroup.is_root()) {
        return assert_eq!(text, host, "the root is the host");
    }
    let mut of_host = lines(host);
    for line in lines(&text) {
        assert!(of_host.any(|host| host == line), "a line of the host, in its order");
        let row = words(line);
        if row.len() >= 4 && row[..3].iter().all(|word| number(word).is_some()) {
            assert!(io.is_some_and(|io| !io.devices.is_empty()), "nothing was used");
        }
    }
}

/// `/proc/pressure/*`: the container's own text.
pub fn pressure(input: &[u8]) {
    let own = |situation: &Situation, file| {
        let pressure = &situation.snapshot.pressure;
        match file {
            ProcFile::PressureCpu => pressure.cpu.clone(),
            ProcFile::PressureIo => pressure.io.clone(),
            ProcFile::PressureIrq => pressure.irq.clone(),
            _ => pressure.memory.clone(),
        }
    };
    for file in [
        ProcFile::PressureCpu,
        ProcFile::PressureIo,
        ProcFile::PressureIrq,
        ProcFile::PressureMemory,
    ] {
        let Some((situation, host, text)) = proc(input, file) else { continue };
        let cgroup = situation.snapshot.pressure.cgroup.as_ref().expect("a cgroup");
        if !cgroup.is_root() {
            assert_eq!(Some(text), own(&situation, file));
        } else if !host.is_empty() {
            assert_eq!(text, host, "the root is the host");
        }
    }
}

/// `/proc/slabinfo`: at most what the host has.
pub fn slabinfo(input: &[u8]) {
    let Some((_, host, text)) = proc(input, ProcFile::Slabinfo) else { return };
    assert!(text.len() <= host.len());
}

/// Everything below `/sys`: whatever is listed can be rendered, and holds no CPU or node that the container
/// does not have.
pub fn sysfs(input: &[u8]) {
    let (host, mut u) = split(input);
    let Ok(situation) = Situation::arbitrary(&mut u, host) else { return };
    let view = situation.view();
    let visible = situation.cpus.visible.len();
    let last = u16::try_from(visible.saturating_sub(1)).unwrap_or(u16::MAX);
    let node = situation.cpus.nodes.nth(0).and_then(|node| u16::try_from(node).ok()).unwrap_or(0);
    let dirs = [
        Dir::Cpu,
        Dir::Node,
        Dir::NodeN(node),
        Dir::CpuN(last),
        Dir::Topology(last),
        Dir::CacheIndex(last, 0),
    ];
    for dir in dirs {
        for entry in view.list(dir, |_| true) {
            assert_eq!(entry.parent(), dir);
            assert!(view.shows(entry), "{} is listed", entry.path());
            assert_eq!(Entry::from_id(entry.id()), Some(entry));
            let Entry::File(File::Sys(file)) = entry else { continue };
            let Ok(text) = render(&situation, File::Sys(file), host) else { continue };
            match file.rule() {
                SysRule::VisibleCpus => {
                    let shown = Mask::parse_list(&text).expect("a list");
                    assert_eq!(shown, Mask::first(visible), "{}", entry.path());
                }
                SysRule::CpuList => {
                    if let Ok(shown) = Mask::parse_list(&text) {
                        let largest = shown.iter().last();
                        assert!(largest.is_none_or(|cpu| cpu < visible), "{}", entry.path());
                    }
                }
                SysRule::Empty => assert!(words(&text).is_empty(), "{}", entry.path()),
                _ => {}
            }
        }
    }
    let hidden = u16::try_from(visible).map(|cpu| Entry::Dir(Dir::CpuN(cpu)));
    assert!(hidden.is_err() || hidden.is_ok_and(|hidden| !view.shows(hidden)), "one CPU too many");
}
