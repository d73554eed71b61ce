//! Lists and masks of CPUs.

use alloc::vec::Vec;

use crate::{
    explain::{Output, Why},
    mask::Mask,
    view::View,
};

/// Why the container has these CPUs and no others: its quota, its cpuset, or neither.
pub(crate) fn visible_why(view: &View<'_>) -> Why {
    view.cpus.why(view.snapshot, "the visible CPUs, counted from 0")
}

/// Whether every online CPU is visible, and by the number that it has on the host: the host's own text
/// is then the container's.
///
/// It is not on a host with a hole in its online CPUs, such as `0,2-3`: the container's are numbered
/// without one, in all files.
pub(crate) fn keeps_numbers(view: &View<'_>) -> bool {
    let visible = &view.cpus.visible;
    *visible == view.host.online && *visible == Mask::first(visible.len())
}

/// `online`, `present`, `possible`, `enabled`: the visible CPUs. There is no hot-plugging in a container,
/// so those that the host has offline, or has only room for, are not shown even without any limit.
pub(super) fn visible(view: &View<'_>, out: &mut Output<'_>) {
    put_list(&Mask::first(view.cpus.visible.len()), visible_why(view), out);
}

/// A list of CPUs such as `topology/core_cpus_list`: those that are visible, by their visible numbers.
///
/// `own` is the CPU in whose directory the file is, which is always in it. A list that nothing has to be
/// changed in is the host's text, and so is an empty one and the `(null)` of `nohz_full`, where the
/// kernel has no such set.
pub(super) fn list(view: &View<'_>, own: Option<u32>, host: &[u8], out: &mut Output<'_>) {
    if !host.iter().any(u8::is_ascii_digit) {
        return out.copy(host);
    }
    let physical = Mask::parse_list(host).ok();
    let shown = shown(view, own, physical.as_ref());
    if physical.as_ref() == Some(&shown) {
        return out.copy(host);
    }
    put_list(&shown, visible_why(view), out);
}

/// A mask of CPUs such as `topology/core_cpus`, like [`list`]. It keeps the host's width, which is that
/// of `nr_cpu_ids`: readers allocate by it.
pub(super) fn mask(view: &View<'_>, own: Option<u32>, host: &[u8], out: &mut Output<'_>) {
    let (physical, width) = Mask::parse_hex(host).ok().unzip();
    if physical.as_ref().is_some_and(Mask::is_empty) {
        return out.copy(host);
    }
    let shown = shown(view, own, physical.as_ref());
    if physical.as_ref() == Some(&shown) {
        return out.copy(host);
    }
    let mut text = Vec::new();
    shown.write_hex(width.unwrap_or(0).max(view.cpus.visible.len()), &mut text);
    text.push(b'\n');
    out.put(&text, visible_why(view));
}

/// The visible ones of some physical CPUs. Text that could not be read names no CPU but the file's own.
fn shown(view: &View<'_>, own: Option<u32>, physical: Option<&Mask>) -> Mask {
    let mut shown =
        physical.map(|physical| physical.renumbered(&view.cpus.visible)).unwrap_or_default();
    if let Some(own) = own {
        shown.insert(own);
    }
    shown
}

/// Appends a list as the kernel writes it, `%*pbl` and a newline.
pub(super) fn put_list(mask: &Mask, why: Why, out: &mut Output<'_>) {
    let mut text = Vec::new();
    mask.write_list(&mut text);
    text.push(b'\n');
    out.put(&text, why);
}
