//! Writes the tables of `docs/performance.md` and draws its plots, from `benches/record/`.

mod goals;
mod plots;
mod records;
mod tables;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use records::Records;

fn main() -> Result<()> {
    for (path, text) in files(&Records::load()?)? {
        let dir = path.parent().unwrap_or(&path);
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The document and its plots, as they are to be.
fn files(records: &Records) -> Result<Vec<(PathBuf, String)>> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let path = docs.join("performance.md");
    let mut text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for (name, table) in tables::all(records) {
        text = put(&text, name, &table)?;
    }
    let plots = docs.join("performance");
    Ok(vec![
        (path, text),
        (plots.join("reads.svg"), plots::reads(records)?),
        (plots.join("readers.svg"), plots::readers(records)?),
    ])
}

/// Puts a table between its marks: `<!-- NAME -->` and `<!-- end -->`, each on a line of its own.
fn put(text: &str, name: &str, table: &str) -> Result<String> {
    let mark = format!("<!-- {name} -->\n");
    let cannot = || format!("cannot find the marks of the table {name}");
    let (before, rest) = text.split_once(&mark).with_context(cannot)?;
    let (_, after) = rest.split_once("<!-- end -->\n").with_context(cannot)?;
    Ok(format!("{before}{mark}\n{table}\n<!-- end -->\n{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_shows_what_was_recorded() {
        for (path, text) in files(&Records::load().unwrap()).unwrap() {
            let there = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                there == text,
                "{} is not as benches/record has it: run ci/bench --draw",
                path.display()
            );
        }
    }

    #[test]
    fn a_table_takes_the_place_of_the_one_before() {
        let text = "a\n<!-- t -->\n\nold\n<!-- end -->\nb\n<!-- u -->\n<!-- end -->\n";
        let new = put(text, "t", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- t -->\n\nnew\n\n<!-- end -->\nb\n<!-- u -->\n<!-- end -->\n");
        assert!(put(text, "v", "").is_err());
    }
}
