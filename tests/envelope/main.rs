//! The format of sealed blobs, against golden vectors and a second implementation in Python.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod case;
mod golden;
mod second;
mod vectors;
