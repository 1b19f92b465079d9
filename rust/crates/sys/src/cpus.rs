//! How much of the machine the process may use.

use rustix::process::{Resource, getrlimit};

/// The CPUs that affinity and the cgroup's quota allow, at least 1; a quota of 1.5 CPUs counts as 2 workers.
pub fn allowed_cpus() -> usize {
    // std reads sched_getaffinity(2) and the cpu.max of cgroup v1 and v2.
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// RLIMIT_NOFILE's soft limit; `None` when unlimited.
pub fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Binds the calling thread to the `index`th CPU (modulo their count) that the process may use; best effort.
pub fn pin_thread(index: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let cpus: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if let Some(cpu) = cpus.get(index % cpus.len().max(1)) {
        let mut one = rustix::thread::CpuSet::new();
        one.set(*cpu);
        let _ = rustix::thread::sched_setaffinity(None, &one);
    }
}

/// Raises the descriptor limit to what the process may have: every connection takes two. Best effort.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}
