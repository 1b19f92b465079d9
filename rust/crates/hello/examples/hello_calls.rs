//! Reads one hello so many times and prints nothing: what valgrind counts instructions of.
//! `hello_calls TIMES`

use std::hint::black_box;

use egress_hello::{Answer, tls::HelloReader};

fn main() {
    let times: u32 = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let text = include_str!("../tests/hellos/curl.hex").trim().as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
    let bytes: Vec<u8> =
        text.chunks_exact(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect();
    for _ in 0..times {
        let answer = HelloReader::new().read(black_box(&bytes));
        assert!(matches!(black_box(answer), Answer::Found(_)), "the hello is sound");
    }
}
