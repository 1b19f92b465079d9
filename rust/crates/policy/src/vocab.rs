//! The closed vocabularies of a decision and of a flow's end: each word is defined here and nowhere else.
//! Their numbers are part of the shared-memory layout (see `egress-flowlog`): append, never renumber.

/// Declares an enum over `u8` with its wire number and its word, so that neither can be forgotten.
macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)+ }

        impl $name {
            /// Every word with its number, in order of the numbers.
            pub const WORDS: &'static [(u8, &'static str)] = &[$(($number, $word),)+];

            /// The word that logs, metrics and pages use.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The inverse of `self as u8`; `None` for a number that no version wrote.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.word()) }
        }
    };
}

vocabulary! {
    /// What the decision says of the flow.
    Verdict {
        /// No decision was reached (the first bytes never named a destination).
        None = 0 "none",
        Allow = 1 "allow",
        Deny = 2 "deny",
        /// Audit: would have been denied, was let through.
        WouldDeny = 3 "would_deny",
    }
}

vocabulary! {
    /// Why the decision is what it is.
    Reason {
        None = 0 "none",
        /// An allow rule matched.
        Rule = 1 "rule",
        /// A deny rule matched.
        RuleDeny = 2 "rule_deny",
        DefaultAllow = 3 "default_allow",
        DefaultDeny = 4 "default_deny",
        /// TLS without SNI, or raw bytes without a name, on a listener that needs one.
        NoName = 5 "no_name",
        /// The client named two destinations that differ.
        NameMismatch = 6 "name_mismatch",
        /// The name's addresses were all private (RFC 1918, ULA, CGNAT) and no rule names them.
        PrivateAddress = 7 "private_address",
        /// The addresses were loopback, link-local, metadata, multicast, unspecified, broadcast or reserved.
        ForbiddenAddress = 8 "forbidden_address",
        /// The address is one of the gateway's own listeners.
        OwnAddress = 9 "own_address",
        /// The rule's `connections.max` is reached.
        ConnectionLimit = 10 "connection_limit",
        /// The rule's `connections.new_per_second` is reached.
        ConnectionRate = 11 "connection_rate",
        /// The first bytes are not of a protocol that the listener accepts.
        NotAccepted = 12 "not_accepted",
        /// The first bytes begin as an accepted protocol and then break its rules.
        Malformed = 13 "malformed",
        /// The first bytes name a destination that is not a valid name, address or port.
        BadName = 14 "bad_name",
        /// The first bytes did not arrive in time.
        FirstBytesTimeout = 15 "first_bytes_timeout",
        /// The client left before it named a destination.
        ClientLeft = 16 "client_left",
        /// The new policy denies a flow that an earlier one allowed.
        PolicyChanged = 17 "policy_changed",
        /// The gateway is out of a resource (descriptors, flow slots); see its log.
        Overloaded = 18 "overloaded",
        /// UDP (QUIC) on its way through a transparent listener, which carries TCP only.
        NotCarried = 19 "not_carried",
        /// A listener takes connections from trusted proxies only, and the peer is none.
        UntrustedProxy = 20 "untrusted_proxy",
        /// The listener requires a login, and the client has none.
        LoginRequired = 21 "login_required",
        /// User and password do not go together, or could not be read.
        LoginFailed = 22 "login_failed",
        /// The rule's `budget`, or the source's own by that rule, is spent.
        BudgetSpent = 23 "budget_spent",
    }
}

vocabulary! {
    /// How the flow ended: whose doing, seen from the gateway.
    End {
        /// Still open (live table only).
        Open = 0 "open",
        /// Both sides closed in order.
        Closed = 1 "closed",
        /// Refused by a decision.
        Refused = 2 "refused",
        ClientReset = 3 "client_reset",
        UpstreamReset = 4 "upstream_reset",
        IdleTimeout = 5 "idle_timeout",
        /// Every address refused or reset the connection attempt.
        ConnectRefused = 6 "connect_refused",
        ConnectTimeout = 7 "connect_timeout",
        /// No route, network or host unreachable, or another local error.
        ConnectFailed = 8 "connect_failed",
        /// The name does not exist, or has no address.
        ResolveNoName = 9 "resolve_no_name",
        ResolveTimeout = 10 "resolve_timeout",
        /// The name servers answered with an error, or not sensibly.
        ResolveFailed = 11 "resolve_failed",
        /// The client left while the gateway was still resolving or dialling.
        ClientGone = 12 "client_gone",
        /// Closed because a changed policy denies it.
        PolicyChanged = 13 "policy_changed",
        /// Closed at the end of a drain.
        Drained = 14 "drained",
        /// The gateway lacked a resource: descriptors, ports, memory.
        OutOfResources = 15 "out_of_resources",
        /// The owner was dropped without saying how: a bug, still recorded.
        Aborted = 16 "aborted",
        /// The client was promised TLS in PostgreSQL's words, and the upstream does not take it.
        UpstreamNoTls = 17 "upstream_no_tls",
        /// Its rule's `budget`, or its source's own by that rule, was spent while it was open.
        BudgetSpent = 18 "budget_spent",
    }
}

vocabulary! {
    /// How a listener learns the destination.
    Accept {
        Tls = 1 "tls",
        Connect = 2 "connect",
        Tcp = 3 "tcp",
        Socks5 = 4 "socks5",
        /// One of several, and the first bytes have not said which.
        Several = 5 "several",
        /// Captured on its way: the address that it was for, and the name in its first bytes.
        Transparent = 6 "transparent",
        /// Names are asked for, over UDP and TCP.
        Dns = 7 "dns",
        /// A request of plain HTTP; each has a flow of its own.
        Http = 8 "http",
        /// PostgreSQL: the name in the hello that follows its request for TLS.
        Postgres = 9 "postgres",
    }
}

vocabulary! {
    /// How a source is known; each word is stronger than those before it.
    Evidence {
        /// The address that the connection comes from.
        Address = 0 "address",
        /// A PROXY header of a trusted peer: its address, or a TLV of it.
        ProxyHeader = 1 "proxy_header",
        /// A user whose password was right.
        Login = 2 "login",
        /// A client certificate that was verified.
        Certificate = 3 "certificate",
    }
}

vocabulary! {
    /// Where a live flow stands.
    Stage {
        Free = 0 "free",
        FirstBytes = 1 "first_bytes",
        Resolving = 2 "resolving",
        Connecting = 3 "connecting",
        /// CONNECT is answered; the first bytes inside the tunnel are being read.
        Tunnel = 4 "tunnel",
        Relaying = 5 "relaying",
        Refusing = 6 "refusing",
        /// Denied by a changed policy, within its grace.
        Closing = 7 "closing",
        /// Its rule, or its source by that rule, has no room: it waits until there is some.
        Waiting = 8 "waiting",
    }
}
