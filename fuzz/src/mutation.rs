//! Changes of valid bytes, as a script that the fuzzer writes.

/// Applies a script to bytes. Steps of five bytes: what to do, where (2), and with what (2).
pub(crate) fn apply(script: &[u8], valid: &[u8], others: &[&[u8]]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for step in script.chunks_exact(5).take(64) {
        let place = usize::from(u16::from_be_bytes([step[1], step[2]]));
        let with = usize::from(u16::from_be_bytes([step[3], step[4]]));
        let length = bytes.len();
        // Places at both ends are reached in any length.
        let at = if place & 0x8000 == 0 { place } else { length.saturating_sub(place & 0x7fff) };
        let at = at.min(length);
        match step[0] % 8 {
            0 if at < length => bytes[at] ^= step[4],
            1 if at < length => bytes[at] = step[4],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, step[4]),
            4 => drop(bytes.drain(at..(at + with).min(length))),
            5 => {
                let piece = bytes[at..(at + with).min(length)].to_vec();
                bytes.splice(at..at, piece);
            }
            6 if !others.is_empty() => {
                // The rest of another one.
                let other = others[with % others.len()];
                bytes.truncate(at);
                bytes.extend_from_slice(other.get(at..).unwrap_or_default());
            }
            7 if at + 4 <= length => bytes[at..at + 4].copy_from_slice(&(with as u32).to_be_bytes()),
            _ => {}
        }
    }
    bytes
}

/// The same with another last byte: it has the form, and does not open.
#[must_use]
pub fn broken(bytes: &[u8]) -> Vec<u8> {
    let mut broken = bytes.to_vec();
    if let Some(last) = broken.last_mut() {
        *last ^= 1;
    }
    broken
}
