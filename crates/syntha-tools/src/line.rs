//! Keys and values as parts of one line that a model reads.

use std::fmt::Write as _;

/// Words that start a turn of a conversation where its text is flat; a key that is one of them is quoted.
const SPEAKERS: &[&str] =
    &["ai", "assistant", "developer", "function", "human", "model", "system", "tool", "user"];

/// A key as it is shown: `user_name` as `User Name`, anything but lower-case words as a JSON string.
///
/// INVARIANT: two keys never have one label. A readable one gives its key back by lower case and underscores, and starts
/// with a letter or digit; a quoted one starts with a quote.
pub(crate) fn label(key: &str) -> String {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !key.split('_').all(is_word) || SPEAKERS.contains(&key) {
        let mut label = String::with_capacity(key.len() + 2);
        push_one_line(&mut label, &serde_json::Value::from(key).to_string());
        return label;
    }
    let mut label = String::with_capacity(key.len());
    let mut starts = true;
    for c in key.chars() {
        let c = if c == '_' { ' ' } else { c };
        label.push(if starts { c.to_ascii_uppercase() } else { c });
        starts = c == ' ';
    }
    label
}

/// Adds JSON text so that it is one line for whoever reads it, and the same JSON value.
///
/// JSON lets U+0085, U+2028, U+2029 and other control characters stand unescaped in a string, and line ends between tokens.
pub(crate) fn push_one_line(out: &mut String, json: &str) {
    for c in json.chars() {
        match c {
            // In JSON text these stand between tokens only.
            '\t' | '\n' | '\r' => out.push(' '),
            '\u{2028}' | '\u{2029}' => push_escape(out, c),
            c if c.is_control() => push_escape(out, c),
            c => out.push(c),
        }
    }
}

fn push_escape(out: &mut String, c: char) {
    // Writing to a string can't fail.
    let _ = write!(out, "\\u{:04x}", u32::from(c));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (key, expected) in [
            ("user_name", "User Name"),
            ("plan", "Plan"),
            ("step_2b", "Step 2b"),
            ("2fa", "2fa"),
            ("User_Name", r#""User_Name""#),
            ("user name", r#""user name""#),
            ("user__name", r#""user__name""#),
            ("_a", r#""_a""#),
            ("system", r#""system""#),
            ("system_load", "System Load"),
            ("[Context]", r#""[Context]""#),
            ("a: b", r#""a: b""#),
            (r#"a": 1"#, r#""a\": 1""#),
            ("a\u{2028}b", r#""a\u2028b""#),
            ("é", r#""é""#),
            ("{context}", r#""{context}""#),
        ] {
            assert_eq!(label(key), expected);
        }
    }

    #[test]
    fn json_becomes_one_line_and_stays_the_same_value() {
        let json = "{\r\n\t\"a\u{2028}\": [\n1, \"\u{85}\u{7f}\u{2029}\u{9b} \\n é\"\n]\n}";
        let mut line = String::new();
        push_one_line(&mut line, json);
        assert_eq!(line, "{   \"a\\u2028\": [ 1, \"\\u0085\\u007f\\u2029\\u009b \\n é\" ] }");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&line), value(json));
    }
}
