//! The rules for names that users and applications choose, applied once when a name is parsed.
//!
//! Names compare byte for byte. So that two spellings never become one name or two, a name is in
//! Unicode Normalization Form C (UAX #15) and holds no control character. Names of *actors* (users, agents)
//! also refuse what can't be seen or can change: format characters (Cf), unassigned (Cn) and private-use (Co)
//! code points, line and paragraph separators (Zl, Zp), and default-ignorable code points.

use std::fmt;

use unicode_normalization::{UnicodeNormalization, is_nfc};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The most bytes that a name may have, in UTF-8.
pub const MAX_BYTES: usize = 256;

/// Why a text is not a name.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// The text is empty.
    Empty,
    /// The text is longer than [`MAX_BYTES`].
    TooLong,
    /// The text holds a control character.
    Control,
    /// The text holds a character that can't be seen or has no fixed meaning.
    Invisible,
    /// The text is not in Normalization Form C; this is that form.
    NotNfc(String),
}

impl NameError {
    /// The Normalization Form C of the refused text, where that was the reason.
    ///
    /// It is not part of the error's own text, so that a name never reaches a log by way of an error.
    #[must_use]
    pub fn nfc(&self) -> Option<&str> {
        match self {
            Self::NotNfc(form) => Some(form),
            _ => None,
        }
    }

    /// The fixed text of the error.
    #[must_use]
    pub const fn message(&self) -> &'static str {
        match self {
            Self::Empty => "the name is empty, give it at least one character",
            Self::TooLong => "the name is longer than 256 bytes, shorten it",
            Self::Control => "the name holds a control character, remove it",
            Self::Invisible => "the name holds an invisible, private-use or unassigned character, remove it",
            Self::NotNfc(_) => "the name is not in Unicode Normalization Form C, normalize it first",
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl fmt::Debug for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::TooLong => "TooLong",
            Self::Control => "Control",
            Self::Invisible => "Invisible",
            Self::NotNfc(_) => "NotNfc",
        })
    }
}

impl std::error::Error for NameError {}

/// Checks the name of a thing (a key, a topic): 1 to 256 bytes, no control character, Normalization Form C.
///
/// # Errors
///
/// The first rule that the text breaks.
pub fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_BYTES {
        return Err(NameError::TooLong);
    }
    if text.is_ascii() {
        return if text.bytes().any(|byte| byte.is_ascii_control()) {
            Err(NameError::Control)
        } else {
            Ok(())
        };
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    if !is_nfc(text) {
        return Err(NameError::NotNfc(text.nfc().collect()));
    }
    Ok(())
}

/// Checks the name of an actor (a user, an agent): as [`check`], and nothing invisible.
///
/// # Errors
///
/// The first rule that the text breaks.
pub fn check_actor(text: &str) -> Result<(), NameError> {
    check(text)?;
    if text.is_ascii() || !text.chars().any(is_invisible) { Ok(()) } else { Err(NameError::Invisible) }
}

fn is_invisible(c: char) -> bool {
    matches!(
        c.general_category(),
        GeneralCategory::Format
            | GeneralCategory::Unassigned
            | GeneralCategory::PrivateUse
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::Surrogate
    ) || is_default_ignorable(c)
}

/// The code points of Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties) that are not in Cf or Cn.
const fn is_default_ignorable(c: char) -> bool {
    matches!(c,
        '\u{034F}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FFA0}' | '\u{E0100}'..='\u{E01EF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_may_hold_what_actors_may_not() {
        for text in
            ["a\u{200B}b", "a\u{202E}b", "a\u{00AD}b", "a\u{FE0F}", "a\u{E000}", "a\u{2028}b", "\u{034F}"]
        {
            assert_eq!(check(text), Ok(()), "{text:?}");
            assert_eq!(check_actor(text), Err(NameError::Invisible), "{text:?}");
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        assert_eq!(check(""), Err(NameError::Empty));
        assert_eq!(check(&"x".repeat(257)), Err(NameError::TooLong));
        assert_eq!(check(&"x".repeat(256)), Ok(()));
        assert_eq!(check("a\nb"), Err(NameError::Control));
        assert_eq!(check("a\u{85}b"), Err(NameError::Control));
        assert_eq!(check("e\u{301}"), Err(NameError::NotNfc("é".into())));
        assert_eq!(check_actor("Ünïcødé 名前"), Ok(()));
    }

    #[test]
    fn an_error_never_shows_the_name() {
        let error = check("secre\u{301}t").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secr"));
        assert_eq!(error.nfc(), Some("secrét"));
    }
}
