//! Flat keyed files: `KEY VALUE` on each line (`memory.stat`, `cpu.stat`, `hugetlb.*.events`).

use super::{ParseError, lines, number, words};

/// Calls `visit` with each key and its number.
///
/// # Errors
///
/// [`ParseError`] at the first line that is not a key and a number.
pub fn flat_keyed<'a>(
    text: &'a [u8],
    mut visit: impl FnMut(&'a [u8], u64),
) -> Result<(), ParseError> {
    for (line_number, line) in lines(text) {
        let mut words = words(line);
        match (words.next(), words.next(), words.next()) {
            (Some(key), Some(value), None) => visit(key, number(value, line_number)?),
            _ => return Err(ParseError::new(line_number, "a key and a number", line)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn visits_each_line_or_says_which_is_wrong() {
        let mut seen = Vec::new();
        flat_keyed(b"anon 4096\nfile 0\n", |key, value| seen.push((key, value))).unwrap();
        assert_eq!(seen, [(&b"anon"[..], 4096), (b"file", 0)]);
        let error = flat_keyed(b"anon 1\nfile many\n", |_, _| ()).unwrap_err();
        assert_eq!((error.line, error.found.as_str()), (2, "many"));
        assert!(flat_keyed(b"anon\n", |_, _| ()).is_err());
    }
}
