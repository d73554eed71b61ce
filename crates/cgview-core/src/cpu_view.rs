//! CPU times as `/proc/stat` and `/proc/uptime` show them: a step function with a small state.
//!
//! A container of 1.5 CPUs is shown two: `cpu0` with the capacity of a whole CPU and `cpu1` with that of
//! half a one. Capacity advances with time, the container's CPU time is laid into it, and what stays
//! free is idle time. So a container that burns all that it may burn has no idle time, and one that burns
//! half of it has half, whatever its neighbours do and however many CPUs the host has.

use alloc::vec::Vec;
use core::mem;

use crate::{
    effective::CpuLimits,
    policy::StealPolicy,
    snapshot::{Cgroup, CpuTime, CpuUsage, Tasks, Version},
    units::{Cpus, Ticks, Usec},
};

/// Steps closer together than this change nothing, so that many readers at once cost nothing. It is far
/// below the tick in which the times are shown.
const SHORTEST_STEP: Usec = Usec(1000);

/// How much CPU time may wait to be shown, in time at the full entitlement.
///
/// More than the entitlement can be used for a while: a quota may be spent at the start of its period
/// (at most a second), as much again is allowed by `cpu.max.burst`, and the kernel charges in ticks. All
/// of that evens out. What does not is time that no quota bounds, such as that of real-time tasks: were
/// it kept, the container would look busy long after they have ended.
const LONGEST_PENDING: Usec = Usec::from_secs(4);

/// How far the idle time of a CPU that appears is shown ahead: one tick. Programs take a CPU whose columns are all 0
/// for one that is offline: sysstat's do, and then tell nothing of it, though its container has only just started.
const HEAD_START: Usec = Ticks(1).usec();

/// A snapshot that is older than the state by no more than this was taken by another reader, who was
/// overtaken. By more, and the clock is another one's.
const OVERTAKEN: Usec = Usec::from_secs(60);

/// The CPU times that a container's readers have been shown so far.
///
/// It is the part of the view that must outlive a process: a successor that starts from it shows no
/// counter going back.
///
/// ```
/// use cgview_core::{cpu_view::CpuView, effective::CpuLimits, policy::StealPolicy};
/// use cgview_core::{Cpus, Mask, Usec};
///
/// let set = Mask::first(4);
/// let visible = Mask::first(2);
/// let limits = CpuLimits { set, visible, entitlement: Cpus(1_500_000), ..CpuLimits::default() };
/// let mut view = CpuView::default();
/// let started = Usec::from_secs(100);
/// view.step(Usec::from_secs(110), started, &limits, None, StealPolicy::Zero);
/// assert_eq!(view.cpus()[0].idle, Usec::from_secs(10));
/// assert_eq!(view.cpus()[1].idle, Usec::from_secs(5));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct CpuView {
    cpus: Vec<VisibleCpu>,
    last: Option<Moment>,
    /// The cgroup that the usage came from, as a hash.
    source: Option<u64>,
    /// How much of the cgroup's total has been taken in.
    counted: CpuTime,
    /// The same by physical CPU, ascending; empty where the kernel does not tell.
    counted_by_cpu: Vec<(u32, CpuTime)>,
    throttled: Usec,
    /// Taken in and not yet shown.
    pending: CpuTime,
    /// The largest number of processes that were told of.
    forks: u64,
    /// What is left of each visible CPU's capacity during a step; empty between steps.
    #[cfg_attr(feature = "serde", serde(skip))]
    room: Vec<Usec>,
}

/// One visible CPU's times since the container started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VisibleCpu {
    /// What the container used.
    pub busy: CpuTime,
    /// What it could have used and did not.
    pub idle: Usec,
    /// How far the idle time is shown ahead of that. It shrinks as idle time passes.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "is_zero"))]
    pub ahead: Usec,
    /// What its quota withheld, by [`StealPolicy::Throttled`].
    pub steal: Usec,
}

impl VisibleCpu {
    /// The idle time as it is shown.
    #[must_use]
    pub const fn shown_idle(&self) -> Usec {
        self.idle.saturating_add(self.ahead)
    }
}

#[cfg(feature = "serde")]
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde has it so")]
fn is_zero(time: &Usec) -> bool {
    *time == Usec::ZERO
}

/// When the last step was, and at which rate capacity has advanced since.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Moment {
    now: Usec,
    started: Usec,
    rate: Cpus,
    /// The part of a microsecond of capacity that the last step left over, in millionths.
    remainder: u64,
}

impl CpuView {
    /// Moves on to `now`, when the container, started at `started`, had used `usage` in all.
    ///
    /// - Capacity advances by the time since the last step, at the full rate on all CPUs but the last,
    ///   which has the fraction of the entitlement. By [`StealPolicy::Throttled`] the last is whole too,
    ///   and the throttled time is shown in what is then left.
    /// - The CPU time since the last step goes, where the kernel tells it by CPU (v1), to the visible CPU
    ///   that stands for the physical one. What does not fit there, what was used on CPUs that are not
    ///   visible, and all of it on v2, is spread over the capacity that is left. What does not fit at all
    ///   is shown in the next step, so that idle time never shrinks; [`CpuView::pending`] tells how much.
    /// - The first step fills in the time since `started`. A cgroup may have been used before that, so
    ///   what does not fit is not the container's.
    /// - When the entitlement changed since the last step, nobody knows when; the capacity is then the
    ///   smallest between the old and the new one that holds what was used.
    /// - When CPUs vanish, their times go to those that remain. CPUs that appear start at zero, and are shown a tick of
    ///   idle time ahead, unless those that were there have not yet caught up with theirs.
    /// - When the usage comes from another cgroup (the container was moved) or has gone back (the cgroup
    ///   was made anew), it is counted from there on.
    /// - A snapshot from before the last step, which another reader has overtaken, changes nothing.
    ///
    /// So no time ever goes back, and all times together are at most the capacity so far.
    ///
    /// Returns whether anything changed, so that it has to be saved.
    pub fn step(
        &mut self,
        now: Usec,
        started: Usec,
        limits: &CpuLimits,
        usage: Option<&CpuUsage>,
        steal: StealPolicy,
    ) -> bool {
        let count = (limits.visible.len() as usize).max(1);
        let whole = Cpus::whole(u64::from(limits.visible.len().max(1)));
        let rate = match steal {
            StealPolicy::Zero => limits.entitlement.min(whole),
            StealPolicy::Throttled => whole,
        };
        let first = self.last.is_none();
        let last =
            self.last.unwrap_or(Moment { now: started.min(now), started, rate, remainder: 0 });

        let behind = last.now.saturating_sub(now);
        if behind > Usec::ZERO && behind <= OVERTAKEN && started == last.started {
            return false;
        }
        let wall = now.saturating_sub(last.now);
        let source = usage.map_or(self.source, |usage| Some(identity(&usage.cgroup)));
        let changed = rate != last.rate || count != self.cpus.len() || source != self.source;
        if !first && behind == Usec::ZERO && wall < SHORTEST_STEP && !changed {
            return false;
        }
        let rebase = !first && (behind > Usec::ZERO || source != self.source);
        let (most, remainder) = if rate == last.rate {
            advance(rate, wall, last.remainder)
        } else {
            (rate.max(last.rate).during(wall), 0)
        };
        let least = if rate == last.rate { most } else { rate.min(last.rate).during(wall) };

        let slots = count.max(self.cpus.len());
        self.appear(slots);
        self.open_room(wall, most);
        let capacity = self.room_left();
        let mut withheld = Usec::ZERO;
        if let Some(usage) = usage {
            self.take_in(usage, limits, first, rebase);
            if steal == StealPolicy::Throttled && !rebase {
                withheld = usage.throttled.saturating_sub(self.throttled);
            }
            self.throttled = usage.throttled;
        }
        self.spread_pending();
        let used = capacity.saturating_sub(self.room_left());
        self.narrow_room(least.saturating_sub(used));
        self.close_room(withheld);
        self.fold(count);

        // What does not fit into the first step was used before the container started.
        let bound = if first { Usec::ZERO } else { rate.max(last.rate).during(LONGEST_PENDING) };
        self.pending = portion(self.pending, self.pending.sum().min(bound));
        self.source = source;
        self.last = Some(Moment { now, started, rate, remainder });
        true
    }

    /// Takes in how many processes there have been so far, by the tasks that there are: [`Tasks::newest`], which
    /// falls when tasks end. What was told does not.
    ///
    /// Returns whether anything changed, so that it has to be saved.
    pub const fn count_forks(&mut self, tasks: &Tasks) -> bool {
        let is_more = tasks.newest() > self.forks;
        if is_more {
            self.forks = tasks.newest();
        }
        is_more
    }

    /// The most processes that there have been, by [`CpuView::count_forks`].
    #[must_use]
    pub const fn forks(&self) -> u64 {
        self.forks
    }

    /// The visible CPUs.
    #[must_use]
    pub fn cpus(&self) -> &[VisibleCpu] {
        &self.cpus
    }

    /// The idle time of all visible CPUs together, without what is shown ahead.
    #[must_use]
    pub fn idle(&self) -> Usec {
        self.cpus.iter().map(|cpu| cpu.idle).sum()
    }

    /// CPU time of the container that is not shown yet, since it was more than its entitlement. At most
    /// what the entitlement holds in four seconds.
    #[must_use]
    pub fn pending(&self) -> Usec {
        self.pending.sum()
    }

    /// Adds CPUs until there are `slots`.
    ///
    /// All together are never more ahead than a tick for each, however often CPUs come and go: what is ahead stays
    /// when a CPU vanishes, so that the sum does not go back.
    fn appear(&mut self, slots: usize) {
        let mut ahead: Usec = self.cpus.iter().map(|cpu| cpu.ahead).sum();
        while self.cpus.len() < slots {
            let allowed = HEAD_START.0.saturating_mul(self.cpus.len() as u64);
            let own = if ahead.0 <= allowed { HEAD_START } else { Usec::ZERO };
            ahead = ahead.saturating_add(own);
            self.cpus.push(VisibleCpu { ahead: own, ..VisibleCpu::default() });
        }
    }

    /// Gives each visible CPU its part of `capacity`: whole ones from the first, and the last what is
    /// left.
    fn open_room(&mut self, wall: Usec, capacity: Usec) {
        let mut left = capacity;
        self.room.clear();
        self.room.extend(self.cpus.iter().map(|_| {
            let room = wall.min(left);
            left = left.saturating_sub(room);
            room
        }));
    }

    fn room_left(&self) -> Usec {
        self.room.iter().copied().sum()
    }

    /// Takes in what was used since the last step: on CPUs that are visible and have room for it, it is
    /// shown there; the rest is pending.
    fn take_in(&mut self, usage: &CpuUsage, limits: &CpuLimits, first: bool, rebase: bool) {
        if usage.per_cpu.is_empty() {
            self.take_in_total(usage.total, rebase);
            self.counted_by_cpu.clear();
            return;
        }
        if rebase || (!first && self.counted_by_cpu.is_empty()) {
            self.take_in_total(usage.total, rebase);
            self.counted_by_cpu.clear();
            self.counted_by_cpu.extend_from_slice(&usage.per_cpu);
            self.counted_by_cpu.sort_unstable_by_key(|&(cpu, _)| cpu);
            return;
        }
        self.counted = usage.total;
        let is_root = usage.cgroup.is_root();
        let mut visible = limits.visible.iter().enumerate().peekable();
        for &(cpu, time) in &usage.per_cpu {
            let found = self.counted_by_cpu.binary_search_by_key(&cpu, |&(cpu, _)| cpu);
            let place = found.unwrap_or_else(|place| {
                self.counted_by_cpu.insert(place, (cpu, CpuTime::default()));
                place
            });
            let Some((_, counted)) = self.counted_by_cpu.get_mut(place) else { continue };
            let mut used = count(counted, time);
            // The root of v1's cpuacct holds the whole host, also where a cpuset, which has a hierarchy
            // of its own, confines the container to some CPUs.
            if is_root && !limits.set.contains(cpu) {
                continue;
            }
            while visible.next_if(|&(_, physical)| physical < cpu).is_some() {}
            if let Some((index, _)) = visible.next_if(|&(_, physical)| physical == cpu)
                && let Some(room) = self.room.get_mut(index)
                && let Some(shown) = self.cpus.get_mut(index)
            {
                let own = portion(used, used.sum().min(*room));
                *room = room.saturating_sub(own.sum());
                shown.busy = plus(shown.busy, own);
                used = minus(used, own);
            }
            self.pending = plus(self.pending, used);
        }
    }

    fn take_in_total(&mut self, total: CpuTime, rebase: bool) {
        if rebase {
            self.counted = total;
        } else {
            self.pending = plus(self.pending, count(&mut self.counted, total));
        }
    }

    /// Shows what is pending, in proportion to the room that is left.
    fn spread_pending(&mut self) {
        let total = self.room_left();
        let mut spread = Spread::new(self.pending.sum().min(total), total);
        for (shown, room) in self.cpus.iter_mut().zip(&mut self.room) {
            let share = spread.share(*room);
            let part = portion(self.pending, share);
            *room = room.saturating_sub(share);
            shown.busy = plus(shown.busy, part);
            self.pending = minus(self.pending, part);
        }
    }

    /// Leaves room for at most `most` in all.
    fn narrow_room(&mut self, most: Usec) {
        let total = self.room_left();
        if most < total {
            let mut spread = Spread::new(most, total);
            self.room.iter_mut().for_each(|room| *room = spread.share(*room));
        }
    }

    /// Makes `withheld`, as far as it fits, of the room that is left steal time, and the rest idle time.
    fn close_room(&mut self, withheld: Usec) {
        let total = self.room_left();
        let mut spread = Spread::new(withheld.min(total), total);
        // Taken, not drained in place, so that its memory is kept for the next step.
        let mut rooms = mem::take(&mut self.room);
        for (shown, room) in self.cpus.iter_mut().zip(rooms.drain(..)) {
            let stolen = spread.share(room);
            shown.steal = shown.steal.saturating_add(stolen);
            let idle = room.saturating_sub(stolen);
            shown.idle = shown.idle.saturating_add(idle);
            shown.ahead = shown.ahead.saturating_sub(idle);
        }
        self.room = rooms;
    }

    /// Adds the times of the CPUs from `count` on to those before, each whole to one of them: a time cut
    /// in two could lose a tick where it is rounded down.
    fn fold(&mut self, count: usize) {
        while self.cpus.len() > count {
            let Some(gone) = self.cpus.pop() else { return };
            let onto = self.cpus.len() % count;
            if let Some(kept) = self.cpus.get_mut(onto) {
                kept.busy = plus(kept.busy, gone.busy);
                kept.idle = kept.idle.saturating_add(gone.idle);
                kept.ahead = kept.ahead.saturating_add(gone.ahead);
                kept.steal = kept.steal.saturating_add(gone.steal);
            }
        }
    }
}

/// The capacity of `rate` in `wall`, and what is left below a microsecond, in millionths.
fn advance(rate: Cpus, wall: Usec, remainder: u64) -> (Usec, u64) {
    let one = u128::from(Cpus::ONE.0);
    let exact = u128::from(rate.0) * u128::from(wall.0) + u128::from(remainder) % one;
    let capacity = u64::try_from(exact / one).unwrap_or(u64::MAX);
    (Usec(capacity), u64::try_from(exact % one).unwrap_or(0))
}

/// Counts up to `time`: what was added, and nothing if it has gone back.
///
/// The sum is exact; the kinds are as close as they can be without any of them going back. The kernel
/// samples them in ticks, and the host's `cputime_adjust()` has the same task.
fn count(counted: &mut CpuTime, time: CpuTime) -> CpuTime {
    if time.sum() < counted.sum() {
        *counted = time;
        return CpuTime::default();
    }
    let added = portion(minus(time, *counted), time.sum().saturating_sub(counted.sum()));
    *counted = plus(*counted, added);
    added
}

/// `amount` of `time`, which has at least as much, with its kinds in proportion.
fn portion(time: CpuTime, amount: Usec) -> CpuTime {
    let total = time.sum();
    if amount >= total {
        return time;
    }
    let mut spread = Spread::new(amount, total);
    let user = spread.share(time.user);
    let nice = spread.share(time.nice);
    CpuTime { user, nice, system: spread.share(time.system) }
}

fn plus(a: CpuTime, b: CpuTime) -> CpuTime {
    CpuTime {
        user: a.user.saturating_add(b.user),
        nice: a.nice.saturating_add(b.nice),
        system: a.system.saturating_add(b.system),
    }
}

fn minus(a: CpuTime, b: CpuTime) -> CpuTime {
    CpuTime {
        user: a.user.saturating_sub(b.user),
        nice: a.nice.saturating_sub(b.nice),
        system: a.system.saturating_sub(b.system),
    }
}

/// Hands out an amount in proportion to weights, one after the other, without losing any of it: each
/// share is rounded so that the sum so far is right. No share is larger than its weight if the amount is
/// not larger than all weights together.
struct Spread {
    amount: u64,
    total: u64,
    reached: u64,
    given: u64,
}

impl Spread {
    fn new(amount: Usec, total: Usec) -> Spread {
        Spread { amount: amount.0, total: total.0, reached: 0, given: 0 }
    }

    fn share(&mut self, weight: Usec) -> Usec {
        if self.amount == 0 {
            return Usec::ZERO;
        }
        self.reached = self.reached.saturating_add(weight.0);
        // The product of two durations rarely needs the 128 bits, whose division is slow.
        let due = match self.amount.checked_mul(self.reached) {
            Some(product) => product.checked_div(self.total).unwrap_or(0),
            None => Usec(self.amount).scale(self.reached, self.total).0,
        };
        let share = due.saturating_sub(self.given).min(weight.0);
        self.given = self.given.saturating_add(share);
        Usec(share)
    }
}

/// A hash of a cgroup's path and version that is the same in every process (FNV-1a).
fn identity(cgroup: &Cgroup) -> u64 {
    let version: &[u8] = match cgroup.version {
        Version::V1 => b"1",
        Version::V2 => b"2",
    };
    version.iter().chain(cgroup.path.as_bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
