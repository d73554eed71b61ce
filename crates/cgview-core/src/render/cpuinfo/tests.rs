//! One short text for each shape, as the architectures' `show_cpuinfo()` writes it.

use alloc::{format, string::String, vec::Vec};
use std::string::ToString;

use crate::{
    CpuinfoOutline, File, HostFacts, Mask, Policy, Reader, Snapshot, Usec, View, cpu_view::CpuView,
    effective::CpuLimits, tree::ProcFile,
};

/// Renders `host` for a container that sees the `visible` of the `online` CPUs.
fn render(online: &str, visible: &str, host: &str) -> String {
    let mask = |list: &str| Mask::parse_list(list.as_bytes()).unwrap();
    let facts = HostFacts { online: mask(online), ..HostFacts::default() };
    let cpus = CpuLimits { set: mask(visible), visible: mask(visible), ..CpuLimits::default() };
    let view = View {
        snapshot: &Snapshot::default(),
        now: Usec::ZERO,
        host: &facts,
        policy: &Policy::default(),
        cpus: &cpus,
        cpu_view: &CpuView::default(),
        load: None,
        reader: Reader::default(),
    };
    let (mut text, mut explained) = (Vec::new(), Vec::new());
    view.render(File::Proc(ProcFile::Cpuinfo), host.as_bytes(), &mut text).unwrap();
    view.explain(File::Proc(ProcFile::Cpuinfo), host.as_bytes(), &mut explained).unwrap();
    assert_eq!(text, explained);
    // That of another text is wrong, and no more than that.
    let (mut outlined, other) = (Vec::new(), CpuinfoOutline::of(&host.as_bytes().repeat(2)));
    view.render_cpuinfo(b"processor\t: 0\n", &other, &mut outlined);
    outlined.clear();
    view.render_cpuinfo(host.as_bytes(), &CpuinfoOutline::of(host.as_bytes()), &mut outlined);
    assert_eq!(text, outlined);
    String::from_utf8(text).unwrap()
}

/// A block as x86 writes it: CPU, package, siblings, core, cores.
fn x86([cpu, package, siblings, core, cores]: [u32; 5]) -> String {
    format!(
        "processor\t: {cpu}\nvendor_id\t: GenuineIntel\nphysical id\t: {package}\n\
         siblings\t: {siblings}\ncore id\t\t: {core}\ncpu cores\t: {cores}\napicid\t\t: {}\n\
         flags\t\t: fpu vme\npower management:\n\n",
        package * 16 + core * 2
    )
}

/// Two packages of two cores of two threads, numbered as Linux does: all first threads come first.
fn two_packages() -> String {
    (0..8).map(|cpu| x86([cpu, cpu / 2 % 2, 4, cpu % 2, 2])).collect()
}

#[test]
fn x86_keeps_the_visible_blocks() {
    // The second core of the first package with both threads, and one CPU of the second.
    assert_eq!(
        render("0-7", "1-2,5", &two_packages()),
        [x86([0, 0, 2, 1, 1]), x86([1, 1, 1, 0, 1]), x86([2, 0, 2, 1, 1])].concat()
    );
    assert_eq!(
        render("0-7", "0-3", &two_packages()),
        [[0, 0, 2, 0, 2], [1, 0, 2, 1, 2], [2, 1, 2, 0, 2], [3, 1, 2, 1, 2]].map(x86).concat()
    );
}

#[test]
fn all_cpus_are_the_hosts_text() {
    let strange = "processor\t: 0\nsiblings\t: 77\n\nprocessor\t: 1\n\n\n\nend";
    assert_eq!(render("0-1", "0-1", strange), strange);
}

#[test]
fn a_hole_in_the_online_cpus_is_closed() {
    let host: String = [0, 2, 3].map(|cpu| x86([cpu, 0, 3, cpu, 3])).concat();
    let shown = [[0, 0, 3, 0, 3], [1, 0, 3, 2, 3], [2, 0, 3, 3, 3]].map(x86).concat();
    assert_eq!(render("0,2-3", "0,2-3", &host), shown);
}

#[test]
fn a_visible_cpu_without_a_block_has_none() {
    let host = x86([0, 0, 1, 0, 1]) + &x86([3, 0, 1, 3, 1]);
    assert_eq!(render("0-3", "1-3", &host), x86([2, 0, 1, 3, 1]));
}

#[test]
fn cores_with_the_same_id_on_two_dies_are_counted_by_threads() {
    // One package, two dies with cores 0 and 1 each, no hyper-threading.
    let host: String = (0..4).map(|cpu| x86([cpu, 0, 4, cpu % 2, 4])).collect();
    let shown = render("0-3", "0-2", &host);
    assert_eq!(shown.matches("cpu cores\t: 3\n").count(), 3, "{shown}");
    assert_eq!(shown.matches("siblings\t: 3\n").count(), 3, "{shown}");
}

#[test]
fn a_hypervisor_that_gives_each_cpu_a_package_is_believed() {
    let host: String = (0..4).map(|cpu| x86([cpu, cpu, 1, 0, 1])).collect();
    assert_eq!(render("0-3", "2-3", &host), x86([0, 2, 1, 0, 1]) + &x86([1, 3, 1, 0, 1]));
    // All in one package, but each says that it is alone: never more than the host says.
    let host: String = (0..4).map(|cpu| x86([cpu, 0, 1, 0, 1])).collect();
    assert_eq!(render("0-3", "2-3", &host), x86([0, 0, 1, 0, 1]) + &x86([1, 0, 1, 0, 1]));
}

#[test]
fn arm64_has_blocks_alone() {
    let block = |cpu: u32, part: u32| {
        format!(
            "processor\t: {cpu}\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd\nCPU part\t: {part:#x}\n\n"
        )
    };
    let host: String = (0..4).map(|cpu| block(cpu, 0xd00 + cpu)).collect();
    assert_eq!(render("0-3", "1,3", &host), block(0, 0xd01) + &block(1, 0xd03));
    // What a task of 32 bits reads has one line more.
    let compat = |text: &str| {
        text.replace("\nBogoMIPS", "\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nBogoMIPS")
    };
    let shown = compat(&(block(0, 0xd01) + &block(1, 0xd03)));
    assert_eq!(render("0-3", "1,3", &compat(&host)), shown);
}

#[test]
fn old_arm64_lists_its_cpus_above_one_description() {
    let host = "Processor\t: AArch64 Processor rev 0 (aarch64)\nprocessor\t: 0\nprocessor\t: 1\n\
                processor\t: 2\nFeatures\t: fp asimd\nCPU part\t: 0xd07\n\nHardware\t: Juno\n";
    let shown = "Processor\t: AArch64 Processor rev 0 (aarch64)\nprocessor\t: 0\n\
                 Features\t: fp asimd\nCPU part\t: 0xd07\n\nHardware\t: Juno\n";
    assert_eq!(render("0-2", "1", host), shown);
}

#[test]
fn armv7_keeps_its_hardware() {
    let text = |blocks: &str| {
        format!(
            "Processor\t: ARMv7 Processor rev 4 (v7l)\n{blocks}Features\t: swp half thumb\n\
             CPU architecture: 7\nCPU part\t: 0xc0f\n\nHardware\t: Exynos\nRevision\t: 0000\n"
        )
    };
    let block = |cpu: u32, mips: u32| format!("processor\t: {cpu}\nBogoMIPS\t: {mips}.10\n\n");
    let host = text(&(block(0, 100) + &block(1, 101)));
    assert_eq!(render("0-1", "1", &host), text(&block(0, 101)));
    assert_eq!(render("0-1", "0", &host), text(&block(0, 100)));
    // Since Linux 3.8 the description is in the blocks; one processor alone was `Processor` before.
    let newer = "processor\t: 0\nmodel name\t: ARMv7 Processor rev 5 (v7l)\nBogoMIPS\t: 38.40\n\n\
                 processor\t: 1\nmodel name\t: ARMv7 Processor rev 5 (v7l)\nBogoMIPS\t: 38.41\n\n\
                 Hardware\t: BCM2835\nSerial\t\t: 00000000\n";
    let shown = "processor\t: 0\nmodel name\t: ARMv7 Processor rev 5 (v7l)\nBogoMIPS\t: 38.41\n\n\
                 Hardware\t: BCM2835\nSerial\t\t: 00000000\n";
    assert_eq!(render("0-1", "1", newer), shown);
    let alone =
        "Processor\t: ARM926EJ-S rev 5 (v5l)\nBogoMIPS\t: 1192.75\n\nHardware\t: Kirkwood\n";
    assert_eq!(render("0", "0", alone), alone);
    assert_eq!(render("0-1", "1", alone), alone);
}

#[test]
fn s390_has_a_count_and_lists_each_cpu_twice() {
    let text = |count: u32, cpus: &[(u32, u32)], siblings: u32| {
        let head = format!(
            "vendor_id       : IBM/S390\n# processors    : {count}\nbogomips per cpu: 14367.00\n\
             max thread id   : 0\nfeatures\t: esan3 zarch\nfacilities      : 0 1 2\n\
             cache0          : level=1 type=Data scope=Private size=128K\n"
        );
        let lines = cpus.iter().map(|(cpu, address)| {
            format!(
                "processor {cpu}: version = FF,  identification = 0{address}0000,  machine = 2964\n"
            )
        });
        let blocks = cpus.iter().map(|(cpu, address)| {
            format!(
                "\ncpu number      : {cpu}\nphysical id     : 1\ncore id         : {address}\n\
                 book id         : 2\ndrawer id       : 4\naddress         : {address}\n\
                 siblings        : {siblings}\ncpu cores       : {siblings}\nmachine         : 2964\n"
            )
        });
        head + &lines.chain(blocks).collect::<String>()
    };
    let host = text(4, &[(0, 0), (1, 1), (3, 3), (4, 4)], 4);
    assert_eq!(render("0-1,3-4", "1,4", &host), text(2, &[(0, 1), (1, 4)], 2));
    assert_eq!(render("0-1,3-4", "0-1,3-4", &host), text(4, &[(0, 0), (1, 1), (2, 3), (3, 4)], 4));
    // Until Linux 4.8 or so there were the lines alone.
    let old = |text: String| text.split("\ncpu number").next().unwrap().to_string();
    assert_eq!(render("0-1,3-4", "3", &old(host)), old(text(1, &[(0, 3)], 1)));
}

// `smp_cpu_mtid`, from which lscpu takes the threads of a core.
#[test]
fn s390_has_the_highest_thread_of_its_visible_cores() {
    let text = |highest: u32, cpus: &[(u32, u32)], cores: u32| {
        let head = format!(
            "vendor_id       : IBM/S390\n# processors    : {}\nmax thread id   : {highest}\n",
            cpus.len()
        );
        let lines = cpus.iter().map(|(cpu, _)| format!("processor {cpu}: version = FF\n"));
        let blocks = cpus.iter().map(|(cpu, core)| {
            format!(
                "\ncpu number      : {cpu}\nphysical id     : 0\ncore id         : {core}\n\
                 siblings        : {}\ncpu cores       : {cores}\n",
                cpus.len()
            )
        });
        head + &lines.chain(blocks).collect::<String>()
    };
    let host = text(1, &[(0, 0), (1, 0), (2, 1), (3, 1)], 2);
    assert_eq!(render("0-3", "0,2", &host), text(0, &[(0, 0), (1, 1)], 2));
    assert_eq!(render("0-3", "1-3", &host), text(1, &[(0, 0), (1, 1), (2, 1)], 2));
    let old = |text: String| text.split("\ncpu number").next().unwrap().to_string();
    assert_eq!(render("0-3", "3", &old(host)), old(text(1, &[(0, 1)], 1)));
}

#[test]
fn powerpc_keeps_its_trailer() {
    let block = |cpu: u32, clock: u32| {
        format!(
            "processor\t: {cpu}\ncpu\t\t: POWER9\nclock\t\t: {clock}.000000MHz\nrevision\t: 2.2\n\n"
        )
    };
    let trailer =
        "timebase\t: 512000000\nplatform\t: PowerNV\nmodel\t\t: 9006-22P\nMMU\t\t: Radix\n";
    let host: String = (0..8).map(|cpu| block(cpu, 2000 + cpu)).collect::<String>() + trailer;
    assert_eq!(render("0-7", "6-7", &host), block(0, 2006) + &block(1, 2007) + trailer);
}

#[test]
fn riscv_keeps_its_harts() {
    let block = |cpu: u32, hart: u32| {
        format!("processor\t: {cpu}\nhart\t\t: {hart}\nisa\t\t: rv64imafdc\nmmu\t\t: sv39\n\n")
    };
    assert_eq!(render("0-1", "1", &(block(0, 2) + &block(1, 1))), block(0, 1));
}

#[test]
fn loongarch_and_mips_keep_the_system_type() {
    let block = |cpu: u32, core: u32| {
        format!(
            "processor\t\t: {cpu}\npackage\t\t\t: 0\ncore\t\t\t: {core}\nBogoMIPS\t\t: 5000.00\n\n"
        )
    };
    let host: String = (0..3).map(|cpu| block(cpu, cpu)).collect();
    // loongarch has a blank line below it, mips has it right before the first block.
    for head in [
        "system type\t\t: generic-loongson-machine\n\n",
        "system type\t\t: MIPS Malta\nmachine\t\t\t: mti,malta\n",
    ] {
        let shown = format!("{head}{}", block(0, 2));
        assert_eq!(render("0-2", "2", &format!("{head}{host}")), shown);
    }
}

#[test]
fn sparc_has_lines_of_each_cpu() {
    let text = |count: u32, clocks: &[u32]| {
        let cpus = || (0..).zip(clocks);
        format!(
            "cpu\t\t: UltraSparc T5 (Niagara5)\nncpus probed\t: {count}\nncpus active\t: {count}\n\
             D$ parity tl1\t: 0\ncpucaps\t\t: flush,stbar\n{}MMU Type\t: Hypervisor (sun4v)\nState:\n{}",
            cpus().map(|(n, clock)| format!("Cpu{n}ClkTck\t: {clock:016x}\n")).collect::<String>(),
            cpus().map(|(n, _): (u32, _)| format!("CPU{n}:\t\tonline\n")).collect::<String>(),
        )
    };
    assert_eq!(render("0-3", "1,3", &text(4, &[10, 11, 12, 13])), text(2, &[11, 13]));
}

#[test]
fn alpha_and_xtensa_only_count() {
    let alpha = "cpu\t\t\t: Alpha\ncpus detected\t\t: 4\ncpus active\t\t: 4\n\
                 cpu active mask\t\t: 000000000000000f\nL1 Icache\t\t: 64K, 2-way\n";
    let shown = alpha.replace(": 4\n", ": 2\n").replace("0f\n", "03\n");
    assert_eq!(render("0-3", "2-3", alpha), shown);
    let xtensa = "CPU count\t: 4\nCPU list\t: 0-3\nvendor_id\t: Tensilica\n";
    let shown = "CPU count\t: 2\nCPU list\t: 0-1\nvendor_id\t: Tensilica\n";
    assert_eq!(render("0-3", "2-3", xtensa), shown);
}

#[test]
fn a_text_without_cpus_is_kept() {
    let m68k = "CPU:\t\t68040\nMMU:\t\t68040\nFPU:\t\t68040\nClocking:\t24.8MHz\n";
    assert_eq!(render("0-3", "2-3", m68k), m68k);
    assert_eq!(render("0-3", "2-3", ""), "");
}
