//! House rules that no other tool knows.

use std::path::{Path, PathBuf};

use crate::step::{Result, output, root, timed};

const LINES_MOST: usize = 800;
const EMPTY_NAMES: &[&str] =
    &["utils", "util", "common", "helpers", "helper", "misc", "types", "models", "traits"];
/// The one module that may hold a raw SQLite handle.
const UNSAFE_ALLOWED: &str = "crates/syntha-sqlite/src/handle.rs";
/// Modules that may pass SQL which is not a literal.
const SQL_ALLOWED: &[&str] = &[
    "crates/syntha-sqlite/src/schema.rs",
    "crates/syntha-postgres/src/testing/mod.rs",
    "crates/syntha-postgres/tests/it/migrate.rs",
];

/// Checks every file that git knows or would add.
pub(crate) fn run() -> Result {
    timed("house rules", || {
        let root = root();
        let mut git = std::process::Command::new("git");
        git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(&root);
        let mut wrong = Vec::new();
        for file in output(&mut git)?.lines().filter(|file| root.join(file).is_file()) {
            if file.ends_with(".rs") {
                wrong.extend(check_source(file, &std::fs::read_to_string(root.join(file))?));
            } else if file.ends_with(".md") {
                wrong.extend(check_links(&root, file, &std::fs::read_to_string(root.join(file))?));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("house rules:\n  {}", wrong.join("\n  ")).into()) }
    })
}

fn check_source(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.lines().count() > LINES_MOST {
        wrong.push(format!("{file}: more than {LINES_MOST} lines, find the noun to split at"));
    }
    let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) {
        wrong.push(format!("{file}: the name says nothing, name it after what it holds"));
    }
    if file.starts_with("xtask/") {
        return wrong;
    }
    let banned = ["todo!(", "unimplemented!(", "#[ignore", "#[should_panic", "thread::sleep"];
    for (line, number) in text.lines().zip(1..) {
        if let Some(found) = banned.iter().find(|banned| line.contains(*banned)) {
            wrong.push(format!("{file}:{number}: `{found}` is not used here"));
        }
        let code = line.split("//").next().unwrap_or_default();
        if file != UNSAFE_ALLOWED && (code.contains("unsafe {") || code.contains("unsafe fn")) {
            wrong.push(format!("{file}:{number}: unsafe code stands in {UNSAFE_ALLOWED} alone"));
        }
        if !SQL_ALLOWED.contains(&file) && code.contains("AssertSqlSafe") {
            wrong.push(format!("{file}:{number}: SQL that is not a literal stands in {SQL_ALLOWED:?} alone"));
        }
    }
    wrong
}

/// Relative links of a document that lead nowhere.
fn check_links(root: &Path, file: &str, text: &str) -> Vec<String> {
    let folder: PathBuf = root.join(file).parent().map_or_else(PathBuf::new, Path::to_path_buf);
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(link, _)| link))
        .filter(|link| !link.contains("://") && !link.starts_with('#') && !link.starts_with("mailto:"))
        .map(|link| link.split_once('#').map_or(link, |(path, _)| path))
        .filter(|path| !folder.join(path).exists())
        .map(|path| format!("{file}: the link to `{path}` leads nowhere"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_fault() {
        assert!(check_source("crates/a/src/lib.rs", "fn fine() {}\n").is_empty());
        for (file, text) in [
            ("crates/a/src/utils.rs", String::new()),
            ("crates/a/src/a.rs", "\n".repeat(801)),
            ("crates/a/src/a.rs", "todo!()".into()),
            ("crates/a/src/a.rs", "#[ignore]".into()),
            ("crates/a/src/a.rs", "std::thread::sleep(x)".into()),
            ("crates/a/src/a.rs", "unsafe { x }".into()),
            ("crates/a/src/a.rs", "AssertSqlSafe(text)".into()),
        ] {
            assert_eq!(check_source(file, &text).len(), 1, "{file}: {text:.40}");
        }
        assert!(check_source(UNSAFE_ALLOWED, "unsafe { x }").is_empty());
    }

    #[test]
    fn a_broken_link_is_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("there.md"), "").unwrap();
        let text = "[a](there.md) [b](there.md#part) [c](https://example.com) [d](#part) [e](gone.md)";
        let wrong = check_links(folder.path(), "README.md", text);
        assert_eq!(wrong, ["README.md: the link to `gone.md` leads nowhere"]);
    }
}
