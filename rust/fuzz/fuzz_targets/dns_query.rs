#![no_main]
#[path = "../dns_checks.rs"]
mod dns_checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns_checks::dns_query(data));
