//! What must hold for any bytes that another gateway, or somebody else, has put into the store of shared limits. The fuzz
//! target and the replay test of the shape crate share it.
use egress_shape::{Bounds, Pool, Shared, share, told};

/// The pool and the class of the corpus.
const POOL: u64 = 1;
const CLASS: u64 = 2;
const CAPACITY: f64 = 1e6;

pub fn gateway_wants(data: &[u8]) {
    let Some(wants) = told::read(data) else { return };
    // It is told again as it was, but for what is not wanted.
    let again = told::read(&told::write(&wants)).expect("what is written is read");
    assert!(again.iter().all(|(key, ways)| wants.get(key) == Some(ways)));
    let bounds = Bounds { guarantee: 1e5, ceiling: f64::INFINITY, priority: 1, weight: 1.0 };
    let pool = Pool { key: POOL, capacity: CAPACITY, classes: vec![Shared { key: CLASS, bounds }] };
    // Whatever one gateway wants, both have parts of the whole, and it is not exceeded.
    let gateways = [wants, again];
    for way in [0, 1] {
        let all: Vec<Vec<f64>> = (0..2).map(|mine| share(&pool, &gateways, mine, way)).collect();
        assert!(all.iter().flatten().all(|part| (0.0..=CAPACITY * 1.000_001).contains(part)));
        let sum: f64 = all.iter().map(|parts| parts[0]).sum();
        assert!((sum - CAPACITY).abs() <= CAPACITY * 1e-6, "{sum}");
    }
}
