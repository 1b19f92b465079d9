#![no_main]
#[path = "../cluster_checks.rs"]
mod cluster_checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cluster_checks::gateway_wants(data));
