//! Which containers `--all` and `--watch` leave out.

use std::{fs, io, path::Path};

use anyhow::Context;
use cgview_host::Running;
use glob::Pattern;

/// Patterns for containers.
#[derive(Debug)]
pub(super) struct Exclude(Vec<Pattern>);

impl Exclude {
    /// Those of the command line, and those of a file as it is now.
    pub(super) fn read(patterns: &[Pattern], file: Option<&Path>) -> anyhow::Result<Exclude> {
        let mut all = patterns.to_vec();
        let Some(path) = file else { return Ok(Exclude(all)) };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            // It may come and go as it likes.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
        };
        all.extend(parse(&text).with_context(|| format!("cannot read {}", path.display()))?);
        Ok(Exclude(all))
    }

    /// Whether a container is left out: by its name, its id or its cgroup.
    pub(super) fn has(&self, container: &Running) -> bool {
        let names = [Some(container.id.as_str()), container.name.as_deref()];
        let mut names = names.into_iter().flatten().chain([container.cgroup.as_str()]);
        names.any(|name| self.0.iter().any(|pattern| pattern.matches(name)))
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<Pattern>> {
    let lines = text.lines().zip(1..);
    let patterns =
        lines.map(|(line, number)| (line.split('#').next().unwrap_or_default().trim(), number));
    patterns
        .filter(|(pattern, _)| !pattern.is_empty())
        .map(|(pattern, number)| {
            Pattern::new(pattern).with_context(|| format!("line {number}: {pattern} is no pattern"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use cgview_core::parse::Runtime;

    use super::*;

    fn container() -> Running {
        Running {
            runtime: Runtime::Docker,
            id: "0c4d".repeat(16),
            name: Some("default/web-1/nginx".into()),
            pid: 7,
            cgroup: "/kubepods/burstable/pod7/0c4d".into(),
            pids: vec![7],
        }
    }

    #[test]
    fn by_name_id_or_cgroup() {
        for (pattern, expected) in [
            ("default/*", true),
            ("*/nginx", true),
            ("0c4d*", true),
            ("/kubepods/*", true),
            ("nginx", false),
            ("kube-system/*", false),
        ] {
            let exclude = Exclude(vec![Pattern::new(pattern).unwrap()]);
            assert_eq!(exclude.has(&container()), expected, "{pattern}");
        }
    }

    #[test]
    fn a_file_has_a_pattern_on_each_line() {
        let patterns = parse("# databases\ndb-*  # all\n\n*/system.slice/*\n").unwrap();
        assert_eq!(
            patterns.iter().map(Pattern::as_str).collect::<Vec<_>>(),
            ["db-*", "*/system.slice/*"]
        );
        let error = format!("{:#}", parse("a\n[\n").unwrap_err());
        assert!(error.starts_with("line 2: [ is no pattern: "), "{error}");
    }
}
