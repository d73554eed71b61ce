//! Files of a cgroup with one value, or a quota and a period: what was read can be written and read again.
#![no_main]

use cgview_core::{Bytes, Limit, Usec, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Ok(number) = parse::number_file(text) {
        assert_eq!(parse::number_file(format!("{number}\n").as_bytes()), Ok(number));
        assert_eq!(parse::limit(text), Ok(Limit::At(number)));
        assert_eq!(parse::quota_v1(text), Ok(Limit::At(Usec(number))));
        match parse::memory_limit_v1(text) {
            Ok(Limit::At(bytes)) => assert_eq!(bytes, Bytes(number)),
            Ok(Limit::Max) => assert!(number >= 1 << 46, "{number} is a limit"),
            Err(error) => panic!("{error}"),
        }
    } else {
        assert!(matches!(parse::limit(text), Ok(Limit::Max) | Err(_)));
        assert!(matches!(parse::quota_v1(text), Ok(Limit::Max) | Err(_)));
        assert!(parse::memory_limit_v1(text).is_err());
    }
    if let Ok((quota, period)) = parse::cpu_max(text) {
        assert!(period > Usec::ZERO);
        let quota_text = quota.at().map_or("max".to_owned(), |quota| quota.0.to_string());
        let again = format!("{quota_text} {}\n", period.0);
        assert_eq!(parse::cpu_max(again.as_bytes()), Ok((quota, period)));
    }
});
