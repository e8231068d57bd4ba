//! What a user of the published crates gets: each builds and runs outside of the workspace, and packages.

#![allow(clippy::indexing_slicing, reason = "a JSON value answers null for what is absent")]

use std::path::Path;

use serde_json::Value;

use crate::step::{Result, cargo, output, root, run, timed};

/// Where the crates' users stand: a workspace of its own.
const FOLDER: &str = "tests/consumers";
/// What they build goes here, so that the workspace's own features are never mixed in.
const TARGET: &str = "target/consumers";

/// A package of the workspace that is published.
struct Published {
    name: String,
    folder: String,
    is_library: bool,
    has_default: bool,
}

fn published() -> Result<Vec<Published>> {
    let text = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    // `publish = false` is an empty list of registries.
    Ok(packages.iter().filter(|package| package["publish"].is_null()).map(describe).collect())
}

fn describe(package: &Value) -> Published {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let manifest = text(&package["manifest_path"]);
    let targets = package["targets"].as_array().cloned().unwrap_or_default();
    Published {
        name: text(&package["name"]),
        folder: Path::new(&manifest).parent().map(|folder| folder.display().to_string()).unwrap_or_default(),
        is_library: targets.iter().any(|target| target["kind"][0] == "lib"),
        has_default: package["features"].as_object().is_some_and(|features| features.contains_key("default")),
    }
}

/// Builds and runs the consumer of each published crate, with its default features and without; a program is installed and run.
pub(crate) fn check() -> Result {
    let published = published()?;
    timed("consumers: of every published library", || {
        for package in published.iter().filter(|package| package.is_library) {
            if !root().join(FOLDER).join(&package.name).is_dir() {
                return Err(format!("{} is published and has no consumer in {FOLDER}", package.name).into());
            }
        }
        Ok(())
    })?;
    // The versions are the workspace's own, so that what is checked is what the other checks saw.
    std::fs::copy(root().join("Cargo.lock"), root().join(FOLDER).join("Cargo.lock"))?;
    let folder = std::env::temp_dir().join(format!("syntha-consumers-{}", std::process::id()));
    let result = published.iter().try_for_each(|package| run_consumer(package, &folder));
    // Only some of them keep anything.
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn run_consumer(package: &Published, folder: &Path) -> Result {
    let Published { name, is_library, has_default, .. } = package;
    if !is_library {
        return install(package, folder);
    }
    let manifest = format!("{FOLDER}/Cargo.toml");
    let consumer = format!("consumer-of-{name}");
    let mut feature_sets = vec![None];
    if *has_default {
        feature_sets.push(Some("--no-default-features"));
    }
    for features in feature_sets {
        let mut command =
            cargo(&["run", "--quiet", "--offline", "--manifest-path", &manifest, "-p", &consumer]);
        command.args(features).arg("--").arg(folder.join(name)).env("CARGO_TARGET_DIR", TARGET);
        run(&format!("consumer: {name} {}", features.unwrap_or_default()), &mut command)?;
    }
    Ok(())
}

/// Installs a program as its user would, and asks it for help.
fn install(package: &Published, folder: &Path) -> Result {
    let mut command =
        cargo(&["install", "--quiet", "--offline", "--locked", "--debug", "--path", &package.folder]);
    // As the consumers are built, so that their dependencies are built once.
    command.args([
        "--config",
        "profile.dev.package.\"*\".opt-level=0",
        "--config",
        "profile.dev.debug=false",
    ]);
    command.arg("--root").arg(folder).env("CARGO_TARGET_DIR", TARGET);
    run(&format!("consumer: {} is installed", package.name), &mut command)?;
    for program in std::fs::read_dir(folder.join("bin"))? {
        let program = program?.path();
        output(std::process::Command::new(&program).arg("--help"))
            .map_err(|error| format!("{}: --help failed: {error}", program.display()))?;
    }
    Ok(())
}

/// Packages every published crate. Their code is built by their consumers, not once more here.
pub(crate) fn package() -> Result {
    let mut command = cargo(&["package", "--quiet", "--allow-dirty", "--no-verify", "--offline"]);
    for package in published()? {
        command.args(["-p", &package.name]);
    }
    run("packages", &mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_crates_are_found() {
        let published = published().unwrap();
        let find = |name: &str| published.iter().find(|package| package.name == name);
        assert!(find("syntha").unwrap().has_default && find("syntha").unwrap().is_library);
        assert!(!find("syntha-cli").unwrap().is_library);
        assert!(find("xtask").is_none() && find("syntha-tests").is_none());
    }
}
