//! The content engine, without FUSE, on hosts that are made of files: of 2 and 512 CPUs, with one and many containers.

use std::time::{Duration, Instant};

use anyhow::Result;
use cgview_benches::{
    FILES, Machine,
    placement::Placement,
    record::{Scale, undisturbed},
};
use cgview_core::{File, tree::ProcFile};
use cgview_fuse::{Service, service::Caller, settings::ViewSettings};
use cgview_host::Host;
use cgview_testkit::FakeHost;

use crate::row;

/// How often each is measured, in turn.
const ROUNDS: usize = 25;

/// How many reads are timed together.
const READS: u32 = 1000;

/// Nothing is read again within this time.
const FRESH: Duration = Duration::from_secs(3600);

/// A service, and its containers.
struct Engine {
    size: (u32, &'static str),
    containers: u32,
    service: Service,
    _host: FakeHost,
}

impl Engine {
    fn new(
        cpus: u32,
        containers: u32,
        size: (u32, &'static str),
        freshness: Duration,
    ) -> Result<Engine> {
        Engine::with(cpus, containers, size, freshness, |host| host)
    }

    /// One that has descriptors for those who ask, and for the directories of their cgroups, and for few files in these.
    fn opening(containers: u32) -> Result<Engine> {
        let keep = if containers == 1 { 16 } else { 17 * containers as usize };
        let size = (containers, "containers");
        Engine::with(2, containers, size, Duration::ZERO, |host| host.keeping(keep))
    }

    fn with(
        cpus: u32,
        containers: u32,
        size: (u32, &'static str),
        freshness: Duration,
        keeping: impl FnOnce(Host) -> Host,
    ) -> Result<Engine> {
        let host = Machine::new(cpus).host_with_containers(containers);
        let settings = ViewSettings { freshness, ..ViewSettings::default() };
        let service = Service::new(keeping(Host::at(host.path())?), settings);
        Ok(Engine { size, containers, service, _host: host })
    }

    /// One read by each of the first `readers` containers in turn, beginning with `first`: as many as `reads`.
    fn read(&self, file: ProcFile, readers: u32, first: u32, reads: u32) -> Result<Duration> {
        let file = File::Proc(file);
        let start = Instant::now();
        for number in first..first + reads {
            let caller = Caller { tid: Machine::pid(number % readers), uid: 0 };
            let handle = self.service.open(caller, file, false)?;
            let text = self.service.read(caller, file, handle, 0)?;
            self.service.read(caller, file, handle, text.len() as u64)?;
            self.service.release(handle);
        }
        Ok(start.elapsed())
    }
}

/// Makes those that are compared.
type Make<'a> = &'a dyn Fn() -> Result<Vec<Engine>>;

/// Of one of its containers, or of all of them in turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Readers {
    One,
    All,
}

/// Microseconds for one read, with all numbers known and with all asked for anew.
pub(crate) fn measure(is_test: bool) -> Result<Vec<Scale>> {
    let (many, rounds, reads) = if is_test { (20, 1, 40) } else { (1000, ROUNDS, READS) };
    let me = [std::process::id()];
    Placement::Pinned.place(&me)?;
    let mut rows = Vec::new();
    let all = |freshness| -> Result<Vec<Engine>> {
        Ok(vec![
            Engine::new(2, 1, (2, "CPUs"), freshness)?,
            Engine::new(512, 1, (512, "CPUs"), freshness)?,
            Engine::new(2, 1, (1, "containers"), freshness)?,
            Engine::new(2, many, (many, "containers"), freshness)?,
        ])
    };
    // Where there are not as many descriptors as files, many containers are like one whose files are opened each time.
    let opening =
        || -> Result<Vec<Engine>> { Ok(vec![Engine::opening(1)?, Engine::opening(many)?]) };
    let kinds: [(&str, Make<'_>, &[Readers]); 3] = [
        ("content, samples fresh", &|| all(FRESH), &[Readers::One, Readers::All]),
        ("content, samples anew", &|| all(Duration::ZERO), &[Readers::One, Readers::All]),
        ("content, samples anew, files opened", &opening, &[Readers::All]),
    ];
    for (what, engines, readers) in kinds {
        let engines = engines()?;
        let of_containers = |engine: &&Engine| engine.size.1 == "containers";
        for file in FILES {
            for engine in &engines {
                // Each container is found out once, and its first number is taken.
                engine.read(file, engine.containers, 0, 2 * engine.containers)?;
            }
            for &readers in readers {
                let (what, engines): (_, Vec<_>) = match readers {
                    Readers::One => (what.to_owned(), engines.iter().collect()),
                    Readers::All => {
                        (format!("{what}, in turn"), engines.iter().filter(of_containers).collect())
                    }
                };
                let mut times = vec![Vec::new(); engines.len()];
                for round in 0..rounds {
                    for (engine, times) in engines.iter().zip(&mut times) {
                        let count = if readers == Readers::One { 1 } else { engine.containers };
                        let first = u32::try_from(round)? * reads;
                        times.push(engine.read(file, count, first, reads)?);
                    }
                }
                for (engine, times) in engines.iter().zip(times) {
                    let micros = undisturbed(times.iter().map(Duration::as_secs_f64)) * 1e6;
                    let each = micros / f64::from(reads);
                    rows.push(row(&what, engine.size, file.path(), each, "us"));
                }
            }
        }
    }
    Placement::Free.place(&me)?;
    Ok(rows)
}
