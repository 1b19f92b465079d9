#![no_main]
#[path = "../protocol_checks.rs"]
#[allow(dead_code, reason = "each target uses one of the checks")]
mod protocol_checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| protocol_checks::basic_login(data));
