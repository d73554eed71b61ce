//! What is under test.

use std::{fmt, path::PathBuf, process::Command, sync::OnceLock};

/// A version of LXCFS, such as 5.0.3.
pub type Version = (u32, u32, u32);

/// What is under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// cgview, built with this workspace.
    Cgview,
    /// LXCFS.
    Lxcfs {
        /// The program.
        program: PathBuf,
        /// What its `--version` says.
        version: Version,
    },
}

impl Subject {
    /// Whether it is cgview.
    #[must_use]
    pub fn is_cgview(&self) -> bool {
        *self == Subject::Cgview
    }

    /// The version, if it is LXCFS.
    #[must_use]
    pub fn lxcfs(&self) -> Option<Version> {
        match self {
            Subject::Cgview => None,
            Subject::Lxcfs { version, .. } => Some(*version),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Cgview => f.write_str("cgview"),
            Subject::Lxcfs { version: (major, minor, patch), .. } => {
                write!(f, "lxcfs {major}.{minor}.{patch}")
            }
        }
    }
}

/// What is under test, by the environment: see the crate.
pub fn under_test() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| match std::env::var("CGVIEW_UNDER_TEST").as_deref() {
        Err(_) | Ok("" | "cgview") => Subject::Cgview,
        Ok("lxcfs") => {
            let program = std::env::var_os("CGVIEW_LXCFS").unwrap_or_else(|| "lxcfs".into());
            let program = PathBuf::from(program);
            let output = Command::new(&program).arg("--version").output();
            let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
            // 5.0 says it on the standard error.
            let text =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let numbers: Vec<u32> = text
                .trim()
                .trim_matches('"')
                .split('.')
                .map_while(|part| part.parse().ok())
                .collect();
            let &[major, minor, ref rest @ ..] = numbers.as_slice() else {
                panic!("{} --version: {text}", program.display());
            };
            let patch = rest.first().copied().unwrap_or(0);
            Subject::Lxcfs { program, version: (major, minor, patch) }
        }
        Ok(other) => panic!("CGVIEW_UNDER_TEST is cgview or lxcfs, not {other}"),
    })
}
