//! Text as it may reach a terminal. Keys, values and messages are what some model wrote.

use std::fmt::Write as _;

/// One line in which nothing steers the terminal or turns the text around. What is escaped is escaped as in JSON, so that JSON
/// text stays the same value.
pub(crate) fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' | '\n' | '\r' => shown.push(' '),
            c if c.is_control() || is_unseen(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    // Writing to a string can't fail.
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
            c => shown.push(c),
        }
    }
    shown
}

/// Line ends, marks of direction and tags: to be seen as what they are, or not at all.
const fn is_unseen(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn what_is_shown_steers_nothing_and_stays_the_same_json() {
        let json = "{\n\"a\u{9b}31m\": \"\u{202e}\u{7f}\u{2028}\u{e0041} \u{1F600}é \\u001b\"}";
        let shown = line(json);
        assert_eq!(shown, "{ \"a\\u009b31m\": \"\\u202e\\u007f\\u2028\\udb40\\udc41 \u{1F600}é \\u001b\"}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(json));
    }
}
