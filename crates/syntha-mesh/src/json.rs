//! Writing JSON text that may have so many bytes and no more: nothing larger is ever in memory.

use std::io;

use serde::Serialize;

/// Why there is no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwritten {
    /// It can't be written as JSON.
    NoJson,
    /// It has at least so many bytes.
    TooLarge(u64),
}

/// A value's JSON text, of at most so many bytes.
pub(crate) fn text(value: &impl Serialize, most: u64) -> Result<String, Unwritten> {
    let mut text = Bounded { text: Vec::with_capacity(128), most, over: None };
    let written = serde_json::to_writer(&mut text, value);
    match (text.over, written) {
        (Some(bytes), _) => Err(Unwritten::TooLarge(bytes)),
        (None, Ok(())) => String::from_utf8(text.text).map_err(|_| Unwritten::NoJson),
        (None, Err(_)) => Err(Unwritten::NoJson),
    }
}

struct Bounded {
    text: Vec<u8>,
    most: u64,
    /// How long the text would have been at least, once it was too long.
    over: Option<u64>,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = (self.text.len() as u64).saturating_add(bytes.len() as u64);
        if length > self.most {
            self.over = Some(length);
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde::Serializer;
    use serde::ser::SerializeSeq as _;

    use super::*;

    /// A million numbers, and how many of them were asked for.
    struct Endless(Cell<u64>);

    impl Serialize for Endless {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            let mut seq = to.serialize_seq(None)?;
            for _ in 0..1_000_000 {
                self.0.set(self.0.get() + 1);
                seq.serialize_element(&1)?;
            }
            seq.end()
        }
    }

    #[test]
    fn the_last_byte_fits_and_no_more() {
        let value = "x".repeat(8);
        assert_eq!(text(&value, 10).unwrap(), format!("\"{value}\""));
        assert!(matches!(text(&value, 9), Err(Unwritten::TooLarge(10))));
        assert_eq!(text(&(), 0), Err(Unwritten::TooLarge(4)));
        let keyed = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert_eq!(text(&keyed, 100), Err(Unwritten::NoJson));
    }

    #[test]
    fn writing_stops_where_it_is_too_long() {
        let endless = Endless(Cell::new(0));
        assert!(matches!(text(&endless, 100), Err(Unwritten::TooLarge(101..110))));
        assert!(endless.0.get() < 60, "{} numbers were written", endless.0.get());
    }
}
