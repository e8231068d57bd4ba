//! Numbers in the digits `0-9A-Za-z`, most significant first, at a fixed width. No crate writes 256 bits at a fixed width; it is an encoding,
//! and the secret in it is the caller's to wipe.

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes a number into a place of fixed width. The place is wide enough for every number of `bytes.len()` bytes, or digits are lost.
pub(crate) fn encode(bytes: &[u8], to: &mut [u8]) {
    let mut number = [0; 32];
    let number = number.get_mut(..bytes.len()).unwrap_or_default();
    number.copy_from_slice(bytes);
    for digit in to.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in number.iter_mut() {
            let part = rest << 8 | u32::from(*byte);
            *byte = u8::try_from(part / 62).unwrap_or(0);
            rest = part % 62;
        }
        *digit = DIGITS.get(rest as usize).copied().unwrap_or(b'0');
    }
    zeroize::Zeroize::zeroize(number);
}

/// Reads what [`encode`] wrote; `None` for another character and for a number that has no place in `to`.
pub(crate) fn decode(text: &[u8], to: &mut [u8]) -> Option<()> {
    to.fill(0);
    for character in text {
        let mut carry = u32::from(value(*character)?);
        for byte in to.iter_mut().rev() {
            let part = u32::from(*byte) * 62 + carry;
            *byte = part.to_le_bytes()[0];
            carry = part >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(())
}

const fn value(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'A'..=b'Z' => Some(character - b'A' + 10),
        b'a'..=b'z' => Some(character - b'a' + 36),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8], width: usize) -> String {
        let mut to = vec![0; width];
        encode(bytes, &mut to);
        String::from_utf8(to).unwrap()
    }

    // python3: divmod by 62 of int.from_bytes(..., "big"), padded with "0"
    #[test]
    fn numbers_are_the_documented_ones() {
        assert_eq!(text(&[0; 32], 43), "0".repeat(43));
        assert_eq!(text(&[0xff; 32], 43), include_str!("../fixtures/all-ones.base62").trim());
        let counting: Vec<u8> = (0..32).collect();
        assert_eq!(text(&counting, 43), include_str!("../fixtures/counting.base62").trim());
        assert_eq!(text(&0xcbf4_3926_u32.to_be_bytes(), 6), include_str!("../fixtures/check.base62").trim());
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let mut bytes = [0; 32];
        for _ in 0..1_000 {
            getrandom::fill(&mut bytes).unwrap();
            let mut read = [0; 32];
            decode(text(&bytes, 43).as_bytes(), &mut read).unwrap();
            assert_eq!(read, bytes);
        }
        let mut read = [0; 32];
        assert_eq!(decode("z".repeat(43).as_bytes(), &mut read), None, "2^256 and more has no place");
        assert_eq!(decode(b"a_b", &mut read), None);
        assert_eq!(decode("é".as_bytes(), &mut read), None);
        assert_eq!(decode(b"zzzzzz", &mut [0; 4]), None);
    }
}
