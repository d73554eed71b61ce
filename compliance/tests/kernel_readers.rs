//! Programs that people look at a machine with: they understand every file, and agree with the container's limits.
//!
//! ```text
//! host
//! └── container   256 MiB, half a CPU   <- the program
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod readers;

use std::time::Instant;

use cgview_compliance::{Defect, Difference, MIB, eventually, text, truth};
use cgview_testkit::pause;
use readers::{MEMORY, case, columns, exists, rows};

/// The number of CPUs that is told by sysfs is the host's.
const NUMBERING: Defect = Defect::new("W25");
/// Tasks that run are the host's.
const ACTIVITY: Defect = Defect::new("W32");

/// A number that is printed as such.
fn number(word: &str) -> f64 {
    word.parse().unwrap_or_else(|error| panic!("{word}: {error}"))
}

#[test]
fn free_agrees() {
    let Some(case) = case("free") else { return };
    let output = case.container.run("free -b -w");
    let rows = rows(&output);
    let (names, memory, swap) = (&rows[0], &rows[1], &rows[2]);
    assert_eq!((memory[0], swap[0]), ("Mem:", "Swap:"), "{output}");
    let values = columns(names, &memory[1..]);
    assert_eq!(values["total"], MEMORY as f64, "{output}");
    for name in ["used", "free", "available", "cache", "buffers", "shared"] {
        assert!((0.0..=values["total"]).contains(&values[name]), "{name} in {output}");
    }
    assert!(values["free"] <= values["available"], "{output}");
    // Nothing but a shell runs.
    assert!(values["free"] >= 200.0 * MIB as f64, "{output}");
    let swaps = text::numbers(&case.container.read("/proc/meminfo"))["SwapTotal"];
    assert_eq!(number(swap[1]), swaps as f64 * 1024.0, "{output}");
}

#[test]
fn vmstat_agrees() {
    let Some(case) = case("vmstat") else { return };
    let output = case.container.run("vmstat -s -S K");
    assert!(output.lines().next().unwrap().trim() == "262144 K total memory", "{output}");
    let output = case.container.run("vmstat -w 1 2");
    let rows = rows(&output);
    for row in &rows[2..] {
        let values = columns(&rows[1], row);
        let cpu: f64 = ["us", "sy", "id", "wa", "st"].iter().map(|name| values[*name]).sum();
        // Whole numbers, each rounded.
        assert!((97.0..=103.0).contains(&cpu), "{output}");
        assert!(values["free"] <= 262_144.0 && values["free"] > 200_000.0, "{output}");
        if !ACTIVITY.is_expected() {
            assert!(values["r"] <= 3.0 && values["b"] <= 2.0, "{output}");
        }
    }
    let idle = columns(&rows[1], rows.last().unwrap())["id"];
    assert!(idle >= 80.0, "nothing runs, whatever the neighbours do: {output}");
}

#[test]
fn top_agrees() {
    let Some(case) = case("top") else { return };
    let _busy = case.container.burn();
    let used = || truth::cpu_used(case.container.cgroup()).as_secs_f64();
    let (before, start) = (used(), Instant::now());
    let output = case.container.run("top -b -n 2 -d 3 -w 200");
    let share = (used() - before) / (start.elapsed().as_secs_f64() * 0.5) * 100.0;
    let last = &output[output.rfind("top - ").unwrap()..];
    assert!(case.is_age_in_minutes(last, " up ", " min,"), "{last}");
    let memory = last.lines().find(|line| line.starts_with("MiB Mem")).unwrap();
    assert!(memory.contains(" 256.0 total,"), "{last}");
    // Of the half a CPU that it may have, it burns all that it gets.
    let cpu = last.lines().find(|line| line.starts_with("%Cpu")).unwrap();
    let idle = cpu.split(',').find_map(|part| part.trim().strip_suffix(" id")).unwrap();
    let busy = 100.0 - number(idle.trim());
    assert!((busy - share).abs() <= 20.0, "{share} {last}");
    let tasks = last.lines().find(|line| line.starts_with("Tasks:")).unwrap();
    // The init, what burns, the shell and top.
    assert!(number(tasks.split_whitespace().nth(1).unwrap()) <= 5.0, "{last}");
}

#[test]
fn uptime_and_w_agree() {
    let Some(case) = case("w") else { return };
    for command in ["uptime", "w"] {
        let output = case.container.run(command);
        let line = output.lines().next().unwrap();
        assert!(case.is_age_in_minutes(line, " up ", " min,"), "{output}");
        let loads = line.rsplit_once("load average: ").unwrap().1;
        let loads: Vec<f64> = loads.split(", ").map(number).collect();
        let file = text::Loadavg::new(&case.container.read("/proc/loadavg")).averages;
        assert!((loads[0] - file[0]).abs() < 0.3, "{output} {file:?}");
    }
    let output = case.container.run("uptime -p");
    assert!(output == "up \n" || case.is_age_in_minutes(&output, "up ", " minute"), "{output}");
}

// ps(1): "%mem ... ratio of the process's resident set size to the physical memory on the machine".
#[test]
fn ps_takes_its_percentage_of_the_limit() {
    let Some(case) = case("ps") else { return };
    let cgroup = case.container.cgroup();
    let hog = case.container.enter().run(|| {
        let memory = std::hint::black_box(vec![1_u8; 96 << 20]);
        let status = pause();
        drop(memory);
        status
    });
    eventually("memory is used", || truth::memory_used(cgroup) >= 95 * MIB);
    let output = case.container.run("ps -e -o pmem,rss --sort=-rss --no-headers");
    let rows = rows(&output);
    let (percent, resident) = (number(rows[0][0]), number(rows[0][1]));
    let right = resident * 1024.0 / MEMORY as f64 * 100.0;
    assert!(right > 35.0 && (percent - right).abs() < 1.0, "{output}");
    drop(hog);
}

#[test]
fn lscpu_agrees() {
    let Some(case) = case("lscpu") else { return };
    let output = case.container.run("lscpu");
    let value = |name: &str| {
        let line = output.lines().find(|line| line.trim().starts_with(&format!("{name}:")));
        line.map(|line| line.split_once(':').unwrap().1.trim())
    };
    let cpus = value("CPU(s)").unwrap();
    NUMBERING.judge(&format!("{cpus} CPUs of 1"), cpus == "1", cpus != "1");
    if NUMBERING.is_expected() {
        return;
    }
    assert_eq!(value("On-line CPU(s) list"), Some("0"), "{output}");
    assert_eq!(value("Off-line CPU(s) list"), None, "{output}");
    // There may be nodes of memory without a CPU.
    for name in ["Thread(s) per core", "Core(s) per socket", "Socket(s)"] {
        assert!(value(name).is_none_or(|value| value == "1"), "{name} in {output}");
    }
    assert_eq!(value("NUMA node0 CPU(s)").unwrap_or("0"), "0", "{output}");
    let output = case.container.run("lscpu --parse=CPU,CORE,SOCKET,NODE --all | grep -v '^#'");
    assert!(output.starts_with("0,0,0,") && output.lines().count() == 1, "{output}");
}

#[test]
fn lsmem_tells_of_the_hardware() {
    let Some(case) = case("lsmem") else { return };
    let output = case.container.try_run("lsmem --bytes --summary=only");
    let difference = Difference {
        lxcfs: "lsmem reads /sys/devices/system/memory, which is the host's",
        cgview: "lsmem reads /sys/devices/system/memory: blocks of hardware that can be unplugged, and not a limit; \
                 no other reader of memory goes by them",
    };
    // Nor does every machine have them.
    let line = output.text.lines().find(|line| line.starts_with("Total online memory"));
    let seen = line.unwrap_or("no blocks of memory").to_owned();
    let host =
        line.is_none_or(|line| number(line.split_whitespace().last().unwrap()) > MEMORY as f64);
    difference.judge(&seen, host, host);
}

#[test]
fn sysstat_agrees() {
    let Some(case) = case("mpstat") else { return };
    // Times without a.m. and p.m.
    let run = |line: &str| case.container.run(&format!("LC_ALL=C S_TIME_FORMAT=ISO {line}"));
    let mpstat = run("mpstat -P ALL 1 1");
    let head = mpstat.lines().next().unwrap();
    let is_right = head.ends_with("(1 CPU)");
    NUMBERING.judge(head, is_right, !is_right);
    if NUMBERING.is_expected() {
        return;
    }
    let averages: Vec<_> =
        rows(&mpstat).into_iter().filter(|row| row.first() == Some(&"Average:")).collect();
    let cpus: Vec<&str> = averages[1..].iter().map(|row| row[1]).collect();
    assert_eq!(cpus, ["all", "0"], "{mpstat}");
    for row in &averages[1..] {
        let sum: f64 = row[2..].iter().map(|word| number(word)).sum();
        assert!((98.0..=102.0).contains(&sum), "{mpstat}");
        assert!(number(row.last().unwrap()) > 60.0, "nothing runs: {mpstat}");
    }

    let iostat = run("iostat -c -d 1 1");
    assert!(iostat.lines().next().unwrap().ends_with("(1 CPU)"), "{iostat}");
    // sar goes by diskstats, and iostat by /sys/block alone.
    let shown = text::disks(&case.container.read("/proc/diskstats"));
    let devices = |output: &str| -> Vec<String> {
        let rows = rows(output).into_iter().skip_while(|row| row.first() != Some(&"Device"));
        rows.skip(1).filter_map(|row| Some((*row.first()?).to_owned())).collect()
    };
    let is_shown = |name: &String| shown.values().any(|(shown, _)| shown == name);
    let seen = devices(&iostat);
    let difference = Difference {
        lxcfs: "iostat reads /sys/block, which is the host's",
        cgview: "iostat reads /sys/block, which is the host's; sar, vmstat and others read diskstats",
    };
    let known = |name: &String| exists(&format!("/sys/block/{name}"));
    difference.judge(&seen.join(" "), seen.iter().all(known), seen.iter().all(known));
    let disks = case.container.try_run("vmstat -d -n | tail -n +3");
    let disks: Vec<_> = rows(&disks.text).iter().map(|row| row[0].to_owned()).collect();
    assert!(disks.iter().all(is_shown), "{disks:?} {shown:?}");

    let sar = run("sar -u -r -q 1 1");
    let average = |column: &str| {
        let rows = rows(&sar);
        // The last one is of the averages.
        let names =
            rows.iter().rposition(|row| row.contains(&column)).unwrap_or_else(|| panic!("{sar}"));
        columns(&rows[names], &rows[names + 1])[column]
    };
    assert!((0.0..=100.5).contains(&average("%idle")) && average("%idle") > 60.0, "{sar}");
    let (free, used) = (average("kbmemfree"), average("kbmemused"));
    assert!(free > 200_000.0 && free + used <= 262_144.0 + 1.0, "{sar}");
    assert!(average("kbavail") <= 262_144.0 && average("ldavg-1") < 2.0, "{sar}");
    assert!(average("runq-sz") <= 2.0 && average("plist-sz") <= 8.0, "{sar}");
}

#[test]
fn htop_agrees() {
    let Some(case) = case("htop && command -v script") else { return };
    // A terminal of its own, and q after it drew.
    let keys = "(for i in $(seq 30); do sleep 2; printf q; done)";
    let htop = "stty cols 120 rows 30; TERM=xterm htop --no-color";
    let script = format!(
        "sleep 1.5; cd /tmp; {keys} | HOME=/nonexistent timeout 60 script -qec '{htop}' /dev/null & \
         wait $!"
    );
    let output = case.container.try_run(&script).text;
    let plain = without_escapes(&output);
    assert!(plain.contains("/256M]"), "{plain}");
    assert!(plain.contains("Load average:"), "{plain}");
    assert!(plain.contains("Uptime: 00:0"), "{plain}");
    // A bar for one CPU, and none for a second.
    assert!(!plain.contains(" 1[") && !plain.contains("  2["), "{plain}");
}

/// What a terminal was told, without how to show it.
fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\u{1b}' {
            plain.push(letter);
            continue;
        }
        match letters.next() {
            // Up to the letter that ends it.
            Some('[') => {
                letters.by_ref().find(|letter| ('@'..='~').contains(letter));
            }
            Some('(' | ')') => {
                letters.next();
            }
            _ => {}
        }
    }
    plain
}

// Where it asks the kernel by sysinfo(2), no file can help.
#[test]
fn busybox_agrees_where_it_reads_files() {
    let Some(case) = case("busybox") else { return };
    let run = |line: &str| case.container.run(&format!("busybox {line}"));
    assert_eq!(run("head -n 1 /proc/meminfo"), "MemTotal:         262144 kB\n");
    assert_eq!(run("grep -c ^processor /proc/cpuinfo"), "1\n");
    assert_eq!(run("cat /sys/devices/system/cpu/online"), "0\n");
    assert!(run("cat /proc/stat").starts_with("cpu  "));
    let top = run("top -b -n 1");
    let memory = top.lines().find(|line| line.starts_with("Mem:")).unwrap();
    let amounts: Vec<f64> =
        memory.split_whitespace().filter_map(|word| word.strip_suffix('K')?.parse().ok()).collect();
    assert!((amounts[0] + amounts[1] - 262_144.0).abs() < 1.0, "used and free: {top}");
    assert!(top.lines().any(|line| line.starts_with("Load average:")), "{top}");

    let free = run("free -k");
    let total = number(rows(&free)[1][1]) * 1024.0;
    let difference = Difference {
        lxcfs: "busybox free asks by sysinfo(2), and is told the host's memory",
        cgview: "busybox free asks by sysinfo(2), and is told the host's memory",
    };
    let host = text::numbers(&std::fs::read_to_string("/proc/meminfo").unwrap())["MemTotal"];
    let is_host = (total / 1024.0 - host as f64).abs() < 1.0;
    difference.judge(rows(&free)[1][1], is_host, is_host);
    let uptime = run("uptime");
    let difference = Difference {
        lxcfs: "busybox uptime asks by sysinfo(2), and is told the host's",
        cgview: "busybox uptime asks by sysinfo(2), and is told the host's, or that of the time namespace",
    };
    let is_some = uptime.contains(" up ");
    difference.judge(uptime.trim(), is_some, is_some);
}

// Each program reads in its own way: in pieces, from the end, by sendfile(2), by mmap(2) if it can.
#[test]
fn all_ways_to_read_give_the_same_text() {
    let Some(case) = case("sh") else { return };
    let script = "\
        f=/sys/devices/system/cpu/cpu0/topology/thread_siblings_list; g=/proc/swaps; d=$(mktemp -d); cd $d; \
        for f in $f $g; do \
            cat $f >1; dd if=$f bs=1 of=2 2>/dev/null; head -c 9999 $f >3; tail -n 99 $f >4; cp $f 5; \
            cp --reflink=auto --sparse=always $f 6; tail -c 9999 $f >7; awk 1 $f >8; sed '' $f >9; \
            while IFS= read -r line; do printf '%s\\n' \"$line\"; done <$f >10; \
            tar -cf - $f 2>/dev/null >/dev/null; grep '' $f >11; tac $f | tac >12; sort -s -k 99 $f >13; \
            dd if=$f bs=4096 skip=0 count=1 of=14 2>/dev/null; od -An -c -v $f >/dev/null; \
            if command -v busybox >/dev/null; then busybox cat $f >15; busybox cp $f 16; fi; \
            for i in *; do cmp -s 1 $i || echo $f $i differs: $(wc -c <$i) of $(wc -c <1); done; \
            test -s 1 || echo $f is empty; rm *; \
        done; cd /; rmdir $d";
    let output = case.container.run(script);
    let defect = Defect::new("W26");
    defect.judge(&output, output.is_empty(), !output.is_empty());
}

// Three that burn make a load, which who reads it tells as the file does.
#[test]
fn load_is_told_alike_by_all() {
    let Some(case) = case("uptime") else { return };
    let busy: Vec<_> = (0..3).map(|_| case.container.burn()).collect();
    let load = || text::Loadavg::new(&case.container.read("/proc/loadavg"));
    eventually("the load grows", || load().averages[0] >= 0.1);
    assert!(load().running >= 2, "{:?}", load());
    let output = case.container.run("uptime");
    let told = output.rsplit_once("load average: ").unwrap().1;
    let one = number(told.split(',').next().unwrap());
    let after = load().averages[0];
    assert!(one > 0.0 && one <= after + 0.05, "{output} {after}");
    drop(busy);
}
