#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| syntha_fuzz::trail::check(data));
