use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::Result;

/// A folder that was made for the data of one run, and goes with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes it: where somebody says, or beside a data folder.
    pub(crate) fn new(named: Option<&Path>, data: &Path) -> Result<Self> {
        let path = named.map_or_else(
            || {
                let mut name = data.as_os_str().to_owned();
                name.push(format!(".bench-{}", std::process::id()));
                PathBuf::from(name)
            },
            Path::to_owned,
        );
        // INVARIANT: what is removed afterwards was made here.
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| format!("can't make {}: {error}; name another --folder", path.display()))?;
        Ok(Self(path))
    }

    /// Where the data is; its keys are beside it.
    pub(crate) fn data(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("syntha: can't remove {}: {error}", self.0.display());
        }
    }
}
