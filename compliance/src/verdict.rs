//! What a test says of the server that is under test.

use crate::{Subject, Version, test_name, under_test};

/// A known defect of LXCFS, by its number in `docs/compatibility.md`.
#[derive(Clone, Copy, Debug)]
pub struct Defect {
    id: &'static str,
    is_in: fn(Version) -> bool,
    /// Whether it needs luck.
    is_race: bool,
}

impl Defect {
    /// A defect that all versions have.
    #[must_use]
    pub const fn new(id: &'static str) -> Defect {
        Defect { id, is_in: |_| true, is_race: false }
    }

    /// A defect of those versions.
    #[must_use]
    pub const fn of(id: &'static str, is_in: fn(Version) -> bool) -> Defect {
        Defect { id, is_in, is_race: false }
    }

    /// A defect that shows when things happen at the right time, so that it can also not be seen.
    #[must_use]
    pub const fn sometimes(id: &'static str) -> Defect {
        Defect { id, is_in: |_| true, is_race: true }
    }

    /// Whether the server that is under test is to have it.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        under_test().lxcfs().is_some_and(self.is_in)
    }

    /// Judges what was `seen`: it has to be right, or, where the defect is expected, wrong in the known way.
    #[track_caller]
    pub fn judge(&self, seen: &str, is_right: bool, is_wrong: bool) {
        let (id, test, subject) = (self.id, test_name(), under_test());
        if self.is_race && under_test().lxcfs().is_some() && is_right {
            println!("NOT SEEN: {id}: {test}: {subject}: {seen}");
        } else if self.is_expected() {
            assert!(is_wrong, "{id} is not seen in {subject}, which has it: {seen}");
            println!("DEFECT: {id}: {test}: {subject}: {seen}");
        } else {
            assert!(is_right, "{id} in {subject}: {seen}");
            println!("CORRECT: {id}: {test}: {subject}: {seen}");
        }
    }
}

/// Where cgview and LXCFS differ on purpose: each does what it says, and `docs/compatibility.md` says why.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// What LXCFS does.
    pub lxcfs: &'static str,
    /// What cgview does.
    pub cgview: &'static str,
}

impl Difference {
    /// Judges what was `seen` of either.
    #[track_caller]
    pub fn judge(&self, seen: &str, is_cgview: bool, is_lxcfs: bool) {
        let (test, subject) = (test_name(), under_test());
        let Difference { lxcfs, cgview } = self;
        println!("DIFFERENCE: {test}: lxcfs: {lxcfs}; cgview: {cgview}; {subject}: {seen}");
        match subject {
            Subject::Cgview => assert!(is_cgview, "{seen}"),
            Subject::Lxcfs { .. } => assert!(is_lxcfs, "{seen}"),
        }
    }
}
