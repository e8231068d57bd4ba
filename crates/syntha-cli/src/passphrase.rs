//! Passphrases come from files and from the standard input, never from a command line.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use syntha::SecretBytes;
use unicode_normalization::{UnicodeNormalization, is_nfc};
use zeroize::Zeroizing;

use crate::Result;

/// One more than the longest that is taken, and a line's end.
const LONGEST: usize = 4096 + 2;

/// The first line of a file, or the next line of the standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<SecretBytes> {
    if path.as_os_str() == "-" {
        let input = std::io::stdin();
        if input.is_terminal() {
            return Err(
                "the terminal would show the passphrase: name a file, or give it through a pipe".into()
            );
        }
        return line(input);
    }
    let can_not = |error| format!("can't read the passphrase file {}: {error}", path.display());
    let flags = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(can_not)?;
    let found = file.metadata().map_err(can_not)?;
    if !found.is_file() && !found.file_type().is_fifo() {
        return Err(
            format!("{} is no passphrase file: it is neither a file nor a pipe", path.display()).into()
        );
    }
    let mine = found.uid() == rustix::process::geteuid().as_raw() || found.uid() == 0;
    if found.is_file() && (!mine || found.mode() & 0o077 != 0) {
        return Err(format!(
            "the passphrase file {} is open to others, use `chmod 600` and `chown`",
            path.display()
        )
        .into());
    }
    line(file)
}

/// What was read, as text.
pub(crate) fn text(read: &SecretBytes) -> Result<Zeroizing<String>> {
    let text =
        std::str::from_utf8(read.as_bytes()).map_err(|_| "the file's first line is not text in UTF-8")?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Reads a byte at a time: what comes after the line stays where it is, and no buffer keeps any of it.
fn line(from: impl AsFd) -> Result<SecretBytes> {
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0; 1]);
    loop {
        match rustix::io::read(&from, &mut byte[..]) {
            Ok(0) => break,
            Ok(_) if *byte == *b"\n" => break,
            Ok(_) if line.len() == LONGEST => return Err("the passphrase is too long".into()),
            Ok(_) => line.extend_from_slice(&byte[..]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("can't read the passphrase: {error}").into()),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if line.is_empty() {
        return Err("there is no passphrase: the first line is empty".into());
    }
    // One form of each letter, whatever the keyboard made.
    match std::str::from_utf8(&line) {
        Ok(text) if !is_nfc(text) => {
            let mut normal = Zeroizing::new(Vec::with_capacity(line.len() * 3));
            for letter in text.nfc() {
                normal.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Ok(exactly(&normal))
        }
        _ => Ok(exactly(&line)),
    }
}

/// In memory of its size, so that nothing is left behind where it was.
fn exactly(bytes: &[u8]) -> SecretBytes {
    SecretBytes::new(Box::<[u8]>::from(bytes))
}
