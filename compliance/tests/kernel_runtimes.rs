//! Libraries and runtimes that read `/proc` and `/sys`: they understand every file, and agree with the
//! container's limits.
//!
//! ```text
//! host
//! └── container   256 MiB, half a CPU   <- the program
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod readers;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use cgview_compliance::{Defect, Difference, PATIENCE, eventually, text, under_test};
use procfs::{Current as _, CurrentSI as _};
use readers::{MEMORY, case};

/// Lines `name value`.
fn values(text: &str) -> BTreeMap<&str, f64> {
    let pairs = text.lines().filter_map(|line| line.rsplit_once(' '));
    pairs.filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect()
}

/// Whether the container is told of pressure; it is not where the unified hierarchy has no cgroup of its own.
fn has_pressure(case: &readers::Case) -> bool {
    case.container.try_read("/proc/pressure/cpu").is_ok()
}

// The procfs crate, in the container's own process.
#[test]
fn the_procfs_crate_agrees() {
    let Some(case) = case("true") else { return };
    let has_pressure = has_pressure(&case);
    let process = case.container.enter().run(|| {
        let meminfo = procfs::Meminfo::current().unwrap();
        assert_eq!(meminfo.mem_total, MEMORY);
        assert!(meminfo.mem_free <= meminfo.mem_available.unwrap());
        assert!(meminfo.mem_available.unwrap() <= MEMORY);
        let cpuinfo = procfs::CpuInfo::current().unwrap();
        assert_eq!(cpuinfo.num_cores(), 1);
        let stat = procfs::KernelStats::current().unwrap();
        assert_eq!(stat.cpu_time.len(), 1);
        let (total, first) = (&stat.total, &stat.cpu_time[0]);
        assert_eq!((total.user, total.idle), (first.user, first.idle));
        let uptime = procfs::Uptime::current().unwrap();
        assert!(
            uptime.uptime <= case.most_age() + 0.01 && uptime.idle <= uptime.uptime + 0.01,
            "{uptime:?}"
        );
        let loadavg = procfs::LoadAverage::current().unwrap();
        assert!(loadavg.one < 2.0 && loadavg.max <= 4, "{loadavg:?}");
        if !under_test().is_cgview() {
            // The rest is the host's, as are the counts of tasks: W32.
            return 0;
        }
        let vmstat = procfs::vmstat().unwrap();
        assert!(vmstat["nr_free_pages"] * 4096 <= i64::try_from(MEMORY).unwrap());
        for disk in procfs::diskstats().unwrap() {
            assert!(!disk.name.is_empty());
        }
        for partition in procfs::partitions().unwrap() {
            assert!(partition.blocks > 0, "{partition:?}");
        }
        if has_pressure {
            let pressure = procfs::CpuPressure::current().unwrap();
            assert!(pressure.some.avg10 <= 100.0);
            procfs::MemoryPressure::current().unwrap();
            procfs::IoPressure::current().unwrap();
        }
        assert!(stat.btime > 1_000_000_000 && stat.processes < 100, "{stat:?}");
        0
    });
    assert_eq!(process.wait(), 0);
}

// Debian's python3-psutil, by Debian's Python.
#[test]
fn psutil_agrees() {
    let python = "/usr/bin/python3";
    let Some(case) = case(&format!("{python} && {python} -c 'import psutil'")) else { return };
    let script = "\
import psutil, os
m = psutil.virtual_memory()
for name in ('total', 'available', 'used', 'free', 'cached', 'percent'):
    print(name, getattr(m, name))
s = psutil.swap_memory()
print('swap', s.total)
print('swap_used', s.used)
print('cpus', psutil.cpu_count())
print('cores', psutil.cpu_count(logical=False) or 1)
print('os_cpus', len(psutil.cpu_times(percpu=True)))
a = psutil.cpu_times()
t = psutil.cpu_times_percent(interval=2)
b = psutil.cpu_times()
print('idle', t.idle)
print('busy', b.user + b.system - a.user - a.system)
print('own', psutil.Process().cpu_times().user + psutil.Process().cpu_times().system)
print('boot', psutil.boot_time())
print('ctx', psutil.cpu_stats().ctx_switches)
d = psutil.disk_io_counters(perdisk=True) or {}
for name in d:
    print('disk', name)
p = psutil.Process()
print('memory', p.memory_percent())
print('created', p.create_time())
print('pids', len(psutil.pids()))
";
    let output = case.container.run(&format!("{python} -W error -c \"{script}\""));
    let values = values(&output);
    assert_eq!(values["total"], MEMORY as f64, "{output}");
    for name in ["available", "used", "free", "cached"] {
        assert!((0.0..=MEMORY as f64).contains(&values[name]), "{name} in {output}");
    }
    assert!((0.0..=50.0).contains(&values["percent"]), "{output}");
    let swap = text::numbers(&case.container.read("/proc/meminfo"))["SwapTotal"] * 1024;
    assert_eq!(values["swap"], swap as f64, "{output}");
    assert!(values["swap_used"] <= values["swap"], "{output}");
    assert_eq!((values["cpus"], values["os_cpus"]), (1.0, 1.0), "{output}");
    let cores = values["cores"];
    Defect::new("W25").judge(&format!("{cores} cores of 1"), cores == 1.0, cores > 1.0);
    // Nothing else runs, whatever the neighbours do.
    assert!((0.0..=100.0).contains(&values["idle"]), "{output}");
    if under_test().is_cgview() {
        assert!(values["busy"] <= values["own"] + 0.1, "{output}");
    }
    // What python itself takes, of the container's 256 MiB.
    assert!((1.0..30.0).contains(&values["memory"]), "{output}");
    // btime agrees with the start times of processes, and both with the clock.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let age = now.as_secs_f64() - values["created"];
    assert!((-2.0..case.most_age() + 2.0).contains(&age), "{output}");
    assert!(values["pids"] <= 4.0, "{output}");
}

#[test]
fn node_agrees() {
    let Some(case) = case("node") else { return };
    let script = "const os = require('os'); const n = (a, b) => console.log(a, b); \
        n('total', os.totalmem()); n('free', os.freemem()); n('cpus', os.cpus().length); \
        n('idle', os.cpus()[0].times.idle); n('load', os.loadavg()[0]); n('uptime', os.uptime()); \
        n('parallelism', os.availableParallelism ? os.availableParallelism() : 1)";
    let output = case.container.run(&format!("node -e \"{script}\""));
    let values = values(&output);
    assert_eq!(values["total"], MEMORY as f64, "{output}");
    assert!(values["free"] <= values["total"] && values["free"] > 0.0, "{output}");
    assert_eq!(values["cpus"], 1.0, "{output}");
    assert!(values["idle"] >= 0.0 && values["load"] < 3.0, "{output}");
    let host = text::uptime(&std::fs::read_to_string("/proc/uptime").unwrap()).0.as_secs_f64();
    // Since 18 it reads /proc/uptime; before, the boot clock.
    let uptime = values["uptime"];
    let is_told = uptime < case.most_age() + 1.0 || (uptime - host).abs() < case.most_age() + 1.0;
    assert!(is_told, "{output}");
    let difference = Difference {
        lxcfs: "availableParallelism() asks by sched_getaffinity(2): the cpuset, and not the quota",
        cgview: "availableParallelism() asks by sched_getaffinity(2): the cpuset, and not the quota",
    };
    let is_host = values["parallelism"] >= 1.0;
    difference.judge(&values["parallelism"].to_string(), is_host, is_host);
}

// `com.sun.management.OperatingSystemMXBean`, without what the JVM itself knows of cgroups.
#[test]
fn a_jvm_agrees_where_it_reads_files() {
    let Some(case) = case("java && command -v javac") else { return };
    let source = r#"
import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.nio.file.*;
public class Beans {
    public static void main(String[] arguments) throws Exception {
        OperatingSystemMXBean os = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        os.getCpuLoad();
        Thread.sleep(1000);
        System.out.println("load " + os.getCpuLoad());
        System.out.println("average " + os.getSystemLoadAverage());
        System.out.println("processors " + os.getAvailableProcessors());
        System.out.println("memory " + os.getTotalMemorySize());
        System.out.println("free " + os.getFreeMemorySize());
        System.out.println("swap " + os.getTotalSwapSpaceSize());
        System.out.println("lines " + Files.readAllLines(Path.of("/proc/meminfo")).size());
        System.out.println("total " + Files.readString(Path.of("/proc/meminfo")).split("\\s+")[1]);
    }
}
"#;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("Beans.java");
    std::fs::write(&file, source).unwrap();
    // The limit is for its heap too, which it would size by the host.
    let java = "java -XX:-UseContainerSupport -XX:+UseSerialGC -Xmx64m -XX:TieredStopAtLevel=1 -Xshare:auto";
    let output = case.container.run(&format!("{java} {} 2>&1", file.display()));
    let values = values(&output);
    assert!((0.0..=1.0).contains(&values["load"]), "{output}");
    assert!(values["average"] >= 0.0, "by sysinfo(2), or /proc/loadavg: {output}");
    assert!(values["lines"] > 20.0 && values["total"] == 262_144.0, "{output}");
    let difference = Difference {
        lxcfs: "without container support a JVM asks by sysinfo(2) and sched_getaffinity(2): the host's memory",
        cgview: "without container support a JVM asks by sysinfo(2) and sched_getaffinity(2): the host's memory; \
                 with it, it reads the cgroup itself",
    };
    let host = text::numbers(&std::fs::read_to_string("/proc/meminfo").unwrap())["MemTotal"];
    let is_host = (values["memory"] / 1024.0 - host as f64).abs() < 1.0;
    difference.judge(&format!("{} bytes", values["memory"]), is_host, is_host);
}

/// A page of a server on this machine.
fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page)
}

#[test]
fn node_exporter_agrees() {
    let program = "prometheus-node-exporter";
    let Some(case) = case(program) else { return };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let exporter = case.container.enter().run(|| {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new(program);
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.arg("--collector.disable-defaults");
        for name in ["cpu", "meminfo", "loadavg", "stat", "vmstat", "diskstats", "pressure", "time"]
        {
            command.arg(format!("--collector.{name}"));
        }
        let null = || std::fs::File::options().write(true).open("/dev/null").unwrap();
        let error = command.stdout(null()).stderr(null()).exec();
        error.raw_os_error().unwrap()
    });
    let mut page = String::new();
    eventually("it serves", || {
        page = get(port).unwrap_or_default();
        page.contains("node_scrape_collector_success")
    });
    drop(exporter);
    let values = values(&page);
    let value = |name: &str| *values.get(name).unwrap_or_else(|| panic!("{name} in {page}"));
    for name in ["cpu", "meminfo", "loadavg", "stat", "vmstat", "diskstats"] {
        let success = value(&format!("node_scrape_collector_success{{collector=\"{name}\"}}"));
        assert_eq!(success, 1.0, "{name}");
    }
    assert_eq!(value("node_memory_MemTotal_bytes"), MEMORY as f64);
    let (free, available) =
        (value("node_memory_MemFree_bytes"), value("node_memory_MemAvailable_bytes"));
    assert!(free <= available && available <= MEMORY as f64);
    let cpus: Vec<_> = values
        .keys()
        .filter(|name| {
            name.starts_with("node_cpu_seconds_total{") && name.contains("mode=\"idle\"")
        })
        .collect();
    assert_eq!(cpus, [&"node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"}"]);
    // It has some threads.
    let (load, running) = (value("node_load1"), value("node_procs_running"));
    assert!(load < 5.0 && (running <= 30.0 || !under_test().is_cgview()), "{load} {running}");
    let switches = value("node_context_switches_total");
    Defect::new("W32").judge(&format!("{switches} switches"), switches == 0.0, switches > 0.0);
    if !under_test().is_cgview() {
        return;
    }
    let host = std::fs::read_to_string("/proc/stat").unwrap();
    let boot = text::Stat::new(&host).others["btime"];
    assert!((value("node_boot_time_seconds") - boot as f64).abs() <= 1.0);
    if has_pressure(&case) {
        assert_eq!(value("node_scrape_collector_success{collector=\"pressure\"}"), 1.0);
        assert!(values.contains_key("node_pressure_cpu_waiting_seconds_total"));
    }
    let disks = text::disks(&case.container.read("/proc/diskstats"));
    for name in values
        .keys()
        .filter_map(|name| name.strip_prefix("node_disk_reads_completed_total{device=\""))
    {
        let name = name.trim_end_matches("\"}");
        assert!(disks.values().any(|(disk, _)| disk == name), "{name}");
    }
}
