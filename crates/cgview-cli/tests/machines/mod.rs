//! Machines of other architectures, as files below `/proc` and `/sys`.
//!
//! The texts are written here in the shapes that the kernel's `show_cpuinfo()` of each architecture gives
//! them, and the topology as `drivers/base/topology.c`, `cacheinfo.c` and `node.c` do.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use cgview_testkit::FakeHost;

pub(crate) const CPU: &str = "/sys/devices/system/cpu";
pub(crate) const NODE: &str = "/sys/devices/system/node";

/// Where a CPU is in a machine: the numbers of what it is a part of, from the outside inwards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) node: u32,
    pub(crate) book: u32,
    pub(crate) package: u32,
    pub(crate) cluster: u32,
    pub(crate) core: u32,
}

/// A machine made up.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    /// By the number of the CPU.
    pub(crate) places: Vec<Place>,
    pub(crate) offline: &'static [u32],
    /// How many CPUs there could be.
    possible: u32,
    /// The caches: their number, level, kind, size in KiB, and what shares one.
    caches: &'static [(u8, u8, &'static str, u32, Shared)],
    /// The files of `topology/` beyond those that every architecture has.
    extra: &'static [(&'static str, Shared)],
    cpuinfo: fn(&Machine) -> String,
}

/// What shares something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shared {
    Core,
    Cluster,
    Package,
    Book,
}

impl Machine {
    /// All of them.
    pub(crate) fn all() -> [Machine; 4] {
        [arm64(), s390x(), ppc64(), riscv64()]
    }

    pub(crate) fn online(&self) -> Vec<u32> {
        (0..)
            .zip(&self.places)
            .map(|(cpu, _)| cpu)
            .filter(|cpu| !self.offline.contains(cpu))
            .collect()
    }

    fn place(&self, cpu: u32) -> Place {
        *self.places.get(usize::try_from(cpu).unwrap()).unwrap()
    }

    /// The online CPUs that share something with one of them.
    fn sharing(&self, cpu: u32, shared: Shared) -> Vec<u32> {
        let key = |cpu: u32| {
            let place = self.place(cpu);
            let inner = [place.book, place.package, place.cluster, place.core];
            let depth = match shared {
                Shared::Book => 1,
                Shared::Package => 2,
                Shared::Cluster => 3,
                Shared::Core => 4,
            };
            inner.into_iter().take(depth).collect::<Vec<_>>()
        };
        self.online().into_iter().filter(|&other| key(other) == key(cpu)).collect()
    }

    /// Writes its files.
    pub(crate) fn write(&self, host: &FakeHost) {
        let put = |path: String, text: &str| host.file(&path, &format!("{text}\n"));
        let online = self.online();
        let all: Vec<u32> = (0..u32::try_from(self.places.len()).unwrap()).collect();
        put(format!("{CPU}/online"), &list(&online));
        put(format!("{CPU}/offline"), &list(self.offline));
        put(format!("{CPU}/present"), &list(&all));
        put(format!("{CPU}/possible"), &list(&(0..self.possible).collect::<Vec<_>>()));
        put(format!("{CPU}/kernel_max"), &(self.possible - 1).to_string());
        host.file("/proc/cpuinfo", &(self.cpuinfo)(self));
        for &cpu in &all {
            let dir = format!("{CPU}/cpu{cpu}");
            put(format!("{dir}/online"), if online.contains(&cpu) { "1" } else { "0" });
        }
        for &cpu in &online {
            let (dir, place) = (format!("{CPU}/cpu{cpu}"), self.place(cpu));
            put(format!("{dir}/topology/core_id"), &place.core.to_string());
            put(format!("{dir}/topology/physical_package_id"), &place.package.to_string());
            let common = [
                ("thread_siblings", Shared::Core),
                ("core_cpus", Shared::Core),
                ("core_siblings", Shared::Package),
                ("package_cpus", Shared::Package),
            ];
            for (name, shared) in common.iter().chain(self.extra) {
                let group = self.sharing(cpu, *shared);
                put(format!("{dir}/topology/{name}"), &self.mask(&group));
                put(format!("{dir}/topology/{name}_list"), &list(&group));
            }
            for (index, level, kind, size, shared) in self.caches {
                let (dir, group) =
                    (format!("{dir}/cache/index{index}"), self.sharing(cpu, *shared));
                put(format!("{dir}/level"), &level.to_string());
                put(format!("{dir}/type"), kind);
                put(format!("{dir}/size"), &format!("{size}K"));
                put(format!("{dir}/shared_cpu_map"), &self.mask(&group));
                put(format!("{dir}/shared_cpu_list"), &list(&group));
            }
        }
        let mut nodes: Vec<u32> = self.places.iter().map(|place| place.node).collect();
        nodes.dedup();
        put(format!("{NODE}/online"), &list(&nodes));
        put(format!("{NODE}/possible"), &list(&nodes));
        for node in nodes {
            let cpus: Vec<u32> =
                online.iter().copied().filter(|&cpu| self.place(cpu).node == node).collect();
            put(format!("{NODE}/node{node}/cpulist"), &list(&cpus));
            put(format!("{NODE}/node{node}/cpumap"), &self.mask(&cpus));
            put(format!("{NODE}/node{node}/meminfo"), &format!("Node {node} MemTotal: 524288 kB"));
        }
    }

    /// As `%*pb` prints it: words of 32 bits, as many as all possible CPUs take.
    fn mask(&self, cpus: &[u32]) -> String {
        let words = self.possible.div_ceil(32);
        let word = |number: u32| {
            let bits = cpus.iter().filter(|&&cpu| cpu / 32 == number);
            bits.fold(0_u32, |word, cpu| word | 1 << (cpu % 32))
        };
        let width = usize::try_from(self.possible.min(32).div_ceil(4)).unwrap();
        let texts = (0..words).rev().map(|number| format!("{:0width$x}", word(number)));
        texts.collect::<Vec<_>>().join(",")
    }
}

/// As `%*pbl` prints it.
pub(crate) fn list(cpus: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

fn places(count: u32, place: impl Fn(u32) -> Place) -> Vec<Place> {
    (0..count).map(place).collect()
}

/// Two chips, each with a cluster of two small and one of two large cores, and its own memory; a large core
/// is off.
fn arm64() -> Machine {
    let cpuinfo = |machine: &Machine| {
        let mut text = String::new();
        for cpu in machine.online() {
            let part = if machine.place(cpu).cluster.is_multiple_of(2) { "0xd05" } else { "0xd0b" };
            write!(
                text,
                "processor\t: {cpu}\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd aes atomics cpuid\n\
                 CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {part}\n\
                 CPU revision\t: 0\n\n"
            )
            .unwrap();
        }
        text
    };
    Machine {
        name: "arm64",
        places: places(8, |cpu| Place {
            node: cpu / 4,
            book: 0,
            package: cpu / 4,
            cluster: cpu / 2,
            core: cpu,
        }),
        offline: &[6],
        possible: 8,
        caches: &[
            (0, 1, "Data", 64, Shared::Core),
            (1, 1, "Instruction", 64, Shared::Core),
            (2, 2, "Unified", 512, Shared::Cluster),
            (3, 3, "Unified", 4096, Shared::Package),
        ],
        extra: &[("cluster_cpus", Shared::Cluster)],
        cpuinfo,
    }
}

/// Two books of two chips with three cores of two threads each; the first core is off, as is usual for what
/// the hypervisor has not configured.
fn s390x() -> Machine {
    let cpuinfo = |machine: &Machine| {
        let online = machine.online();
        let mut text = format!(
            "vendor_id       : IBM/S390\n# processors    : {}\nbogomips per cpu: 3033.00\n\
             max thread id   : 1\nfeatures\t: esan3 zarch stfle msa vx\n",
            online.len()
        );
        for cpu in &online {
            writeln!(
                text,
                "processor {cpu}: version = FF,  identification = 0{cpu:05X},  machine = 3906"
            )
            .unwrap();
        }
        for cpu in &online {
            let place = machine.place(*cpu);
            let siblings = machine.sharing(*cpu, Shared::Package).len();
            write!(
                text,
                "\ncpu number      : {cpu}\nphysical id     : {}\ncore id         : {}\n\
                 book id         : {}\nsiblings        : {siblings}\ncpu cores       : {}\n\
                 version         : FF\nmachine         : 3906\n",
                place.package,
                place.core,
                place.book,
                siblings.div_ceil(2)
            )
            .unwrap();
        }
        text
    };
    Machine {
        name: "s390x",
        places: places(24, |cpu| Place {
            node: 0,
            book: cpu / 12,
            package: cpu / 6,
            cluster: 0,
            core: cpu / 2,
        }),
        offline: &[0, 1],
        possible: 64,
        caches: &[
            (0, 1, "Data", 128, Shared::Core),
            (1, 1, "Instruction", 128, Shared::Core),
            (2, 2, "Unified", 4096, Shared::Core),
            (3, 3, "Unified", 131_072, Shared::Package),
            (4, 4, "Unified", 688_128, Shared::Book),
        ],
        extra: &[("book_siblings", Shared::Book)],
        cpuinfo,
    }
}

/// Two chips of two cores of four threads, in nodes 0 and 8; the machine could have 2048 CPUs.
fn ppc64() -> Machine {
    let cpuinfo = |machine: &Machine| {
        let mut text = String::new();
        for cpu in machine.online() {
            write!(
                text,
                "processor\t: {cpu}\ncpu\t\t: POWER9 (architected), altivec supported\n\
                 clock\t\t: 2200.000000MHz\nrevision\t: 2.2 (pvr 004e 1202)\n\n"
            )
            .unwrap();
        }
        text += "timebase\t: 512000000\nplatform\t: pSeries\nmodel\t\t: IBM,9009-42A\n\
                 machine\t\t: CHRP IBM,9009-42A\nMMU\t\t: Hash\n";
        text
    };
    Machine {
        name: "ppc64",
        places: places(16, |cpu| Place {
            node: cpu / 8 * 8,
            book: 0,
            package: cpu / 8,
            cluster: 0,
            core: cpu / 4 * 4,
        }),
        offline: &[3],
        possible: 2048,
        caches: &[
            (0, 1, "Data", 32, Shared::Core),
            (1, 1, "Instruction", 32, Shared::Core),
            (2, 2, "Unified", 512, Shared::Core),
            (3, 3, "Unified", 10_240, Shared::Package),
        ],
        extra: &[],
        cpuinfo,
    }
}

/// Four cores, whose harts have other numbers.
fn riscv64() -> Machine {
    let cpuinfo = |machine: &Machine| {
        let mut text = String::new();
        for cpu in machine.online() {
            let hart = 4 - cpu;
            write!(
                text,
                "processor\t: {cpu}\nhart\t\t: {hart}\nisa\t\t: rv64imafdc_zicsr\nmmu\t\t: sv39\n\
                 uarch\t\t: sifive,u74-mc\nmvendorid\t: 0x489\n\n"
            )
            .unwrap();
        }
        text
    };
    Machine {
        name: "riscv64",
        places: places(4, |cpu| Place { node: 0, book: 0, package: 0, cluster: 0, core: cpu }),
        offline: &[],
        possible: 4,
        caches: &[
            (0, 1, "Data", 32, Shared::Core),
            (1, 1, "Instruction", 32, Shared::Core),
            (2, 2, "Unified", 2048, Shared::Package),
        ],
        extra: &[("cluster_cpus", Shared::Package)],
        cpuinfo,
    }
}
