//! Counters that a worker or the resolver keeps for itself, one page each; words in the order of the enums.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }
        impl $name {
            /// The words' names, by index.
            pub const NAMES: &'static [&'static str] = &[$($word,)+];
        }
        impl From<$name> for usize {
            fn from(counter: $name) -> usize { counter as usize }
        }
    };
}

counters! {
    /// What each worker counts.
    WorkerCounter {
        Accepted "accepted",
        /// Flows open now (a gauge).
        Active "active",
        /// accept4(2) failed for another reason than an empty queue.
        AcceptErrors "accept_errors",
        /// Connections closed at once because no descriptor was left.
        OutOfDescriptors "out_of_descriptors",
        /// Connections closed at once because `max_flows` was reached.
        FlowsFull "flows_full",
        /// Generation of the snapshot that the worker decides by (a gauge).
        Generation "generation",
        /// Flows judged again after a policy change.
        Rejudged "rejudged",
        /// Flows that a policy change closed.
        PolicyClosed "policy_closed",
        /// Bulk moves that had to copy because no pipe was free.
        PipeMisses "pipe_misses",
        /// Names answered from the worker's own cache.
        NameCacheHits "name_cache_hits",
        /// Turns of the event loop.
        Turns "turns",
        /// Captured datagrams that were refused.
        DatagramsRefused "datagrams_refused",
        /// Connections given to the front: HTTP/2, and TLS to the proxy itself.
        HandedOver "handed_over",
        /// Clients taken from the front: streams, and what was inside TLS.
        Adopted "adopted",
        /// Flows refused because too many sources are counted.
        SourcesFull "sources_full",
    }
}

counters! {
    /// What the resolver counts.
    ResolverCounter {
        /// Questions from workers.
        Asked "asked",
        /// Answered from the cache.
        Hits "hits",
        /// Joined a query that was under way.
        Joined "joined",
        /// Queries sent to the name servers.
        Queries "queries",
        Answered "answered",
        NoName "no_name",
        Timeout "timeout",
        Failed "failed",
        /// Expired answers served because the servers were away.
        Stale "stale",
        /// Names in the cache (a gauge).
        Names "names",
        /// Microseconds that the queries took, added up.
        QueryMicroseconds "query_microseconds",
        /// Questions that waited in vain for a query to begin.
        GivenUp "given_up",
        /// Messages that DNS listeners received.
        ClientQueries "client_queries",
        /// Answered with addresses, or that there are none.
        ClientAnswered "client_answered",
        /// Refused by policy.
        ClientRefused "client_refused",
        /// Those of them that were refused for the name's addresses.
        ClientScreened "client_screened",
        /// The name servers failed.
        ClientFailed "client_failed",
        /// No queries, or of a kind that is not answered.
        ClientMalformed "client_malformed",
        /// Too many were waiting.
        ClientOverload "client_overload",
        /// Names remembered for the addresses that sources were told (a gauge).
        HandedNames "handed_names",
        /// Flows to an address that the source was told under a name.
        FlowsNamed "flows_named",
    }
}

/// One page of counters with one writer, so an increment is a load and a store, not a locked instruction.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    words: &'static [AtomicU64],
}

impl Counters {
    pub(crate) fn new(words: &'static [AtomicU64]) -> Self {
        Self { words }
    }

    #[inline]
    pub fn add(&self, counter: impl Into<usize>, n: u64) {
        let word = &self.words[counter.into()];
        word.store(word.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub fn set(&self, counter: impl Into<usize>, value: u64) {
        self.words[counter.into()].store(value, Relaxed);
    }

    #[inline]
    pub fn get(&self, counter: impl Into<usize>) -> u64 {
        self.words[counter.into()].load(Relaxed)
    }
}
