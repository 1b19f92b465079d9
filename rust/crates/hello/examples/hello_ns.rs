//! Prints what reading one hello costs: `cargo run --release --example hello_ns`.
use std::{hint::black_box, time::Instant};

use egress_hello::{Answer, tls::HelloReader};

/// Rounds for each hello: about a tenth of a second.
const ROUNDS: u32 = 300_000;

fn main() {
    let hellos = [
        ("curl, 517 bytes", include_str!("../tests/hellos/curl.hex")),
        ("go with a post-quantum key share", include_str!("../tests/hellos/go.hex")),
    ];
    for (label, text) in hellos {
        let bytes = unhex(text.trim().as_bytes());
        let start = Instant::now();
        for _ in 0..ROUNDS {
            let answer = HelloReader::new().read(black_box(&bytes));
            assert!(matches!(black_box(answer), Answer::Found(_)), "the hello is sound");
        }
        println!("{label}: {} ns", start.elapsed().as_nanos() / u128::from(ROUNDS));
    }
}

fn unhex(digits: &[u8]) -> Vec<u8> {
    let value = |digit: u8| {
        char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok()).unwrap_or(0)
    };
    digits.chunks_exact(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}
