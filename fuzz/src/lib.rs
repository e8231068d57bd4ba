//! What arbitrary bytes do to everything that reads sealed or foreign files: nothing opens that was not sealed so, there, and nothing
//! panics. Each module has a `check` that the fuzzer calls, and `seeds` to begin with.

#![forbid(unsafe_code)]

pub mod archive;
pub mod envelope;
pub mod image;
pub mod keystore;
mod mutation;
pub mod rows;
pub mod stream;
pub mod trail;
pub mod wrap;

/// A target's name, what checks some bytes, and what it begins with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// Every target.
pub const TARGETS: &[Target] = &[
    ("envelope", envelope::check, envelope::seeds),
    ("wrap", wrap::check, wrap::seeds),
    ("stream", stream::check, stream::seeds),
    ("archive", archive::check, archive::seeds),
    ("image", image::check, image::seeds),
    ("rows", rows::check, rows::seeds),
    ("keystore", keystore::check, keystore::seeds),
    ("trail", trail::check, trail::seeds),
];

/// The result of something that waits for nothing.
fn now<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

#[cfg(test)]
mod tests {
    /// So that a check that calls its own seeds wrong is found without a fuzzer.
    #[test]
    fn seeds_and_their_cuts_pass() {
        for (name, check, seeds) in super::TARGETS {
            let seeds = seeds();
            assert!(!seeds.is_empty(), "{name}");
            for seed in seeds {
                check(&seed);
                for at in (0..seed.len()).step_by(seed.len() / 16 + 1) {
                    check(&seed[..at]);
                    let mut flipped = seed.clone();
                    flipped[at] ^= 1;
                    check(&flipped);
                }
            }
        }
    }
}
