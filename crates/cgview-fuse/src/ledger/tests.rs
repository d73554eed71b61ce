//! What a process writes, the next one finds: whole, or as it was before.

use super::*;
use proptest::prelude::*;

fn greeting() -> Greeting {
    Greeting { request: vec![1, 2], reply: vec![3] }
}

fn ledger() -> Ledger {
    Ledger::in_memory(&greeting()).unwrap()
}

/// What the next process finds.
fn reopen(ledger: &Ledger) -> Vec<(Kind, String, Vec<u8>)> {
    let (_, records) = Ledger::open(ledger.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let mut records: Vec<_> = records
        .into_iter()
        .map(|record| (record.kind, record.name.to_string(), record.body))
        .collect();
    records.sort();
    records
}

#[test]
fn the_next_process_finds_the_newest_of_each_name() {
    let ledger = ledger();
    let memory = ledger.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(Ledger::greeting(&memory).unwrap().request, [1, 2]);
    assert_eq!(reopen(&ledger), []);
    for number in 0..5_u8 {
        ledger.put(Kind::Cpu, "a", &[number]).unwrap();
        ledger.put(Kind::Load, "a", &[number, number]).unwrap();
    }
    // It outgrows its region.
    ledger.put(Kind::Cpu, "a", &[7; 5000]).unwrap();
    ledger.put(Kind::Cpu, "b", &[8]).unwrap();
    ledger.forget(Kind::Cpu, "b").unwrap();
    assert_eq!(
        reopen(&ledger),
        [(Kind::Cpu, "a".to_owned(), vec![7; 5000]), (Kind::Load, "a".to_owned(), vec![4, 4])]
    );
}

#[test]
fn what_was_released_is_there_until_it_is_overwritten_or_the_ledger_settled() {
    let ledger = ledger();
    let text = |name: &str| (Kind::Text, name.to_owned(), name.as_bytes().to_vec());
    for name in ["1", "2", "3"] {
        ledger.put(Kind::Text, name, name.as_bytes()).unwrap();
    }
    ledger.release(Kind::Text, "1");
    ledger.release(Kind::Text, "2");
    assert_eq!(reopen(&ledger), [text("1"), text("2"), text("3")]);
    // The region of one of them is used again, and no new one is made.
    let length = ledger.file.metadata().unwrap().len();
    ledger.put(Kind::Text, "4", b"4").unwrap();
    assert_eq!(ledger.file.metadata().unwrap().len(), length);
    assert_eq!(reopen(&ledger).len(), 3);
    ledger.settle().unwrap();
    assert_eq!(reopen(&ledger), [text("3"), text("4")]);
    ledger.put(Kind::Text, "5", b"5").unwrap();
    assert_eq!(ledger.file.metadata().unwrap().len(), length);
    assert_eq!(reopen(&ledger), [text("3"), text("4"), text("5")]);
}

#[test]
fn a_record_that_was_half_written_leaves_the_one_before() {
    let ledger = ledger();
    ledger.put(Kind::Cpu, "a", b"before").unwrap();
    ledger.put(Kind::Cpu, "a", b"after").unwrap();
    let length = ledger.file.metadata().unwrap().len();
    let mut whole = vec![0; usize::try_from(length).unwrap()];
    ledger.file.read_exact_at(&mut whole, 0).unwrap();
    let place = usize::try_from(HEAD + REGION_HEAD as u64 + SMALLEST).unwrap();
    for byte in place..place + RECORD_HEAD + 6 {
        let mut damaged = whole.clone();
        damaged[byte] ^= 0x10;
        ledger.file.write_all_at(&damaged, 0).unwrap();
        let found = reopen(&ledger);
        assert_eq!(found, [(Kind::Cpu, "a".to_owned(), b"before".to_vec())], "{byte}");
        ledger.file.write_all_at(&whole, 0).unwrap();
    }
}

#[test]
fn another_layout_and_damage_are_seen() {
    let ledger = ledger();
    let memory = || ledger.as_fd().try_clone_to_owned().unwrap();
    ledger.file.write_all_at(b"cgview-ledger 9", 0).unwrap();
    assert!(matches!(Ledger::open(memory()), Err(Error::Layout)));
    ledger.file.write_all_at(format!("{NAME} {LAYOUT}").as_bytes(), 0).unwrap();
    Ledger::open(memory()).unwrap();
    ledger.file.write_all_at(b"x", 40).unwrap();
    assert!(matches!(Ledger::open(memory()), Err(Error::Damaged)));
    ledger.file.set_len(10).unwrap();
    assert!(matches!(Ledger::open(memory()), Err(Error::Io(_))));
}

#[test]
fn another_connection_knows_the_containers_of_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cgview-fuse.ledger");
    let ledger = Ledger::begin(&path, "boot", &greeting()).unwrap();
    assert_eq!(reopen(&ledger), []);
    ledger.put(Kind::Cpu, "a", b"cpu").unwrap();
    ledger.put(Kind::Load, "a", b"load").unwrap();
    ledger.put(Kind::Text, "1", b"of an open file").unwrap();
    ledger.put(Kind::Chosen, OFF, b"1").unwrap();
    assert_eq!(read(&path, "boot").unwrap().len(), 4);
    let next = Ledger::begin(&path, "boot", &greeting()).unwrap();
    let carried = [
        (Kind::Cpu, "a".to_owned(), b"cpu".to_vec()),
        (Kind::Load, "a".to_owned(), b"load".to_vec()),
    ];
    assert_eq!(reopen(&next), carried);
    // Whoever still writes to the one before changes nothing.
    ledger.put(Kind::Cpu, "a", b"late").unwrap();
    assert_eq!(reopen(&next), carried);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(matches!(read(&path, "other"), Err(Error::OtherBoot)));
    assert_eq!(reopen(&Ledger::begin(&path, "other", &greeting()).unwrap()), []);
}

#[test]
fn what_is_no_ledger_is_left_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cgview-fuse.ledger");
    for junk in [Vec::new(), b"cgview-ledger 9 0\n{}\n".to_vec(), vec![7; 100_000]] {
        fs::write(&path, junk).unwrap();
        assert!(read(&path, "boot").is_err());
        assert_eq!(reopen(&Ledger::begin(&path, "boot", &greeting()).unwrap()), []);
    }
    // What a link leads to stays what it is.
    let precious = dir.path().join("precious");
    for name in ["cgview-fuse.ledger", "cgview-fuse.ledger.new"] {
        fs::write(&precious, "kept").unwrap();
        let _ = fs::remove_file(dir.path().join(name));
        std::os::unix::fs::symlink(&precious, dir.path().join(name)).unwrap();
        Ledger::begin(&path, "boot", &greeting()).unwrap();
        assert_eq!(fs::read(&precious).unwrap(), b"kept", "{name}");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }
}

#[test]
fn records_of_a_later_version_are_left_aside() {
    let ledger = ledger();
    ledger.put(Kind::Cpu, "a", b"known").unwrap();
    ledger.put(Kind::Load, "a", b"later").unwrap();
    let second = HEAD + REGION_HEAD as u64 + 2 * SMALLEST + REGION_HEAD as u64;
    let mut record = vec![0; RECORD_HEAD + "alater".len()];
    ledger.file.read_exact_at(&mut record, second).unwrap();
    record[16..24].copy_from_slice(&77_u64.to_le_bytes());
    let sum = checksum(&record[8..]);
    record[..8].copy_from_slice(&sum.to_le_bytes());
    ledger.file.write_all_at(&record, second).unwrap();
    assert_eq!(reopen(&ledger), [(Kind::Cpu, "a".to_owned(), b"known".to_vec())]);
}

#[test]
fn one_process_waits_for_the_other() {
    let ledger = ledger();
    let memory = ledger.as_fd().try_clone_to_owned().unwrap();
    let first = Ledger::wait_for_predecessor(&memory, Duration::ZERO).unwrap();
    assert!(Ledger::wait_for_predecessor(&memory, Duration::from_millis(5)).is_err());
    let gone = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        drop(first);
    });
    Ledger::wait_for_predecessor(&memory, Duration::from_secs(60)).unwrap();
    gone.join().unwrap();
}

#[test]
fn what_is_forgotten_makes_room() {
    let ledger = ledger();
    for _ in 0..100 {
        ledger.put(Kind::Cpu, "a", &[1; 600]).unwrap();
        ledger.forget(Kind::Cpu, "a").unwrap();
    }
    assert!(ledger.file.metadata().unwrap().len() < HEAD + 2 * 4096);
}

proptest! {
    /// Against a map, with a process that ends in between.
    #[test]
    fn it_is_a_map(steps: Vec<(u8, u8, u16, bool)>) {
        let mut ledger = ledger();
        let mut model = std::collections::BTreeMap::new();
        for (step, name, length, reopened) in steps {
            let name = (name % 5).to_string();
            let length = usize::from(length % 3000);
            if step % 4 == 0 {
                ledger.forget(Kind::Cpu, &name).unwrap();
                model.remove(&name);
            } else {
                ledger.put(Kind::Cpu, &name, &vec![step; length]).unwrap();
                model.insert(name, vec![step; length]);
            }
            if reopened {
                ledger = Ledger::open(ledger.as_fd().try_clone_to_owned().unwrap()).unwrap().0;
            }
        }
        let expected: Vec<_> =
            model.into_iter().map(|(name, body)| (Kind::Cpu, name, body)).collect();
        prop_assert_eq!(reopen(&ledger), expected);
    }
}
