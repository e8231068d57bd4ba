//! Folders and files that only this user may read, and that are there after a crash.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use syntha_store::{Error, ErrorKind, Result};

/// Makes a folder with rights 0700; it may be there.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != IoKind::AlreadyExists => Err(failed(error)),
        _ => sync_parent(folder),
    }
}

/// Makes a new file with rights 0600, in the place of one that is there.
pub(crate) fn create(path: &Path) -> Result<File> {
    remove(path)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)
}

/// Writes a whole file: under another name first, so that it is there whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let part = beside(path, ".part");
    let mut file = create(&part)?;
    file.write_all(bytes).map_err(failed)?;
    publish(file, &part, path)
}

/// Makes a written file durable and gives it its name.
pub(crate) fn publish(file: File, from: &Path, to: &Path) -> Result<()> {
    file.sync_all().map_err(failed)?;
    drop(file);
    rename(from, to)
}

/// Renames, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(failed)?;
    sync_parent(to)
}

pub(crate) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| match error.kind() {
        IoKind::NotFound => Error::new(ErrorKind::NotFound, "a file is missing, use another copy"),
        _ => failed(error),
    })
}

pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != IoKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Removes a folder and all that is in it, if it is there.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != IoKind::NotFound => Err(failed(error)),
        _ => sync_parent(folder),
    }
}

pub(crate) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The names of what is in a folder; none if there is no folder.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The same path with more at its end.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
    name.push(ending);
    path.with_file_name(name)
}

/// An absolute path without links, also of what is not there yet.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path)
        .map_err(|_| Error::new(ErrorKind::Invalid, "the folder's path can't be made absolute"))?;
    Ok(path.canonicalize().unwrap_or(path))
}

pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match File::open(parent) {
        Ok(parent) => parent.sync_all().map_err(failed),
        // A folder above that this user may not read can't be synced by it.
        Err(error) if error.kind() == IoKind::PermissionDenied => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

pub(crate) fn failed(error: std::io::Error) -> Error {
    let full = matches!(error.kind(), IoKind::StorageFull | IoKind::QuotaExceeded);
    if full {
        return Error::new(ErrorKind::StorageFull, "the device is full").with_source(error);
    }
    Error::new(ErrorKind::Unavailable, "a file or folder can't be read or written").with_source(error)
}
