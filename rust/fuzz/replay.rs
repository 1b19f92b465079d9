//! Replays a corpus and mutations of it with a stable compiler: what the fuzzer checks for hours holds in
//! every test run for a fixed number of inputs.
use std::{fs, path::PathBuf};

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

fn mutate(random: &mut Random, input: &mut Vec<u8>, tokens: &[&[u8]]) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(5) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next().to_le_bytes()[0],
            2 => input.truncate(at),
            3 => drop(input.splice(at..at, tokens[random.below(tokens.len())].iter().copied())),
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

/// The folder of a target's seeds.
pub fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// The seeds of a target, in the order of their names.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(corpus(target))
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 8, "the corpus of {target} is there");
    paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
}

/// Checks the seeds and `mutations` of them, with `tokens` of the grammar spliced in.
pub fn replay(target: &str, mutations: usize, tokens: &[&[u8]], check: fn(&[u8])) {
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| check(seed));
    let mut random = Random(1);
    for _ in 0..mutations {
        let mut input = seeds[random.below(seeds.len())].clone();
        mutate(&mut random, &mut input, tokens);
        check(&input);
    }
}
