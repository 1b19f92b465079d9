//! What a run was like: counts, latencies, who used the CPUs, and who was the limit.

use std::time::Instant;

use serde_json::{Value, json};

use crate::Load;
use crate::cpu;

/// Share of a CPU above which it is what limits a run.
const FULL: f64 = 0.9;
/// CPUs' worth of work of nobody whom the run knows, above which it was disturbed.
const DISTURBED: f64 = 0.15;

#[derive(Debug, Default)]
pub struct Tally {
    pub done: u64,
    pub failed: u64,
    pub bytes: u64,
    /// Microseconds of each exchange, or from connect to the first byte.
    pub latencies: Vec<u32>,
}

impl Tally {
    pub fn latency(&mut self, begun: Instant) {
        self.latencies.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

/// The clocks of everybody at one moment.
pub struct Clocks {
    pub own: f64,
    backend: f64,
    pub proxy: f64,
    pub machine: f64,
    steal: f64,
}

impl Clocks {
    pub fn read(backend: Option<u32>, proxy: &[u32]) -> Self {
        let (machine, steal) = cpu::machine();
        Self {
            own: cpu::own(),
            backend: cpu::of_trees(backend.as_slice()),
            proxy: cpu::of_trees(proxy),
            machine,
            steal,
        }
    }
}

pub struct Meter<'a> {
    load: &'a Load,
    before: Clocks,
    begun: Instant,
}

impl<'a> Meter<'a> {
    pub fn start(load: &'a Load) -> Self {
        Self { load, before: Clocks::read(load.backend, &load.proxy), begun: Instant::now() }
    }

    pub fn report(self, mut tally: Tally) -> Value {
        let seconds = self.begun.elapsed().as_secs_f64();
        let now = Clocks::read(self.load.backend, &self.load.proxy);
        let own = now.own - self.before.own;
        let backend = now.backend - self.before.backend;
        let proxy = now.proxy - self.before.proxy;
        let machine = now.machine - self.before.machine;
        tally.latencies.sort_unstable();
        let at = |share: f64| {
            let index = (tally.latencies.len() as f64 * share) as usize;
            tally.latencies.get(index.min(tally.latencies.len().saturating_sub(1))).copied()
        };
        // The proxy's part; what the generator and its backend leave of it when there is no proxy is of no interest.
        let ends = self.fullest(own / seconds, backend / seconds);
        let others = (machine - own - backend - proxy) / seconds;
        let verdict = verdict(ends, proxy / seconds / self.load.proxy_cpus as f64, others);
        json!({
            "seconds": seconds, "done": tally.done, "failed": tally.failed, "bytes": tally.bytes,
            "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999),
            "client_cpu": own, "backend_cpu": backend, "proxy_cpu": proxy, "machine_cpu": machine,
            "steal_cpu": now.steal - self.before.steal, "ends_share": ends,
            "proxy_share": proxy / seconds, "others_share": others, "verdict": verdict,
        })
    }

    /// How full the fullest CPU of client and backend is: one that they share has to do for both.
    fn fullest(&self, own: f64, backend: f64) -> f64 {
        let (mine, its) =
            (cpu::allowed(None), self.load.backend.map(|pid| cpu::allowed(Some(pid))));
        match its {
            Some(its) if mine.iter().all(|cpu| !its.contains(cpu)) => own.max(backend),
            Some(its) => {
                let more = its.iter().filter(|cpu| !mine.contains(cpu)).count();
                ((own + backend) / (mine.len() + more) as f64).max(own).max(backend)
            }
            None => own,
        }
    }
}

/// Who was the limit. `idle`: nobody; a round trip is the limit then.
pub fn verdict(ends: f64, proxy: f64, others: f64) -> &'static str {
    match (ends > FULL, proxy > FULL) {
        (_, true) => "proxy-bound",
        (true, false) => "generator-bound",
        _ if others > DISTURBED => "disturbed",
        _ => "idle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_blamed_only_when_the_proxy_has_time() {
        assert_eq!(verdict(0.95, 0.5, 0.0), "generator-bound");
        assert_eq!(verdict(0.95, 0.95, 0.0), "proxy-bound");
        assert_eq!(verdict(0.5, 0.95, 0.5), "proxy-bound");
        assert_eq!(verdict(0.5, 0.5, 0.5), "disturbed");
        assert_eq!(verdict(0.5, 0.5, 0.0), "idle");
    }
}
