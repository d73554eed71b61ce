//! Which part of the text is about which CPU.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::ops::Range;

use super::{Marker, Shape, field, lines};
use crate::{mask::Mask, parse::decimal};

/// Which part of a host's `/proc/cpuinfo` is about which CPU, and what it says of the CPU's place.
///
/// To find that out takes a look at each byte of the text; to render a container's by it, only at the parts of its
/// CPUs. So whoever renders for many containers, on a host of many CPUs, keeps it beside the text:
/// [`View::render_cpuinfo`](crate::View::render_cpuinfo).
#[derive(Clone, Debug, Default)]
pub struct CpuinfoOutline {
    pieces: Vec<Piece>,
    /// Each CPU with the places of its pieces, ascending; first those of no CPU.
    places: Vec<(Option<u32>, usize)>,
    cpus: Mask,
    /// How many cores each package has.
    cores: Vec<u64>,
}

/// A part of the text: what is said of one CPU, or of the machine.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// The physical CPU, if it is of one.
    pub(super) cpu: Option<u32>,
    pub(super) range: Range<usize>,
    pub(super) topology: Topology,
}

/// What a block says of its CPU's place in the machine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Topology {
    /// The number of the package, in the order of the text.
    pub(super) package: u32,
    /// The number of the core, in the order of the text and among all of the machine.
    pub(super) core: u32,
    /// `siblings`: the online CPUs of the package.
    pub(super) siblings: Option<u64>,
    /// `cpu cores`: the cores of the package with an online CPU.
    pub(super) cores: Option<u64>,
}

/// What tells packages apart: `drawer id` and `book id` (s390), `physical id`.
type PackageName<'a> = [Option<&'a [u8]>; 3];

/// `core id`.
type CoreName<'a> = Option<&'a [u8]>;

impl CpuinfoOutline {
    /// The outline of a text.
    #[must_use]
    pub fn of(text: &[u8]) -> CpuinfoOutline {
        let mut pieces = pieces(text);
        let mut packages = BTreeMap::<PackageName<'_>, u32>::new();
        let mut cores = BTreeMap::<CoreName<'_>, u32>::new();
        let mut cores_of = Vec::<BTreeSet<u32>>::new();
        for piece in pieces.iter_mut().filter(|piece| piece.cpu.is_some()) {
            let block = text.get(piece.range.clone()).unwrap_or_default();
            let (package, core) = piece.topology.read(block);
            let next = u32::try_from(packages.len()).unwrap_or(u32::MAX);
            piece.topology.package = *packages.entry(package).or_insert(next);
            let next = u32::try_from(cores.len()).unwrap_or(u32::MAX);
            piece.topology.core = *cores.entry(core).or_insert(next);
            cores_of.resize_with(packages.len(), BTreeSet::new);
            if piece.topology.siblings.is_some()
                && let Some(of) = cores_of.get_mut(piece.topology.package as usize)
            {
                of.insert(piece.topology.core);
            }
        }
        let mut places: Vec<_> =
            pieces.iter().zip(0..).map(|(piece, place)| (piece.cpu, place)).collect();
        places.sort_unstable();
        CpuinfoOutline {
            places,
            cpus: pieces.iter().filter_map(|piece| piece.cpu).collect(),
            cores: cores_of.iter().map(|cores| cores.len() as u64).collect(),
            pieces,
        }
    }

    /// The CPUs that the text tells of: those that were online, or none where the architecture says nothing of
    /// single ones.
    #[must_use]
    pub fn cpus(&self) -> &Mask {
        &self.cpus
    }

    /// The parts of the text that are of one of these CPUs, and those of the machine, in their order. It takes as long as
    /// there are such parts, however many CPUs there are beside them.
    pub(super) fn pieces(&self, cpus: &Mask) -> Vec<&Piece> {
        let mut shown: Vec<usize> = Vec::new();
        for cpu in core::iter::once(None).chain(cpus.iter().map(Some)) {
            let first = self.places.partition_point(|(other, _)| *other < cpu);
            let from = self.places.iter().skip(first);
            shown.extend(from.take_while(|(other, _)| *other == cpu).map(|(_, place)| place));
        }
        shown.sort_unstable();
        shown.into_iter().filter_map(|place| self.pieces.get(place)).collect()
    }

    /// How many cores a package has, by their numbers.
    pub(super) fn cores_of(&self, package: u32) -> u64 {
        self.cores.get(package as usize).copied().unwrap_or(0)
    }
}

/// Cuts the text into its pieces, which are all of it.
fn pieces(text: &[u8]) -> Vec<Piece> {
    let mut cutter = Cutter { pieces: Vec::new(), cpu: None, start: 0 };
    let mut offset = 0;
    // Where the blank lines just before this line began.
    let mut blank_from = None;
    let mut after_marker = false;
    let mut lone = false;
    let mut lines = lines(text).peekable();
    while let Some(line) = lines.next() {
        let is_blank = line.trim_ascii().is_empty();
        if let Some(marker) = Marker::of(line) {
            let begin = if marker.shape == Shape::BlockAfterBlank { blank_from } else { None };
            cutter.cut(begin.unwrap_or(offset), Some(marker.cpu));
            let before_marker = lines.peek().is_some_and(|next| Marker::of(next).is_some());
            lone = marker.shape == Shape::Line || after_marker || before_marker;
            after_marker = true;
        } else {
            let ends = lone || (!is_blank && blank_from.is_some());
            if cutter.cpu.is_some() && ends {
                cutter.cut(offset, None);
            }
            after_marker = false;
        }
        blank_from = is_blank.then(|| blank_from.unwrap_or(offset));
        offset += line.len();
    }
    cutter.cut(offset, None);
    cutter.pieces
}

struct Cutter {
    pieces: Vec<Piece>,
    cpu: Option<u32>,
    start: usize,
}

impl Cutter {
    /// Ends the piece before `at`, and begins that of `next`.
    fn cut(&mut self, at: usize, next: Option<u32>) {
        if self.start < at {
            let (cpu, range) = (self.cpu, self.start..at);
            self.pieces.push(Piece { cpu, range, topology: Topology::default() });
        }
        self.cpu = next;
        self.start = at;
    }
}

impl Topology {
    /// Takes the numbers of a block, and returns the names of its package and core.
    fn read<'a>(&mut self, block: &'a [u8]) -> (PackageName<'a>, CoreName<'a>) {
        let (mut package, mut core) = ([None; 3], None);
        for line in lines(block) {
            let (name, value) = field(line);
            let [drawer, book, physical] = &mut package;
            match name {
                b"drawer id" => *drawer = Some(value),
                b"book id" => *book = Some(value),
                b"physical id" => *physical = Some(value),
                b"core id" => core = Some(value),
                b"siblings" => self.siblings = decimal(value),
                b"cpu cores" => self.cores = decimal(value),
                _ => {}
            }
        }
        (package, core)
    }
}
