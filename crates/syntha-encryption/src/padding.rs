//! Padding, so that a sealed value shows its size only roughly.
//!
//! The end of the content is marked by one byte 0x80, and zeros follow (the second method of ISO/IEC 9797-1, in
//! ISO/IEC 7816-4 for chip cards). How long the whole becomes is Padmé's choice (Nikitin et al., "Reducing Metadata
//! Leakage from Encrypted Files and Communication with PURBs", 2019), and at least [`PADDED_MIN`] bytes.

use syntha_store::{Error, ErrorKind, Result};

/// The least length of padded content, the mark included.
pub const PADDED_MIN: usize = 64;

const MARK: u8 = 0x80;

/// How long content of `len` bytes becomes: `max(64, Padmé(len + 1))`. `len` is a length that memory can hold, at
/// most `isize::MAX`.
#[must_use]
pub const fn padded_len(len: usize) -> usize {
    let marked = len.saturating_add(1);
    if marked <= PADDED_MIN {
        return PADDED_MIN;
    }
    // Of a number with E + 1 bits, Padmé lets as many bits vary below the first as it takes to write E down.
    let exponent = marked.ilog2();
    let kept = exponent.ilog2() + 1;
    let low = (1 << (exponent - kept)) - 1;
    marked.saturating_add(low) & !low
}

/// Pads what `buffer` holds from `start` on.
///
/// # Errors
///
/// `Invalid` if the buffer ends before `start`.
pub fn pad(buffer: &mut Vec<u8>, start: usize) -> Result<()> {
    let len = buffer
        .len()
        .checked_sub(start)
        .ok_or_else(|| Error::new(ErrorKind::Invalid, "the content to pad starts after its buffer"))?;
    buffer.push(MARK);
    buffer.resize(start.saturating_add(padded_len(len)), 0);
    Ok(())
}

/// The content that was padded.
///
/// How long this takes depends on the content, so it is called for authenticated content only.
///
/// # Errors
///
/// `Tampered` if the bytes don't end in the mark and zeros.
pub fn unpad(padded: &[u8]) -> Result<&[u8]> {
    let zeros = padded.iter().rev().take_while(|byte| **byte == 0).count();
    padded
        .get(..padded.len().saturating_sub(zeros))
        .and_then(|marked| marked.strip_suffix(&[MARK]))
        .ok_or_else(|| Error::new(ErrorKind::Tampered, "the sealed content is not padded as it must be"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Padmé as its paper defines it, in floating point, for lengths that a double holds exactly.
    fn padme_of_the_paper(len: usize) -> usize {
        let exponent = (len as f64).log2().floor();
        let kept = exponent.log2().floor() + 1.0;
        let unit = (exponent - kept).exp2();
        ((len as f64 / unit).ceil() * unit) as usize
    }

    #[test]
    fn lengths_are_padme_of_the_marked_content() {
        for len in 64..100_000 {
            assert_eq!(padded_len(len), padme_of_the_paper(len + 1), "{len}");
        }
        for len in 0..=63 {
            assert_eq!(padded_len(len), 64);
        }
        // Worked by hand: 1025 = 2^10 + 1, ten takes four bits, so the last six bits are zeros.
        assert_eq!(padded_len(1_024), 1_088);
        assert_eq!(padded_len(64), 72);
        assert_eq!(padded_len(1_023), 1_024);
    }

    #[test]
    fn few_lengths_are_seen() {
        let seen: std::collections::BTreeSet<_> = (0..65_535).map(padded_len).collect();
        // 64; eight for each power of two from 2^6, as six and seven take three bits; sixteen for each from 2^8 to 2^15.
        assert_eq!(seen.len(), 1 + 2 * 8 + 8 * 16);
        // A length that is padded to is a fixed point of it.
        for len in &seen {
            assert_eq!(padded_len(len - 1), *len);
        }
    }

    #[test]
    fn what_is_not_padded_is_refused() {
        for bytes in [&b""[..], &[0], &[0; 64], &[1], &[0x80, 1], &[0x80, 0, 1, 0], &[0x81, 0]] {
            assert_eq!(unpad(bytes).unwrap_err().kind(), ErrorKind::Tampered, "{bytes:?}");
        }
        assert_eq!(unpad(&[0x80]).unwrap(), b"");
        assert_eq!(unpad(&[0x80, 0x80, 0]).unwrap(), [0x80]);
        assert_eq!(pad(&mut Vec::new(), 1).unwrap_err().kind(), ErrorKind::Invalid);
    }

    proptest! {
        #[test]
        fn padded_content_comes_back(
            before in prop::collection::vec(any::<u8>(), 0..20),
            content in prop::collection::vec(prop_oneof![Just(0), Just(MARK), any::<u8>()], 0..3_000),
        ) {
            let mut buffer = [&before[..], &content].concat();
            pad(&mut buffer, before.len()).unwrap();
            prop_assert_eq!(buffer.len(), before.len() + padded_len(content.len()));
            prop_assert_eq!(&buffer[..before.len()], &before[..]);
            prop_assert_eq!(unpad(&buffer[before.len()..]).unwrap(), &content[..]);
        }

        #[test]
        fn little_is_added(len in 512_usize..1 << 40) {
            let padded = padded_len(len);
            prop_assert!(padded > len);
            prop_assert!((padded - len) as f64 <= 0.12 * len as f64, "{} to {}", len, padded);
        }
    }
}
