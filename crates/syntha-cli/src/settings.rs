use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Result;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
}

/// The data folder: flag, then environment (both by clap), then file, then `data`.
pub(crate) fn data(given: Option<PathBuf>, config: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(folder) = given {
        return Ok(folder);
    }
    let file = match config {
        Some(path) => read(&path)?,
        None if Path::new("syntha.toml").exists() => read(Path::new("syntha.toml"))?,
        None => File::default(),
    };
    Ok(file.data.unwrap_or_else(|| "data".into()))
}

fn read(path: &Path) -> Result<File> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
    Ok(toml::from_str(&text)
        .map_err(|error| format!("{} is not a settings file: {error}", path.display()))?)
}
