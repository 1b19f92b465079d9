//! Who used the CPUs: this process, others with all their threads and children, the whole machine.

use std::fs;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Of /proc/stat: 10 ms on every Linux that counts.
const TICKS: f64 = 100.0;

/// Seconds that this process has run.
pub fn own() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds that processes have run with their threads and descendants, to the nanosecond (/proc/PID/task/*/schedstat).
/// Whose child is whose is read from /proc/PID/stat: not every kernel has /proc/PID/task/*/children.
pub fn of_trees(roots: &[u32]) -> f64 {
    if roots.is_empty() {
        return 0.0;
    }
    let parents: Vec<(u32, u32)> =
        processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut wanted = roots.to_vec();
    let mut at = 0;
    while let Some(root) = wanted.get(at).copied() {
        wanted.extend(parents.iter().filter(|(_, parent)| *parent == root).map(|(pid, _)| *pid));
        at += 1;
    }
    wanted.into_iter().map(of_process).sum()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, brackets too: count from its end.
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

/// Of threads that have ended only /proc/PID/stat knows, in ticks.
fn of_process(pid: u32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let ran = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    let alive = tasks.flatten().filter_map(ran).sum::<f64>() / 1e9;
    alive.max(with_ended(pid).unwrap_or(0.0))
}

fn with_ended(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Of what stands behind the name, utime and stime are the 12th and the 13th (proc(5)).
    let fields = stat.rsplit(") ").next()?.split(' ').skip(11).take(2);
    Some(fields.flat_map(str::parse::<f64>).sum::<f64>() / TICKS)
}

/// Seconds of the whole machine: busy, and taken by the hypervisor for others.
pub fn machine() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).flat_map(str::parse).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0.0) / TICKS;
    // user, nice, system, (idle, iowait), irq, softirq
    (at(0) + at(1) + at(2) + at(5) + at(6), at(7))
}

/// The CPUs that this process (`None`) or another may run on.
pub fn allowed(pid: Option<u32>) -> Vec<usize> {
    let pid = pid.and_then(|pid| Pid::from_raw(pid as i32));
    let Ok(set) = sched_getaffinity(pid) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}
