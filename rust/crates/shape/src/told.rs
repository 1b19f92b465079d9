//! What gateways tell each other through the store: compact, with a version, and hostile until read.

use crate::cluster::{Want, Wants};

/// Raised by a change of meaning; others' versions are not read.
const VERSION: u8 = 1;
/// Version, and how many entries follow.
const HEAD: usize = 3;
/// Two keys, then demand and weight of each direction.
const ENTRY: usize = 2 * size_of::<u64>() + 4 * size_of::<f32>();
/// Entries of one gateway: more classes than that are not shared over gateways.
pub const MAX_SHARED: usize = 1024;
/// Bytes of what one gateway tells.
pub const MAX_TOLD: usize = HEAD + MAX_SHARED * ENTRY;

/// What is wanted as bytes; what is not wanted takes none.
pub fn write(wants: &Wants) -> Vec<u8> {
    let mut all: Vec<_> = wants.iter().filter(|(_, ways)| ways.iter().any(is_some)).collect();
    all.sort_unstable_by_key(|(key, _)| **key);
    all.truncate(MAX_SHARED);
    let mut bytes = Vec::with_capacity(HEAD + all.len() * ENTRY);
    bytes.push(VERSION);
    bytes.extend(u16::try_from(all.len()).unwrap_or(0).to_le_bytes());
    for ((pool, class), ways) in all {
        bytes.extend(pool.to_le_bytes());
        bytes.extend(class.to_le_bytes());
        for Want { demand, weight } in ways {
            bytes.extend((*demand as f32).to_le_bytes());
            bytes.extend((*weight as f32).to_le_bytes());
        }
    }
    bytes
}

fn is_some(want: &Want) -> bool {
    want.demand > 0.0
}

/// `None` for whatever this version has not written.
pub fn read(bytes: &[u8]) -> Option<Wants> {
    let (head, entries) = bytes.split_first_chunk::<HEAD>()?;
    let count = usize::from(u16::from_le_bytes([head[1], head[2]]));
    if head[0] != VERSION || count > MAX_SHARED || entries.len() != count * ENTRY {
        return None;
    }
    let mut wants = Wants::with_capacity(count);
    for entry in entries.chunks_exact(ENTRY) {
        let (pool, rest) = entry.split_first_chunk()?;
        let (class, rest) = rest.split_first_chunk()?;
        let mut ways = [Want::default(); 2];
        for (want, numbers) in ways.iter_mut().zip(rest.chunks_exact(2 * size_of::<f32>())) {
            let (demand, weight) = numbers.split_first_chunk()?;
            want.demand = f32::from_le_bytes(*demand).into();
            want.weight = f32::from_le_bytes(weight.try_into().ok()?).into();
            // No sum of these is endless; no comparison with them fails; none is nothing beside another.
            let weighs = want.weight == 0.0 || (1e-6..=1e9).contains(&want.weight);
            if !(want.demand >= 0.0 && weighs) {
                return None;
            }
        }
        wants.insert((u64::from_le_bytes(*pool), u64::from_le_bytes(*class)), ways);
    }
    (wants.len() == count).then_some(wants)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told() -> Wants {
        let up = Want { demand: f64::INFINITY, weight: 12.0 };
        let down = Want { demand: 1.5e9, weight: 0.0 };
        [((1, 2), [up, down]), ((1, 3), [Want::default(), up])].into()
    }

    #[test]
    fn what_is_told_is_what_is_heard_and_no_other_length_is() {
        let bytes = write(&told());
        assert_eq!(read(&bytes), Some(told()));
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), None);
        }
        assert_eq!(read(&[bytes, vec![0]].concat()), None);
        assert_eq!(read(&write(&Wants::new())), Some(Wants::new()));
    }

    #[test]
    fn another_version_and_numbers_that_are_none_are_not_read() {
        let bytes = write(&told());
        let with = |place: usize, number: f32| {
            let mut bytes = bytes.clone();
            bytes[place..place + 4].copy_from_slice(&number.to_le_bytes());
            read(&bytes)
        };
        let (demand, weight) = (HEAD + 16, HEAD + 20);
        for bad in [f32::NAN, -1.0, f32::NEG_INFINITY] {
            assert_eq!(with(demand, bad), None);
            assert_eq!(with(weight, bad), None);
        }
        assert_eq!(with(weight, f32::INFINITY), None);
        assert_eq!(read(&[&[VERSION + 1], &bytes[1..]].concat()), None);
        // The same class twice.
        let twice = [&bytes[..HEAD + ENTRY], &bytes[HEAD..HEAD + ENTRY]].concat();
        assert_eq!(read(&twice), None);
    }

    #[test]
    fn more_than_is_read_is_not_written() {
        let want = [Want { demand: 1.0, weight: 1.0 }; 2];
        let wants: Wants = (0..2 * MAX_SHARED as u64).map(|key| ((0, key), want)).collect();
        let bytes = write(&wants);
        assert_eq!(bytes.len(), MAX_TOLD);
        assert!(read(&bytes).is_some());
    }

    proptest! {
        #[test]
        fn junk_is_no_trouble(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0..5u8) {
            let _ = read(&bytes);
            let entries = bytes.len().saturating_sub(HEAD) / ENTRY * ENTRY;
            let junk = [&[VERSION, count, 0], &bytes[..entries]].concat();
            if let Some(wants) = read(&junk) {
                let fine = |want: &Want| want.demand >= 0.0 && want.weight.is_finite();
                prop_assert!(wants.values().flatten().all(fine));
            }
        }
    }
}
