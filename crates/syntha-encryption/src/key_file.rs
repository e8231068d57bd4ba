//! A key in a file of its own, one line of text.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use rustix::fs::OFlags;
use rustix::io::Errno;
use syntha_store::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::SecretKey;
use crate::secret::fill;

const START: &str = "syntha-key-v1 ";
/// The start, 44 characters of base64, a line's end.
const LENGTH: usize = START.len() + 44 + 1;

/// Makes a new key and its file, if there is none, and gives the key that is there in the end.
///
/// The file is `syntha-key-v1 `, the key's 32 bytes in base64 (RFC 4648, section 4), and a line's end. It belongs to
/// the effective user, with rights 0600. It comes under its name whole and durable, and never in the place of another:
/// of several who make it at once, all get the one key. Its folder must be there.
///
/// # Errors
///
/// `KeyRefused` if what is there is not a key file or is open to others, `Unavailable` for failures of the system,
/// `StorageFull` if the device is full.
pub fn make_key_file(path: impl AsRef<Path>) -> Result<SecretKey> {
    make(path.as_ref(), place)
}

/// Reads a key file.
///
/// The file must be plain, under one name, of the effective user or root, with rights 0600 or 0400. That is asked of
/// the open file, so nobody can put another in its place in between.
///
/// # Errors
///
/// `KeyUnavailable` if it is not there or can't be read, `KeyRefused` for a file that is kept or written in any other
/// way.
pub(crate) fn read_key_file(path: &Path) -> Result<SecretKey> {
    read_patiently(path, || std::thread::park_timeout(Duration::from_millis(10)))
}

/// Whoever made the file on a file system that can only link has two names for it, for a moment.
fn read_patiently(path: &Path, mut pause: impl FnMut()) -> Result<SecretKey> {
    for _ in 0..20 {
        match read(path)? {
            Found::Key(key) => return Ok(key),
            Found::TwoNames => pause(),
        }
    }
    Err(refused("the key file has a second name, remove the other link to it"))
}

/// A key from 32 bytes in base64 or hexadecimal digits.
pub(crate) fn parse_key(text: &str) -> Result<SecretKey> {
    let text = text.trim_ascii();
    let decoded = match text.len() {
        64 => data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()),
        44 => BASE64.decode(text.as_bytes()),
        _ => return Err(refused("the key is not 32 bytes in base64 or hexadecimal digits")),
    };
    // The library's error names a byte of the text.
    let bytes = decoded
        .map(Zeroizing::new)
        .map_err(|_| refused("the key is not 32 bytes in base64 or hexadecimal digits"))?;
    check_strength(SecretKey::from_slice(&bytes)?)
}

/// Refuses what somebody typed in as a place-holder.
pub(crate) fn check_strength(key: SecretKey) -> Result<SecretKey> {
    let [first, rest @ ..] = key.as_bytes();
    if rest.iter().all(|byte| byte == first) {
        return Err(refused("the key's bytes are all the same, use 32 random bytes"));
    }
    Ok(key)
}

enum Found {
    Key(SecretKey),
    TwoNames,
}

fn read(path: &Path) -> Result<Found> {
    // INVARIANT: nothing here blocks, such as the opening of a pipe, and no link is followed in the last step.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match error.kind() {
        IoKind::NotFound => Error::new(
            ErrorKind::KeyUnavailable,
            "there is no key file at its path, mount it or put its copy back",
        )
        .with_source(error),
        IoKind::PermissionDenied => {
            refused("the key file is not this user's, use `chown`").with_source(error)
        }
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            refused("the key file is a link, name the file itself").with_source(error)
        }
        _ => unreadable(error),
    })?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(refused("the key file is not a plain file"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() && found.uid() != 0 {
        return Err(refused("the key file is not this user's, use `chown`"));
    }
    if !matches!(found.mode() & 0o7777, 0o600 | 0o400) {
        return Err(refused("the key file is open to others, use `chmod 600`"));
    }
    if found.nlink() > 1 {
        return Ok(Found::TwoNames);
    }
    let mut text = Zeroizing::new(Vec::with_capacity(LENGTH + 1));
    let limit = u64::try_from(LENGTH + 1).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut text).map_err(unreadable)?;
    let key = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.strip_prefix(START)?.strip_suffix('\n'))
        .filter(|base64| base64.len() == 44)
        .and_then(|base64| BASE64.decode(base64.as_bytes()).ok().map(Zeroizing::new))
        .ok_or_else(|| {
            refused("the key file is not one line `syntha-key-v1` and a key, put its copy back")
        })?;
    check_strength(SecretKey::from_slice(&key)?).map(Found::Key)
}

/// Gives a file its name if that is free; says whether it was.
type Place = fn(&Path, &Path) -> Result<bool>;

fn make(path: &Path, place: Place) -> Result<SecretKey> {
    match path.symlink_metadata() {
        Ok(_) => return read_key_file(path),
        Err(error) if error.kind() != IoKind::NotFound => return Err(from_io(error)),
        Err(_) => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let key = SecretKey::generate()?;
    let new = Temporary::write(folder, &key)?;
    let ours = place(&new.0, path)?;
    drop(new);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(from_io)?;
    if ours { Ok(key) } else { read_key_file(path) }
}

/// A file that goes if it was not given its name.
struct Temporary(PathBuf);

impl Temporary {
    fn write(folder: &Path, key: &SecretKey) -> Result<Self> {
        let mut number = [0; 16];
        fill(&mut number)?;
        let path = folder.join(format!(".syntha-key-{}.new", HEXLOWER.encode(&number)));
        let mut text = Zeroizing::new(String::with_capacity(LENGTH));
        text.push_str(START);
        BASE64.encode_append(key.as_bytes(), &mut text);
        text.push('\n');
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(flags);
        let mut file = options.open(&path).map_err(from_io)?;
        let temporary = Self(path);
        // The process's mask may have taken the owner's own rights.
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(from_io)?;
        file.write_all(text.as_bytes()).map_err(from_io)?;
        file.sync_all().map_err(from_io)?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is gone if it has its name; what can't be removed holds a key that nothing uses.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// In one step where the file system can, so that the file never has two names.
fn place(from: &Path, to: &Path) -> Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link(from, to),
        Err(error) => Err(from_io(error.into())),
    }
}

fn link(from: &Path, to: &Path) -> Result<bool> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == IoKind::AlreadyExists => Ok(false),
        Err(error) => Err(from_io(error)),
    }
}

const fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::KeyRefused, message)
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::KeyUnavailable, "the key file can't be read").with_source(error)
}

fn from_io(error: std::io::Error) -> Error {
    match error.kind() {
        IoKind::StorageFull | IoKind::QuotaExceeded => {
            Error::new(ErrorKind::StorageFull, "the device is full, no key file was made")
        }
        _ => Error::new(ErrorKind::Unavailable, "the key file can't be made").with_source(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn write(path: &Path, text: &[u8], mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn kind(path: &Path) -> ErrorKind {
        read_key_file(path).err().unwrap().kind()
    }

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    const GOOD: &[u8] = b"syntha-key-v1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

    #[test]
    fn a_made_key_is_read_back_and_never_replaced() {
        let folder = folder();
        let path = folder.path().join("kek");
        let key = make_key_file(&path).unwrap();
        assert_eq!(read_key_file(&path).unwrap().as_bytes(), key.as_bytes());
        assert_eq!(make_key_file(&path).unwrap().as_bytes(), key.as_bytes());
        assert_eq!(names(folder.path()), ["kek"]);
        let found = path.metadata().unwrap();
        assert_eq!((found.mode() & 0o7777, found.nlink(), found.len()), (0o600, 1, 59));
        write(&path, b"not a key", 0o600);
        assert_eq!(make_key_file(&path).err().unwrap().kind(), ErrorKind::KeyRefused);
        assert_eq!(std::fs::read(&path).unwrap(), b"not a key");
    }

    #[test]
    fn the_format_is_what_it_is_said_to_be() {
        let folder = folder();
        let path = folder.path().join("kek");
        write(&path, GOOD, 0o400);
        let key = read_key_file(&path).unwrap();
        assert_eq!(key.as_bytes().to_vec(), (0..32).collect::<Vec<u8>>());
    }

    #[test]
    fn other_texts_are_refused() {
        let folder = folder();
        let path = folder.path().join("kek");
        let text = std::str::from_utf8(GOOD).unwrap();
        let others = [
            String::new(),
            text.trim_end().to_owned(),
            format!("{text}\n"),
            format!("{text}x"),
            format!("{text}{text}"),
            format!(" {text}"),
            text.replace('\n', "\r\n"),
            text.replace("v1", "v2"),
            text.replace("v1 ", "v1  "),
            text.replace('=', ""),
            text.replace("Hh8=", "Hh9="),
            "syntha-key-v1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n".to_owned(),
            "\0".repeat(59),
            "x".repeat(1 << 20),
        ];
        for other in others {
            write(&path, other.as_bytes(), 0o600);
            assert_eq!(kind(&path), ErrorKind::KeyRefused, "{}", &other[..other.len().min(80)]);
        }
    }

    #[test]
    fn files_that_are_not_kept_as_a_key_are_refused() {
        let folder = folder();
        let path = folder.path().join("kek");
        assert_eq!(kind(&path), ErrorKind::KeyUnavailable);
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o700, 0o500, 0o4600, 0o1600] {
            write(&path, GOOD, mode);
            assert_eq!(kind(&path), ErrorKind::KeyRefused, "{mode:o}");
        }
        write(&path, GOOD, 0o600);
        read_key_file(&path).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(kind(&link), ErrorKind::KeyRefused);
        std::fs::hard_link(&path, folder.path().join("second")).unwrap();
        assert_eq!(kind(&path), ErrorKind::KeyRefused);
        assert_eq!(kind(folder.path()), ErrorKind::KeyRefused);
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        assert_eq!(kind(&pipe), ErrorKind::KeyRefused);
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = folder();
        let path = folder.path().join("kek");
        write(&path, GOOD, 0o600);
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        assert_eq!(kind(&path), ErrorKind::KeyRefused);
    }

    /// One of the processes that [`many_processes_make_one_key`] starts, and a test of its own otherwise.
    #[test]
    fn one_of_many_processes() {
        let own = folder();
        let path =
            std::env::var_os("SYNTHA_TEST_KEY_FILE").map_or_else(|| own.path().join("kek"), PathBuf::from);
        let key = make_key_file(path).unwrap();
        println!("key {}", HEXLOWER.encode(key.as_bytes()));
    }

    #[test]
    fn many_processes_make_one_key() {
        let folder = folder();
        let path = folder.path().join("kek");
        let children: Vec<_> = (0..8)
            .map(|_| {
                std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "key_file::tests::one_of_many_processes", "--nocapture"])
                    .env("SYNTHA_TEST_KEY_FILE", &path)
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let mut keys = HashSet::new();
        for child in children {
            let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            keys.insert(output.split("key ").nth(1).unwrap()[..64].to_owned());
        }
        let there = read_key_file(&path).unwrap();
        assert_eq!(keys, HashSet::from([HEXLOWER.encode(there.as_bytes())]));
        assert_eq!(names(folder.path()), ["kek"]);
    }

    #[test]
    fn many_threads_make_one_key() {
        for place in [place as Place, link] {
            for _ in 0..20 {
                let folder = folder();
                let path = folder.path().join("kek");
                let barrier = Barrier::new(8);
                let keys: HashSet<[u8; 32]> = std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..8)
                        .map(|_| {
                            scope.spawn(|| {
                                barrier.wait();
                                *make(&path, place).unwrap().as_bytes()
                            })
                        })
                        .collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                assert_eq!(keys.len(), 1);
                assert!(keys.contains(read_key_file(&path).unwrap().as_bytes()));
                assert_eq!(names(folder.path()), ["kek"]);
            }
        }
    }

    #[test]
    fn a_second_name_that_goes_is_waited_for() {
        let folder = folder();
        let (path, second) = (folder.path().join("kek"), folder.path().join("second"));
        write(&path, GOOD, 0o600);
        link(&path, &second).unwrap();
        let mut pauses = 0;
        let read = read_patiently(&path, || {
            pauses += 1;
            if pauses == 3 {
                std::fs::remove_file(&second).unwrap();
            }
        });
        read.unwrap();
        assert_eq!(pauses, 3);
    }

    #[test]
    fn keys_in_both_notations() {
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for text in [hex, base64, &format!(" {base64}\n")] {
            let key = parse_key(text).unwrap();
            assert_eq!(key.as_bytes().to_vec(), (0..32).collect::<Vec<u8>>());
        }
        for text in ["", "secret", &hex[1..], &hex.replace('f', "g"), &base64[1..], &"0".repeat(64)] {
            let error = parse_key(text).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::KeyRefused);
            assert!(std::error::Error::source(&error).is_none());
        }
    }
}
