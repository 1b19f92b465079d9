//! Turns of a gate, one by one.

use super::*;

#[test]
fn those_who_leave_take_their_places_along_though_nobody_has_a_turn() {
    let mut gate = Gate::new(0.0);
    let mut stays = Pace::of(1);
    gate.join(&stays);
    assert_eq!(gate.ask(&mut stays, 1, 0), Turn::Later);
    for number in 2..20_000 {
        // Others of its source, and sources of their own.
        let mut comes = Pace::of(if number % 2 == 0 { 1 } else { number });
        gate.join(&comes);
        assert_eq!(gate.ask(&mut comes, number, 0), Turn::Later);
        gate.leave(&mut comes);
        gate.tidy(0);
    }
    let places: usize = gate.sources.values().map(|source| source.waiting.len()).sum();
    assert!(places <= 2 * LEFT_PLACES && gate.turns.len() <= 2 * LEFT_PLACES, "{places}");
    assert!(gate.sources.len() <= 2 * LEFT_PLACES && gate.left.len() <= 2 * LEFT_PLACES);
    gate.set_rate(1e6, 0);
    assert_eq!(gate.next(0).map(|(token, _)| token), Some(1));
    gate.begin(&mut stays);
    assert_eq!(gate.next(0), None);
    assert!(gate.nobody_waits() && gate.gone.is_empty());
    gate.tidy(0);
    assert_eq!(gate.sources.len(), 1);
}

#[test]
fn what_was_not_there_yet_of_a_turn_goes_when_it_comes_and_the_next_turn_is_no_sooner() {
    let mut gate = Gate::new(1.25e6);
    let (mut flow, mut other) = (Pace::of(1), Pace::of(2));
    gate.join(&flow);
    gate.join(&other);
    assert_eq!(gate.ask(&mut flow, 1, MS), Turn::Now(25_000));
    gate.charge(&mut flow, 10_000, MS);
    assert_eq!(gate.ask(&mut flow, 1, 2 * MS), Turn::Now(15_000));
    gate.charge(&mut flow, 15_000, 2 * MS);
    assert_eq!(gate.ask(&mut flow, 1, 2 * MS), Turn::Later);
    assert_eq!(gate.wakes_at(), Some(20 * MS));
    assert_eq!(gate.next(20 * MS), Some((1, 25_000)));
    gate.begin(&mut flow);
    gate.charge(&mut flow, 10_000, 20 * MS);
    // Somebody else's turn ends it.
    other.finish = 1 << 20;
    assert_eq!(gate.ask(&mut other, 2, 20 * MS), Turn::Later);
    assert_eq!(gate.next(28 * MS), Some((2, 25_000)));
    gate.begin(&mut other);
    gate.charge(&mut other, 25_000, 28 * MS);
    flow.finish = 1 << 20;
    assert_eq!(gate.ask(&mut flow, 1, 29 * MS), Turn::Later);
}

#[test]
fn what_was_sent_while_nothing_bounded_it_is_not_waited_for() {
    let mut gate = Gate::new(f64::INFINITY);
    let (mut much, mut little) = (Pace::of(1), Pace::of(2));
    gate.join(&much);
    gate.join(&little);
    for _ in 0..1000 {
        assert_eq!(gate.ask(&mut much, 1, MS), Turn::Now(u64::MAX));
        gate.charge(&mut much, 1 << 20, MS);
    }
    gate.charge(&mut little, 1000, MS);
    gate.set_rate(32_000.0, MS);
    let mut sent = [0; 2];
    for now in (1..300).map(|step| step * 20 * MS) {
        for (token, pace) in [&mut little, &mut much].into_iter().enumerate() {
            while let Turn::Now(bytes) = gate.ask(pace, token as u64, now) {
                gate.charge(pace, bytes, now);
                sent[token] += bytes;
            }
        }
        while let Some((token, bytes)) = gate.next(now) {
            let pace = if token == 0 { &mut little } else { &mut much };
            gate.begin(pace);
            gate.charge(pace, bytes, now);
            sent[token as usize] += bytes;
        }
    }
    assert!(sent[0] < sent[1] * 2, "{sent:?}");
}

#[test]
fn who_is_only_charged_falls_back_no_further_than_a_turn() {
    let mut gate = Gate::new(1e6);
    let (mut owes, mut bulk) = (Pace::of(1), Pace::of(2));
    gate.join(&owes);
    gate.join(&bulk);
    for second in 1..1000 {
        gate.charge(&mut owes, 1000, second * 1000 * MS);
    }
    let now = 1_000_000 * MS;
    assert_eq!(gate.ask(&mut bulk, 2, now), Turn::Now(20_000));
    gate.charge(&mut bulk, 20_000, now);
    assert_eq!(gate.ask(&mut bulk, 2, now), Turn::Later);
    if gate.ask(&mut owes, 1, now) == Turn::Later {
        assert_eq!(gate.next(now + 20 * MS).map(|(token, _)| token), Some(1));
    }
}

#[test]
fn the_rest_of_a_turn_is_no_more_than_one_at_the_rate_that_there_is_now() {
    let mut gate = Gate::new(125e6);
    let mut flow = Pace::of(1);
    gate.join(&flow);
    assert_eq!(gate.ask(&mut flow, 1, MS), Turn::Now(262_144));
    gate.charge(&mut flow, 2_144, MS);
    gate.set_rate(1.25e6, 2 * MS);
    assert_eq!(gate.ask(&mut flow, 1, 2 * MS), Turn::Now(25_000));
    gate.set_rate(0.0, 2 * MS);
    assert_eq!(gate.ask(&mut flow, 1, 2 * MS), Turn::Later);
}
