//! What is searched for in raw bytes: a text in every form that it could be written in, and bytes as they are or as text.

use aho_corasick::AhoCorasick;
use data_encoding::{BASE64, BASE64URL, Encoding, HEXLOWER, HEXUPPER};

/// Many things to search for at once.
pub(crate) struct Needles {
    names: Vec<String>,
    automaton: AhoCorasick,
}

impl Needles {
    pub(crate) fn new(needles: Vec<(String, Vec<u8>)>) -> Self {
        let (names, bytes): (Vec<_>, Vec<_>) = needles.into_iter().unzip();
        // A short one would be found by chance.
        assert!(bytes.iter().all(|needle| needle.len() >= 7), "a needle of less than 7 bytes");
        Self { names, automaton: AhoCorasick::new(bytes).unwrap() }
    }

    /// The first that stands in some bytes.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<&str> {
        self.automaton.find(bytes).map(|found| self.names[found.pattern().as_usize()].as_str())
    }

    /// How many stand there, repeats included.
    pub(crate) fn count(&self, bytes: &[u8]) -> usize {
        self.automaton.find_iter(bytes).count()
    }
}

/// A text in each form that it could be written in.
pub(crate) fn of_text(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut forms = of_bytes("UTF-8", text.as_bytes());
    let wide = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<_>>();
    forms.push(("UTF-16, low byte first".to_owned(), wide(u16::to_le_bytes)));
    forms.push(("UTF-16, high byte first".to_owned(), wide(u16::to_be_bytes)));
    let escaped = |upper| -> String {
        let one = |unit| if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
        text.encode_utf16().map(one).collect()
    };
    forms.push(("escaped in JSON".to_owned(), escaped(false).into_bytes()));
    forms.push(("escaped in JSON, upper case".to_owned(), escaped(true).into_bytes()));
    forms
}

/// Bytes as they are, in hexadecimal digits and in base64.
pub(crate) fn of_bytes(what: &str, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut forms = vec![(what.to_owned(), bytes.to_vec())];
    forms.push((format!("{what}, hexadecimal"), HEXLOWER.encode(bytes).into_bytes()));
    forms.push((format!("{what}, hexadecimal in upper case"), HEXUPPER.encode(bytes).into_bytes()));
    for offset in 0..3 {
        for (name, encoding) in [("base64", &BASE64), ("base64 for URLs", &BASE64URL)] {
            forms.push((format!("{what}, {name} at offset {offset}"), within(encoding, bytes, offset)));
        }
    }
    forms.dedup_by(|one, other| one.1 == other.1);
    forms
}

/// The characters of base64 that some bytes give whatever stands before and after them, if so many bytes do before.
fn within(encoding: &Encoding, bytes: &[u8], offset: usize) -> Vec<u8> {
    let padded = [&[0; 2][..offset], bytes].concat();
    let text = encoding.encode(&padded);
    // A character holds six bits: those that hold bits of other bytes too are left out.
    let (from, to) = ((offset * 8).div_ceil(6), padded.len() * 8 / 6);
    text.as_bytes()[from..to].to_vec()
}

#[test]
fn each_form_is_found_wherever_it_stands() {
    let needles = Needles::new(of_text("CANARY<"));
    let text = "CANARY<07>";
    for before in 0..4 {
        let bytes = [&vec![b'x'; before][..], text.as_bytes(), b"yz"].concat();
        let wide = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<_>>();
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        for form in [
            bytes.clone(),
            HEXLOWER.encode(&bytes).into_bytes(),
            HEXUPPER.encode(&bytes).into_bytes(),
            BASE64.encode(&bytes).into_bytes(),
            BASE64URL.encode(&bytes).into_bytes(),
            wide(u16::to_le_bytes),
            wide(u16::to_be_bytes),
            escaped.clone().into_bytes(),
            escaped.to_uppercase().replace("\\U", "\\u").into_bytes(),
        ] {
            assert!(needles.find(&form).is_some(), "{}", String::from_utf8_lossy(&form));
        }
    }
    assert_eq!(needles.find(b"CANARY, CANARx< and CANAR"), None);
}
