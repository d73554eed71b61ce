//! Paths and numbers of the view: each entry has one of each.
#![no_main]

use cgview_core::tree::Entry;
use libfuzzer_sys::fuzz_target;

fn check(entry: Entry) {
    assert_eq!(Entry::from_id(entry.id()), Some(entry));
    let path = entry.path();
    // Directories of CPUs and nodes exist for any number in the tables, caches for a few.
    if let Some(found) = Entry::at(&path) {
        assert_eq!((found, found.id()), (entry, entry.id()));
        assert!(matches!(Entry::at(&format!("//{path}//")), Some(again) if again == entry));
    }
    if let Entry::Dir(dir) = entry {
        for child in dir.fixed_children() {
            assert_eq!(child.parent(), dir);
            assert_eq!(Entry::from_id(child.id()), Some(child));
        }
    }
}

fuzz_target!(|input: &[u8]| {
    if let Some(entry) = str::from_utf8(input).ok().and_then(Entry::at) {
        check(entry);
        assert_eq!(Entry::at(&entry.path()), Some(entry));
    }
    if let Some(entry) =
        input.first_chunk().copied().map(u64::from_le_bytes).and_then(Entry::from_id)
    {
        check(entry);
    }
});
