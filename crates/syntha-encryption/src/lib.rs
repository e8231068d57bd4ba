#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod secret;

pub use secret::{SecretBytes, SecretKey};
