//! Lists and masks of CPUs and nodes: what was read can be written and read again.
#![no_main]

use cgview_core::{Mask, mask::MAX_NUMBERS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Ok((mask, bits)) = Mask::parse_hex(text) {
        let mut hex = Vec::new();
        mask.write_hex(bits, &mut hex);
        let expected = if bits == 0 { 1 } else { bits };
        assert!(Mask::parse_hex(&hex).is_ok_and(|(again, room)| again == mask && room >= expected));
    }
    let Ok(mask) = Mask::parse_list(text) else { return };
    let mut list = Vec::new();
    mask.write_list(&mut list);
    assert_eq!(Mask::parse_list(&list).as_ref(), Ok(&mask));

    assert_eq!(mask.iter().count(), mask.len() as usize);
    assert!(mask.iter().is_sorted());
    let Some(last) = mask.iter().last() else { return assert!(mask.is_empty()) };
    assert!(last < MAX_NUMBERS && mask.contains(last) && !mask.contains(last + 1));
    assert_eq!((mask.rank(last), mask.nth(mask.len() - 1)), (mask.len() - 1, Some(last)));
    assert_eq!(mask.intersection(&mask), mask);
    assert_eq!(mask.renumbered(&mask), Mask::first(mask.len()));

    let mut hex = Vec::new();
    mask.write_hex(last + 1, &mut hex);
    let digits = hex.iter().filter(|&&byte| byte != b',');
    let bits: u32 =
        digits.map(|&digit| char::from(digit).to_digit(16).expect("a digit").count_ones()).sum();
    assert_eq!(bits, mask.len());
});
