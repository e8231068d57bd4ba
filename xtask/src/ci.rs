//! Everything that CI runs, in the order of what fails fastest.

#![allow(clippy::indexing_slicing, reason = "a JSON value answers null for what is absent")]

use std::path::PathBuf;

use crate::step::{Result, build_once, cargo, output, root, run, run_last, timed};
use crate::{consumers, tidy, tools};

/// What a crate's dependency tree must never hold.
const BANNED: &[(&str, &[&str])] = &[
    ("syntha-store", &["sqlx", "tokio", "aes-gcm", "rusqlite"]),
    ("syntha-mesh", &["sqlx", "aes-gcm", "rusqlite"]),
    ("syntha-encryption", &["sqlx", "rusqlite", "openssl", "reqwest", "rustls"]),
    ("syntha-identity", &["sqlx", "rusqlite", "aes-gcm", "openssl"]),
    ("syntha-sqlite", &["sqlx-postgres", "sqlx-mysql", "openssl", "aes-gcm", "argon2"]),
    ("syntha-postgres", &["sqlx-sqlite", "sqlx-mysql", "openssl", "aes-gcm", "argon2"]),
    ("syntha", &["sqlx-postgres", "sqlx-mysql", "openssl", "aes-gcm", "argon2", "reqwest"]),
];

fn run_all_lints() -> Result {
    run("formatting", &mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    run(
        "lints",
        &mut cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]),
    )?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--all-features"]);
    run("documents", doc.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Runs every check. The test runner's closing line is the last thing printed.
fn run_tests(packages: &[Package]) -> Result {
    for package in packages {
        for features in &package.feature_sets {
            let mut arguments = vec!["clippy", "--quiet", "-p", &package.name];
            arguments.extend(features.iter().map(String::as_str));
            arguments.extend(["--", "-D", "warnings"]);
            run(&format!("builds: {} {}", package.name, features.join(" ")), &mut cargo(&arguments))?;
        }
    }
    timed("dependency rules", || dependencies(packages).and_then(|()| engine_features()))?;
    consumers::package()?;
    consumers::check()?;
    // The README's example keeps its data in the folder `data`; what an older format left there is not what is tested.
    let _ = std::fs::remove_dir_all(root().join("tests/pages/data"));
    run("document tests", &mut cargo(&["test", "--workspace", "--all-features", "--doc", "--quiet"]))?;
    // All at once, with what the tests need anyway: one after the other, each would build the libraries with other features again.
    run("examples", &mut cargo(&["build", "--quiet", "--workspace", "--all-features", "--examples"]))?;
    let built = target_folder()?.join("debug").join("examples");
    for package in packages {
        for example in &package.examples {
            let folder =
                std::env::temp_dir().join(format!("syntha-example-{}-{example}", std::process::id()));
            let mut command = std::process::Command::new(built.join(example));
            let result = run(&format!("example: {example}"), command.current_dir(root()).arg(&folder));
            // The folder may never have been made.
            let _ = std::fs::remove_dir_all(&folder);
            result?;
        }
    }
    run_last("tests", &mut cargo(&["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]))
}

pub(crate) fn run_ci(install: bool) -> Result {
    tools::check(install)?;
    // Who lets it install is a fresh machine, as a rule.
    if install {
        build_once();
    }
    run_all_lints()?;
    run_tests(&packages()?)
}

/// Where cargo builds.
fn target_folder() -> Result<PathBuf> {
    let text = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    Ok(metadata["target_directory"].as_str().ok_or("cargo metadata names no target folder")?.into())
}

/// A package of the workspace, as far as the checks care.
struct Package {
    name: String,
    feature_sets: Vec<Vec<String>>,
    examples: Vec<String>,
}

fn packages() -> Result<Vec<Package>> {
    let text = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    let list = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    Ok(list.iter().map(package).collect())
}

fn package(metadata: &serde_json::Value) -> Package {
    let texts = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let mut feature_sets = Vec::new();
    if let Some(features) = metadata["features"].as_object().filter(|features| !features.is_empty()) {
        feature_sets.push(vec!["--no-default-features".to_owned()]);
        feature_sets.push(Vec::new());
        for feature in features.keys().filter(|feature| *feature != "default") {
            feature_sets.push(vec!["--no-default-features".into(), "--features".into(), feature.clone()]);
        }
    }
    let targets = metadata["targets"].as_array().cloned().unwrap_or_default();
    let examples = targets
        .iter()
        .filter(|target| target["kind"][0] == "example")
        .filter_map(|target| texts(&target["name"]));
    Package { name: texts(&metadata["name"]).unwrap_or_default(), feature_sets, examples: examples.collect() }
}

fn dependencies(packages: &[Package]) -> Result {
    for (package, banned) in BANNED {
        if !packages.iter().any(|known| known.name == *package) {
            continue;
        }
        let arguments = [
            "tree",
            "-p",
            package,
            "-e",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--no-default-features",
        ];
        let tree = output(&mut cargo(&arguments))?;
        if let Some(found) = find_banned(&tree, banned) {
            return Err(format!("{package} pulls in {found}, which its layer must not").into());
        }
    }
    Ok(())
}

/// The engine must not be built with loadable extensions: a feature that another crate asks for would switch it on for all.
fn engine_features() -> Result {
    let arguments =
        ["tree", "--workspace", "--all-features", "-e", "normal", "--prefix", "none", "--format", "{p} {f}"];
    let tree = output(&mut cargo(&arguments))?;
    match tree.lines().find(|line| line.starts_with("sqlx-sqlite ") && line.contains("load-extension")) {
        Some(line) => Err(format!("loadable extensions are on: {line}").into()),
        None if !tree.contains("sqlx-sqlite ") => {
            Err("the engine is not in the tree, mend this check".into())
        }
        None => Ok(()),
    }
}

fn find_banned<'a>(tree: &str, banned: &[&'a str]) -> Option<&'a str> {
    banned.iter().copied().find(|name| tree.lines().any(|line| line.split(' ').next() == Some(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_dependency_is_found_by_its_whole_name() {
        let tree = "syntha-store v0.1.0\nsqlx-core v0.9.0\ntokio v1.0.0 (*)\n";
        assert_eq!(find_banned(tree, &["sqlx"]), None);
        assert_eq!(find_banned(tree, &["sqlx", "tokio"]), Some("tokio"));
    }

    #[test]
    fn this_workspace_is_read() {
        let packages = packages().unwrap();
        let facade = packages.iter().find(|package| package.name == "syntha").unwrap();
        assert!(facade.feature_sets.len() >= 3);
        assert_eq!(facade.examples.len(), 2);
    }
}
