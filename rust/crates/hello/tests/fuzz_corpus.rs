//! Replays the seed corpus of the fuzz targets, and mutations of it, with a stable compiler: the
//! checks that the fuzzer runs for hours hold in every test run for a fixed number of inputs.
#[path = "../../../fuzz/checks.rs"]
mod checks;

use std::{fs, path::Path};

/// Mutated inputs for each target: a few seconds in a debug build.
const MUTATIONS: usize = 20_000;

/// Inputs that only a byte-swap away from sense get tokens of the grammar spliced in.
const TOKENS: &[&[u8]] = &[
    b"\x16\x03\x01",
    b"\0\0",
    b"\xff\xff",
    b"\x01\0\0",
    b"\0\x10",
    b"\0\x2b",
    b"\xfe\x0d",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b" ",
    b"Host: ",
    b":443",
    b"HTTP/1.1",
    b"CONNECT ",
    b"[::1]",
    b".",
    b"xn--",
    b"0x",
    b"127.0.0.1",
    b"%",
    b"\xc3\xbc",
    b"\xe3\x80\x82",
    b"Content-Length: 0\r\n",
];

/// SplitMix64: the same inputs in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 1).expect("64 bits") % bound.max(1)
    }
}

fn mutate(random: &mut Random, input: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(5) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next().to_le_bytes()[0],
            2 => input.truncate(at),
            3 => drop(input.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
            _ => {
                let end = (at + random.below(16)).min(input.len());
                let part = input[at..end].to_vec();
                if random.below(2) == 0 {
                    drop(input.splice(at..at, part));
                } else {
                    input.drain(at..end);
                }
            }
        }
    }
}

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let seeds: Vec<_> = paths.iter().map(|path| fs::read(path).expect("a seed")).collect();
    assert!(seeds.len() >= 8, "the corpus of {target} is there");
    for seed in &seeds {
        check(seed);
    }
    let mut random = Random(1);
    for _ in 0..MUTATIONS {
        let mut input = seeds[random.below(seeds.len())].clone();
        mutate(&mut random, &mut input);
        check(&input);
    }
}

#[test]
fn tls_hello_holds() {
    replay("tls_hello", checks::tls_hello);
}

#[test]
fn connect_head_holds() {
    replay("connect_head", checks::connect_head);
}

#[test]
fn host_name_holds() {
    replay("host_name", checks::host_name);
}
