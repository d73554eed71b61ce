//! The configuration file and the command line: settings that can be used, or one line that says what is wrong.
//!
//! The input is a file, a NUL byte, and arguments, each on a line.
#![no_main]

use std::{path::PathBuf, sync::LazyLock};

use cgview_fuse::{arguments::Arguments, settings::Settings};
use clap::Parser as _;
use libfuzzer_sys::fuzz_target;

/// A file that is written anew for each input, in memory.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let file = tempfile::Builder::new().suffix(".toml").tempfile_in("/dev/shm").expect("a file");
    file.into_temp_path().keep().expect("a path")
});

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
    let (file, rest) = input.split_at(end);
    std::fs::write(&*FILE, file).expect("a file");
    let typed = String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).into_owned();
    let path = FILE.to_str().expect("a name");
    let words = ["cgview-fuse", "--config", path, "/mnt"].into_iter();
    let Ok(arguments) = Arguments::try_parse_from(words.chain(typed.lines())) else { return };
    // Another file may have been named.
    if arguments.config.as_deref() != Some(&*FILE) {
        return;
    }
    match Settings::load(&arguments) {
        Ok(settings) => {
            assert_eq!(Settings::load(&arguments).ok().as_ref(), Some(&settings));
            assert!(settings.needs_restart(&settings).is_empty());
            assert!(!settings.view.request_deadline.is_zero());
            assert!(settings.ledger_file() != settings.pid_file());
            let _ = (arguments.mount_options(&settings), arguments.without_effect());
            let _ = settings.metrics_socket();
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
        }
    }
});
