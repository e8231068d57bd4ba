use std::fmt;

use syntha_store::UserId;
use unicode_normalization::UnicodeNormalization;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, ErrorKind, Result};

/// The most bytes of a password, as it is typed and in NFC.
pub const PASSWORD_BYTES: usize = 1_024;
/// The least characters of a password that has a second factor beside it.
const SHORTEST: usize = 8;
/// The least characters of a password that is all there is (NIST SP 800-63B-4, section 3.1.1.2).
const SHORTEST_ALONE: usize = 15;
/// Passwords that guessers try first, in lower case; see the file.
const COMMON: &str = include_str!("common-passwords.txt");

/// A password, in Unicode's form NFC. It is wiped when dropped; it has no `Display`, `Clone` or serialisation, and its `Debug` shows nothing.
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes a password as a person typed it. How strong it is is asked when it is set, not here.
    ///
    /// # Errors
    ///
    /// `Invalid` over [`PASSWORD_BYTES`] bytes.
    pub fn new(typed: &str) -> Result<Self> {
        let long = || Error::new(ErrorKind::Invalid, "a password has at most 1,024 bytes");
        if typed.len() > PASSWORD_BYTES {
            return Err(long());
        }
        // NFC makes a text three times as long at most (UAX 15): with that much room it never moves, and leaves no copy behind.
        let mut text = Zeroizing::new(String::with_capacity(3 * typed.len()));
        text.extend(typed.nfc());
        if text.len() > PASSWORD_BYTES { Err(long()) } else { Ok(Self(text)) }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether it may be a user's: long enough, typable, and not what everybody tries first. There is no rule on what it is made of.
    pub(crate) fn check(&self, user: &UserId, factor: Factor) -> Result<()> {
        let weak = |message| Err(Error::new(ErrorKind::WeakPassword, message));
        let length = self.0.chars().count();
        match factor {
            Factor::Single if length < SHORTEST_ALONE => {
                return weak("a password that is the only factor has at least 15 characters");
            }
            Factor::Several if length < SHORTEST => return weak("a password has at least 8 characters"),
            _ => {}
        }
        if self.0.chars().any(char::is_control) {
            return weak("a password has no control characters");
        }
        let lower = Zeroizing::new(self.0.to_lowercase());
        let listed = COMMON.lines().any(|common| !common.starts_with('#') && common == &**lower);
        let one = self.0.chars().next();
        let repeated = self.0.chars().all(|character| Some(character) == one);
        if listed || repeated || *lower == user.as_str().to_lowercase() {
            return weak("the password is one of those that guessers try first, choose another");
        }
        Ok(())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// Moves a text that a host has read into a password and wipes the text.
impl TryFrom<String> for Password {
    type Error = Error;

    fn try_from(mut typed: String) -> Result<Self> {
        let password = Self::new(&typed);
        typed.zeroize();
        password
    }
}

/// Whether the password is all that a login asks for. It says how short a new one may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Factor {
    /// It is: at least 15 characters.
    #[default]
    Single,
    /// The host asks for something else too: at least 8 characters.
    Several,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &str, factor: Factor) -> Option<&'static str> {
        let user = UserId::new("Somebody-With-A-Name").unwrap();
        let error = Password::new(typed).unwrap().check(&user, factor).err()?;
        assert_eq!(error.kind(), ErrorKind::WeakPassword);
        Some(error.message())
    }

    #[test]
    fn short_common_and_untypable_ones_are_refused() {
        for (typed, factor) in [
            ("sevenab", Factor::Several),
            ("fourteen-chars", Factor::Single),
            ("password1", Factor::Several),
            ("PassWord123", Factor::Several),
            ("qwertyuiop123456", Factor::Single),
            ("tab\tin the middle of it", Factor::Single),
            ("nul\0in the middle of it", Factor::Single),
            ("somebody-WITH-a-name", Factor::Single),
            ("zzzzzzzzzzzzzzzzzzzz", Factor::Single),
            ("ééééééé", Factor::Several),
        ] {
            assert!(check(typed, factor).is_some(), "{typed:?}");
        }
        for (typed, factor) in [
            ("eight ch", Factor::Several),
            ("exactly 15 char", Factor::Single),
            ("ein Satz mit Ümlauten", Factor::Single),
            ("世界世界世界世界", Factor::Several),
            (&"long and 1 ".repeat(93), Factor::Single),
        ] {
            assert_eq!(check(typed, factor), None, "{typed:?}");
        }
    }

    #[test]
    fn one_text_has_one_form() {
        let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
        assert_eq!(
            Password::new(composed).unwrap().as_bytes(),
            Password::new(decomposed).unwrap().as_bytes()
        );
        assert_ne!(Password::new("A").unwrap().as_bytes(), Password::new("a").unwrap().as_bytes());
    }

    #[test]
    fn long_ones_are_refused_before_and_after_nfc() {
        Password::new(&"x".repeat(1_024)).unwrap();
        // U+0958 is three bytes, and its NFC six.
        for typed in ["x".repeat(1_025), "\u{958}".repeat(341)] {
            assert_eq!(Password::new(&typed).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Password::new("hunter2hunter2").unwrap()), "Password(***)");
    }

    #[test]
    fn the_list_is_in_the_form_that_it_is_compared_in() {
        let list: Vec<_> = COMMON.lines().filter(|line| !line.starts_with('#')).collect();
        let distinct: std::collections::BTreeSet<_> = list.iter().collect();
        assert!(list.len() > 150 && distinct.len() == list.len());
        for common in list {
            assert_eq!(common, common.to_lowercase());
            assert!(common.chars().count() >= SHORTEST, "{common} is too short anyway");
        }
    }
}
