//! What must not be forgotten when processes are killed: a file beside the pid file.
//!
//! Whoever keeps the connection holds it open, and leaves it to whoever goes on with that. If all of them are
//! gone, and so is the connection, the next start finds it by its name, and carries over what it tells of containers.
//! A record is written before the reader is answered that it is about, so what a reader was told is never
//! unknown to the next process. `/run`, where it is, is memory; after another boot, it is left aside.
//!
//! The file begins with a page that tells its layout and how the connection was begun, and on which threads note what
//! they work on ([`fatal`]), and some with marks of the open files that were read (`marks.rs`). Regions follow, each
//! for the records of one name. A region has two places, and a record is written to the one with the older
//! of them: whoever is killed while it writes leaves the one before. Each record has a checksum, by which
//! half a one is known, and a number that counts up, by which the newest of a name is.
//!
//! Records are JSON, whose unknown fields are left aside: within a layout, the processes of two versions
//! understand each other, both ways. What has another layout is not read.

pub(crate) mod marks;
pub(crate) mod numbers;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use foldhash::HashMap;
use parking_lot::Mutex;
use rustix::{
    fs::{FlockOperation, MemfdFlags, Mode, OFlags, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::{fatal, greeting::Greeting};

/// The first line is a name, the number of the layout, and the checksum of the second one.
const NAME: &str = "cgview-ledger";
const LAYOUT: &str = "3";

fn layout() -> &'static str {
    #[cfg(feature = "other-version")]
    return crate::other_version::layout(LAYOUT);
    #[cfg(not(feature = "other-version"))]
    LAYOUT
}

/// Where the marks begin, and where the regions do.
const MARKS_START: usize = fatal::PAGE;
const HEAD: u64 = (MARKS_START + marks::LENGTH) as u64;

/// The beginning of a region: a mark, and how long each of its places is.
const REGION_HEAD: usize = 16;
const REGION_MARK: u64 = u64::from_le_bytes(*b"cgview-r");

/// The beginning of a record: checksum of what follows, number, kind, length of the name, length of the body.
const RECORD_HEAD: usize = 32;

/// The smallest place.
const SMALLEST: u64 = 512;

/// The file grows no further; what finds no room is not known to the next process.
const LARGEST: u64 = 512 << 20;

/// What a record is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Nothing: the region is free.
    Free,
    /// The CPU times of a container, by its id.
    Cpu,
    /// The load average of a container, by its id.
    Load,
    /// What was chosen while the daemon ran: [`CONFIG`] and [`OFF`].
    Chosen,
    /// The text that an open file is read from, by the number of its handle, where a reader has but a part of it.
    Text,
}

/// The configuration file, as it was read last.
pub const CONFIG: &str = "config";

/// Whether the view is turned off.
pub const OFF: &str = "off";

impl Kind {
    const ALL: [Kind; 5] = [Kind::Free, Kind::Cpu, Kind::Load, Kind::Chosen, Kind::Text];

    fn number(self) -> u64 {
        self as u64
    }

    fn of(number: u64) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

/// A record as it was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// What it is about.
    pub kind: Kind,
    /// Whom it is about.
    pub name: Box<str>,
    /// What it says.
    pub body: Vec<u8>,
}

/// Why there is no ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such file, or no room for it.
    #[error("cannot access the ledger")]
    Io(#[from] io::Error),
    /// It was written by another version, whose layout is another.
    #[error("the ledger has an unknown layout")]
    Layout,
    /// Its first page is not as it was written.
    #[error("the ledger is damaged")]
    Damaged,
    /// It was written before the last boot, whose clock was another.
    #[error("the ledger is of another boot")]
    OtherBoot,
}

/// What the first page tells.
#[derive(Debug, Deserialize, Serialize)]
struct Head {
    greeting: Greeting,
    /// The boot that it is of: `/proc/sys/kernel/random/boot_id`.
    #[serde(default)]
    boot: String,
}

impl Head {
    fn write(&self, file: &File) -> Result<(), Error> {
        let body = serde_json::to_vec(self).map_err(io::Error::from)?;
        let mut text = format!("{NAME} {} {:016x}\n", layout(), checksum(&body)).into_bytes();
        text.extend_from_slice(&body);
        text.push(b'\n');
        if text.len() > fatal::START {
            return Err(io::Error::from(Errno::NOSPC).into());
        }
        file.write_all_at(&text, 0)?;
        Ok(file.set_len(HEAD)?)
    }

    fn read(file: &File) -> Result<Head, Error> {
        let mut text = vec![0; fatal::START];
        file.read_exact_at(&mut text, 0)?;
        let mut lines = text.split(|&byte| byte == b'\n');
        let (Some(first), Some(body)) = (lines.next(), lines.next()) else {
            return Err(Error::Layout);
        };
        let first = std::str::from_utf8(first).map_err(|_| Error::Layout)?;
        let sum = first
            .strip_prefix(NAME)
            .and_then(|rest| rest.trim_start().strip_prefix(layout()))
            .and_then(|rest| rest.strip_prefix(' '))
            .ok_or(Error::Layout)?;
        if sum != format!("{:016x}", checksum(body)) {
            return Err(Error::Damaged);
        }
        serde_json::from_slice(body).map_err(|_| Error::Damaged)
    }
}

/// The file, and where each record is.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    regions: Mutex<Regions>,
    /// The number of the next record.
    next: AtomicU64,
}

type Name = (Kind, Box<str>);

#[derive(Debug, Default)]
struct Regions {
    used: HashMap<Name, Arc<Mutex<Region>>>,
    free: Vec<Region>,
    end: u64,
}

/// Two places for records of one name.
#[derive(Clone, Copy, Debug)]
struct Region {
    start: u64,
    /// Of each place.
    length: u64,
    /// Which place has the older record.
    older: bool,
    /// Whether it is free and does not say so: see [`Ledger::release`].
    stale: bool,
}

impl Region {
    fn new(start: u64, length: u64) -> Region {
        Region { start, length, older: false, stale: false }
    }

    fn place(&self, second: bool) -> u64 {
        self.start + REGION_HEAD as u64 + if second { self.length } else { 0 }
    }

    fn end(&self) -> u64 {
        self.start + REGION_HEAD as u64 + 2 * self.length
    }
}

impl Ledger {
    /// A new one for a connection that was begun by that greeting, in the place of the file that may be there. What
    /// that one tells of containers, if it is of the same boot, carries over; what it tells of the connection that is
    /// gone does not.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn begin(path: &Path, boot: &str, greeting: &Greeting) -> Result<Ledger, Error> {
        let next = path.with_extension("ledger.new");
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        // Whoever can write it can show containers any CPU time. It is no link, to whatever.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file =
            rustix::fs::open(&next, flags, Mode::RUSR | Mode::WUSR).map_err(io::Error::from)?;
        let ledger = Ledger::with(file.into(), boot, greeting)?;
        match read_left(path, boot) {
            Ok(records) => {
                for Record { kind, name, body } in records {
                    if matches!(kind, Kind::Cpu | Kind::Load) {
                        ledger.put(kind, &name, &body)?;
                    }
                }
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(Error::OtherBoot) => {}
            Err(error) => tracing::warn!(
                "began anew, without what {} tells of containers: {error}",
                path.display()
            ),
        }
        fs::rename(&next, path)?;
        Ok(ledger)
    }

    /// A new one that has no name, and so is known to those alone that it is left to.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn in_memory(greeting: &Greeting) -> Result<Ledger, Error> {
        let memory = rustix::fs::memfd_create("cgview-ledger", MemfdFlags::CLOEXEC)
            .map_err(io::Error::from)?;
        Ledger::with(memory.into(), "", greeting)
    }

    fn with(file: File, boot: &str, greeting: &Greeting) -> Result<Ledger, Error> {
        Head { greeting: greeting.clone(), boot: boot.into() }.write(&file)?;
        let regions = Regions { end: HEAD, ..Regions::default() };
        Ok(Ledger { file, regions: Mutex::new(regions), next: AtomicU64::new(1) })
    }

    /// The greeting of the connection that a ledger belongs to.
    ///
    /// # Errors
    ///
    /// [`Error`], if it is no ledger.
    pub fn greeting(memory: &OwnedFd) -> Result<Greeting, Error> {
        Ok(Head::read(&File::from(memory.try_clone()?))?.greeting)
    }

    /// One that a process before this one wrote, and what it wrote.
    ///
    /// # Errors
    ///
    /// [`Error`], if it is no ledger.
    pub fn open(memory: OwnedFd) -> Result<(Ledger, Vec<Record>), Error> {
        let file = File::from(memory);
        Head::read(&file)?;
        let Found { mut regions, records, next } = Found::in_file(&file)?;
        let mut free = std::mem::take(&mut regions.free);
        let ledger = Ledger { file, regions: Mutex::new(regions), next: AtomicU64::new(next) };
        // What is in a free region must not be taken for something later.
        for region in &mut free {
            ledger.write(region, Kind::Free, "", &[])?;
        }
        ledger.regions.lock().free = free;
        Ok((ledger, records))
    }

    /// Waits until the process before this one is really gone, but no longer than `patience`, and returns what the
    /// next one waits for. Whoever killed its keeper as well may have started this one sooner than the last of
    /// its threads ended; and what that one reads after this one has asked for it again is lost.
    ///
    /// # Errors
    ///
    /// What the kernel says, and `EWOULDBLOCK` if the other one is still there.
    pub fn wait_for_predecessor(memory: &OwnedFd, patience: Duration) -> io::Result<File> {
        // Opened anew, as a lock belongs to the open file, which all of them share otherwise.
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let file = File::options().read(true).write(true).open(path)?;
        lock(&file, patience)?;
        Ok(file)
    }

    /// What a process before this one wrote of one name.
    #[must_use]
    pub fn look_up(memory: &OwnedFd, kind: Kind, name: &str) -> Option<Vec<u8>> {
        let (_, records) = Ledger::open(memory.try_clone().ok()?).ok()?;
        records
            .into_iter()
            .find(|record| record.kind == kind && *record.name == *name)
            .map(|record| record.body)
    }

    /// Writes what is to be known of a name from now on.
    ///
    /// # Errors
    ///
    /// What the kernel says, and `ENOSPC` when there is no room; then what was known before is known.
    pub fn put(&self, kind: Kind, name: &str, body: &[u8]) -> io::Result<()> {
        let length = u64::try_from(RECORD_HEAD + name.len() + body.len()).unwrap_or(u64::MAX);
        let key = (kind, Box::from(name));
        let known = self.regions.lock().used.get(&key).map(Arc::clone);
        if let Some(region) = known {
            let mut region = region.lock();
            if length <= region.length {
                return self.write(&mut region, kind, name, body);
            }
        }
        let mut region = self.allocate(length)?;
        self.write(&mut region, kind, name, body)?;
        let outgrown = self.regions.lock().used.insert(key, Arc::new(Mutex::new(region)));
        outgrown.map_or(Ok(()), |outgrown| self.give_back(&outgrown))
    }

    /// Forgets a name.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn forget(&self, kind: Kind, name: &str) -> io::Result<()> {
        let region = self.regions.lock().used.remove(&(kind, Box::from(name)));
        region.map_or(Ok(()), |region| self.give_back(&region))
    }

    /// Forgets a name of which the next process knows in another way that it is gone, so that its record may stay: until
    /// it is overwritten, or the ledger is [settled](Ledger::settle).
    pub(crate) fn release(&self, kind: Kind, name: &str) {
        let mut regions = self.regions.lock();
        if let Some(region) = regions.used.remove(&(kind, Box::from(name))) {
            let region = *region.lock();
            regions.free.push(Region { stale: true, ..region });
        }
    }

    /// Has the regions that were released say that they are free.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let stale: Vec<_> =
            self.regions.lock().free.extract_if(.., |region| region.stale).collect();
        let give_back = |region| self.give_back(&Mutex::new(region));
        stale.into_iter().map(give_back).fold(Ok(()), io::Result::and)
    }

    fn give_back(&self, region: &Mutex<Region>) -> io::Result<()> {
        let mut region = region.lock();
        self.write(&mut region, Kind::Free, "", &[])?;
        self.regions.lock().free.push(Region { stale: false, ..*region });
        Ok(())
    }

    /// A region whose places have room for `length`.
    fn allocate(&self, length: u64) -> io::Result<Region> {
        let length = length.max(SMALLEST).checked_next_power_of_two().unwrap_or(u64::MAX);
        let mut regions = self.regions.lock();
        let fitting = regions.free.iter().position(|region| region.length == length);
        if let Some(index) = fitting {
            return Ok(Region { stale: false, ..regions.free.swap_remove(index) });
        }
        if length > LARGEST || regions.end + REGION_HEAD as u64 + 2 * length > LARGEST {
            return Err(Errno::NOSPC.into());
        }
        let region = Region::new(regions.end, length);
        // The last region ends where the file does: a region without its end was never used.
        self.file.set_len(region.end())?;
        let mut head = [0; REGION_HEAD];
        put_numbers(&mut head, &[REGION_MARK, length]);
        self.file.write_all_at(&head, region.start)?;
        regions.end = region.end();
        Ok(region)
    }

    fn write(&self, region: &mut Region, kind: Kind, name: &str, body: &[u8]) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let lengths = u64::try_from(name.len()).unwrap_or_default() << 32
            | u64::try_from(body.len()).unwrap_or_default();
        let mut record = Vec::with_capacity(RECORD_HEAD + name.len() + body.len());
        record.resize(RECORD_HEAD, 0);
        record.extend_from_slice(name.as_bytes());
        record.extend_from_slice(body);
        put_numbers(&mut record, &[0, number, kind.number(), lengths]);
        let sum = checksum(record.get(8..).unwrap_or_default());
        put_numbers(&mut record, &[sum]);
        self.file.write_all_at(&record, region.place(region.older))?;
        region.older = !region.older;
        Ok(())
    }
}

/// What is in a ledger.
struct Found {
    regions: Regions,
    records: Vec<Record>,
    /// The number of the next record.
    next: u64,
}

impl Found {
    fn in_file(file: &File) -> io::Result<Found> {
        let mut regions = Regions { end: HEAD, ..Regions::default() };
        let mut newest = HashMap::<Name, (u64, Region, Vec<u8>)>::default();
        let mut next = 1;
        let length = file.metadata()?.len();
        while let Some(region) = find_region(file, regions.end, length) {
            regions.end = region.end();
            let first = find_record(file, region.place(false), region.length);
            let second = find_record(file, region.place(true), region.length);
            let older = first.as_ref().map(|found| found.0) > second.as_ref().map(|found| found.0);
            let newer = if older { first } else { second };
            let region = Region { older, ..region };
            let Some((number, record)) = newer else {
                regions.free.push(region);
                continue;
            };
            next = next.max(number.saturating_add(1));
            if record.kind == Kind::Free {
                regions.free.push(region);
                continue;
            }
            let name = (record.kind, record.name);
            // It outgrew its region, and the old one was not given back any more.
            let known = newest.get(&name).is_some_and(|(known, ..)| *known > number);
            let outdated = if known {
                Some(region)
            } else {
                newest.insert(name, (number, region, record.body)).map(|(_, region, _)| region)
            };
            regions.free.extend(outdated);
        }
        let mut records = Vec::with_capacity(newest.len());
        for ((kind, name), (_, region, body)) in newest {
            records.push(Record { kind, name: name.clone(), body });
            regions.used.insert((kind, name), Arc::new(Mutex::new(region)));
        }
        Ok(Found { regions, records, next })
    }
}

/// How long processes that were killed may take to end.
pub const DYING: Duration = Duration::from_secs(2);

/// What is written in a file of the same boot, once nobody writes to it any more.
fn read_left(path: &Path, boot: &str) -> Result<Vec<Record>, Error> {
    read_with(path, boot, |file| {
        lock(file, DYING).or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Ok(()),
            _ => Err(error),
        })
    })
}

/// What is written in a file of the same boot, which somebody else may be writing to.
///
/// # Errors
///
/// [`Error`].
pub fn read(path: &Path, boot: &str) -> Result<Vec<Record>, Error> {
    read_with(path, boot, |_| Ok(()))
}

fn read_with(
    path: &Path,
    boot: &str,
    wait: impl FnOnce(&File) -> io::Result<()>,
) -> Result<Vec<Record>, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
    let file = File::from(file);
    // Whoever has it, of whatever version, has sockets of the same names, too.
    wait(&file)?;
    if Head::read(&file)?.boot != boot {
        return Err(Error::OtherBoot);
    }
    Ok(Found::in_file(&file)?.records)
}

/// Waits until nobody else has the lock.
fn lock(file: &File, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// CRC-32: it is about what was cut off, not about what was forged.
fn checksum(bytes: &[u8]) -> u64 {
    crc32fast::hash(bytes).into()
}

impl From<Ledger> for OwnedFd {
    fn from(ledger: Ledger) -> OwnedFd {
        ledger.file.into()
    }
}

impl AsFd for Ledger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn put_numbers(place: &mut [u8], numbers: &[u64]) {
    for (place, number) in place.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
}

fn numbers<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = bytes.try_into().map_or(0, u64::from_le_bytes);
    }
    numbers
}

fn find_region(file: &File, start: u64, file_length: u64) -> Option<Region> {
    let mut head = [0; REGION_HEAD];
    file.read_exact_at(&mut head, start).ok()?;
    let [mark, length] = numbers(&head);
    let region = Region::new(start, length);
    let is_whole = mark == REGION_MARK
        && (SMALLEST..=LARGEST).contains(&length)
        && region.end() <= file_length;
    is_whole.then_some(region)
}

/// The record in a place, with its number.
fn find_record(file: &File, start: u64, length: u64) -> Option<(u64, Record)> {
    let mut head = [0; RECORD_HEAD];
    file.read_exact_at(&mut head, start).ok()?;
    let [sum, number, kind, lengths] = numbers(&head);
    let (name, body) = (lengths >> 32, lengths & u64::from(u32::MAX));
    if name + body + RECORD_HEAD as u64 > length {
        return None;
    }
    let mut whole = vec![0; RECORD_HEAD + usize::try_from(name + body).ok()?];
    file.read_exact_at(&mut whole, start).ok()?;
    if sum != checksum(whole.get(8..)?) {
        return None;
    }
    let (name, body) = whole.get(RECORD_HEAD..)?.split_at_checked(usize::try_from(name).ok()?)?;
    let name = std::str::from_utf8(name).ok()?.into();
    Some((number, Record { kind: Kind::of(kind)?, name, body: body.to_vec() }))
}
