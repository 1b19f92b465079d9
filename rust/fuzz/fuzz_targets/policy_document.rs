#![no_main]
#[path = "../policy_checks.rs"]
#[allow(dead_code, reason = "each target uses one of the checks")]
mod policy_checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| policy_checks::policy_document(data));
