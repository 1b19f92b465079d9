//! First bytes: read until they say what the client asks for, bounded in bytes and time.

use egress_flowlog::flags;
use egress_hello::basic::{Credentials, ProxyLogin};
use egress_hello::connect::{HeadReader, MAX_HEAD};
use egress_hello::http::{HttpError, LenientReader, RequestHead, RequestReader};
use egress_hello::name::Host;
use egress_hello::protocol::{Protocol, recognise};
use egress_hello::socks::{Command, Method, SocksError};
use egress_hello::tls::{HelloReader, MAX_FIRST_BYTES, Sni};
use egress_hello::{Answer, connect, socks, tls};
use egress_policy::{Accept, Accepts, End, Login, Reason};
use rustix::io::Errno;

use super::login::Then;
use super::postgres::{Encryption, Encryptions, NOT_TLS};
use super::refuse::{TLS_HANDSHAKE, TLS_RECORD_TYPES};
use crate::context::{Context, FlowToken, Step};
use crate::flow::{Flow, Work};
use crate::pool::{Buffer, FAIR_BYTES};
use crate::refuse::{METHOD_CONNECT, NO_METHOD};

/// Reads first bytes by the rules of one protocol, and remembers how far.
#[derive(Debug)]
pub(crate) enum Reader {
    /// Whichever of these the bytes turn out to be.
    Any(Accepts, Login),
    /// TLS, plain HTTP, or anything else: then the address decides.
    Captured,
    /// It begins like a request.
    CapturedHttp(RequestReader),
    /// No protocol that is read here; to some servers it may be HTTP all the same.
    CapturedElse(LenientReader),
    Tls(HelloReader),
    /// PostgreSQL, up to the answer to a request for TLS.
    Postgres(Encryptions),
    /// And behind it.
    PostgresHello(HelloReader),
    /// What a client says through a tunnel: a hello, perhaps after requests for encryption, or anything else.
    Tunnel(Encryptions),
    Connect(HeadReader),
    Http(RequestReader),
    SocksGreeting(Login),
    SocksLogin,
    SocksRequest,
}

/// What the first bytes say.
pub(crate) enum Said {
    More,
    Hello(tls::ClientHello),
    Head(connect::ConnectHead),
    Request(Box<RequestHead>),
    /// A destination that is asked for in so many bytes.
    Socks(Host, u16, usize),
    /// Who the client says it is, in so many bytes.
    Login(Credentials, usize),
    /// It offers no way to say who it is, and has to.
    NoLogin,
    /// The first so many bytes are to be answered before the client goes on.
    Answer(usize, [u8; 2]),
    /// The first bytes ask for this before the client goes on.
    Encryption(Encryption),
    /// The first so many bytes are for the upstream, whatever follows.
    Pass(usize),
    /// A session that names no destination.
    Unnamed,
    /// One that may name a destination, in a form that is not read here; a word for it.
    Unread(&'static str),
    /// An HTTP/2 connection: the front reads it.
    Http2,
    NotAccepted,
    Malformed {
        word: &'static str,
        bad_name: bool,
    },
}

fn malformed(word: &'static str) -> Said {
    Said::Malformed { word, bad_name: false }
}

/// Reads a hello.
fn hello(reader: &mut HelloReader, bytes: &[u8]) -> Said {
    match reader.read(bytes) {
        Answer::NeedMore if bytes.len() >= MAX_FIRST_BYTES => malformed("too_large"),
        Answer::NeedMore => Said::More,
        Answer::Found(hello) => Said::Hello(hello),
        Answer::Not => Said::NotAccepted,
        Answer::Malformed(error) => {
            Said::Malformed { word: error.word(), bad_name: error.is_bad_name() }
        }
    }
}

/// Whether the bytes begin an HTTP/2 connection; `None` when they cannot. No method of HTTP/1.1 begins like it.
fn preface(bytes: &[u8]) -> Option<Said> {
    if bytes.first() != Some(&b'P') {
        return None;
    }
    match recognise(bytes) {
        Answer::Found(Protocol::Http2) => Some(Said::Http2),
        Answer::NeedMore => Some(Said::More),
        _ => None,
    }
}

/// A record of TLS that is no hello: there are servers that skip it and read the one behind it.
fn is_record(bytes: &[u8]) -> bool {
    matches!(bytes, [kind, 3, ..] if TLS_RECORD_TYPES.contains(kind))
}

impl Said {
    fn of_request(answer: Answer<RequestHead, HttpError>) -> Self {
        match answer {
            Answer::NeedMore => Self::More,
            Answer::Found(head) => Self::Request(Box::new(head)),
            Answer::Not => Self::NotAccepted,
            Answer::Malformed(error) => {
                Self::Malformed { word: error.word(), bad_name: error.is_bad_name() }
            }
        }
    }
}

impl Reader {
    pub(crate) fn new(accepts: Accepts, login: Login) -> Self {
        match accepts.one() {
            Accept::Connect => Self::Connect(HeadReader::new()),
            Accept::Http => Self::Http(RequestReader::new()),
            Accept::Socks5 => Self::SocksGreeting(login),
            Accept::Tls | Accept::Tcp | Accept::Dns => Self::Tls(HelloReader::new()),
            Accept::Postgres => Self::Postgres(Encryptions::default()),
            Accept::Transparent => Self::Captured,
            Accept::Several => Self::Any(accepts, login),
        }
    }

    /// For what is said inside a tunnel.
    pub(super) fn of_tunnel() -> Self {
        Self::Tunnel(Encryptions::default())
    }

    /// What the bytes so far may be is still open, and they are sent on.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::CapturedElse(reader) if reader.is_open())
    }

    pub(crate) fn protocol(&self) -> Option<Accept> {
        match self {
            Self::Any(..) | Self::Captured | Self::CapturedElse(_) | Self::Tunnel(_) => None,
            Self::Tls(_) => Some(Accept::Tls),
            Self::Postgres(_) | Self::PostgresHello(_) => Some(Accept::Postgres),
            Self::Connect(_) => Some(Accept::Connect),
            Self::Http(_) | Self::CapturedHttp(_) => Some(Accept::Http),
            Self::SocksGreeting(_) | Self::SocksLogin | Self::SocksRequest => Some(Accept::Socks5),
        }
    }

    /// Reads all bytes so far; refuses to wait for more than the protocol could need.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Said {
        match self {
            Self::Any(accepts, login) => {
                let accept = match recognise(bytes) {
                    Answer::NeedMore => return Said::More,
                    Answer::Found(Protocol::Tls) if accepts.has(Accept::Tls) => Accept::Tls,
                    // PostgreSQL's clients may begin with TLS, too.
                    Answer::Found(Protocol::Tls | Protocol::Postgres) => Accept::Postgres,
                    // A listener of one of the two says in its own words that it is not for the other.
                    Answer::Found(protocol @ (Protocol::Http | Protocol::Http2)) => {
                        let tunnel = protocol == Protocol::Http2 || bytes.starts_with(b"CONNECT ");
                        match (accepts.has(Accept::Connect), accepts.has(Accept::Http)) {
                            (true, true) if tunnel => Accept::Connect,
                            (true, false) => Accept::Connect,
                            _ => Accept::Http,
                        }
                    }
                    Answer::Found(Protocol::Socks5) => Accept::Socks5,
                    Answer::Found(_) | Answer::Not => return Said::NotAccepted,
                };
                if !accepts.has(accept) {
                    return Said::NotAccepted;
                }
                *self = Self::new(Accepts::only(accept), *login);
                self.read(bytes)
            }
            Self::Captured => match recognise(bytes) {
                Answer::NeedMore => Said::More,
                Answer::Found(Protocol::Tls) => {
                    *self = Self::Tls(HelloReader::new());
                    self.read(bytes)
                }
                Answer::Found(Protocol::Http2) => Said::Unread("http2"),
                Answer::Found(Protocol::ProxyHeader) => Said::Unread("proxy_header"),
                Answer::Found(Protocol::Http) if bytes.starts_with(b"CONNECT ") => {
                    Said::Unread(METHOD_CONNECT)
                }
                Answer::Found(Protocol::Http) => {
                    *self = Self::CapturedHttp(RequestReader::new());
                    self.read(bytes)
                }
                Answer::Found(Protocol::Postgres) => {
                    *self = Self::Postgres(Encryptions::default());
                    self.read(bytes)
                }
                _ if is_record(bytes) => Said::Unread("record_type"),
                _ if bytes.len() == 1 && TLS_RECORD_TYPES.contains(&bytes[0]) => Said::More,
                _ => {
                    *self = Self::CapturedElse(LenientReader::default());
                    self.read(bytes)
                }
            },
            Self::CapturedHttp(reader) => match reader.read(bytes) {
                // Other protocols of words in capitals may end their lines in another way, and hold any byte.
                answer @ (Answer::Not | Answer::Malformed(_)) => {
                    *self = Self::CapturedElse(LenientReader::default());
                    match self.read(bytes) {
                        Said::Unread(_) if answer != Answer::Not => Said::of_request(answer),
                        said => said,
                    }
                }
                answer => Said::of_request(answer),
            },
            // Its bytes are read once: they go on their way, and what follows them is looked at.
            Self::CapturedElse(reader) => match reader.read(bytes) {
                Answer::NeedMore => Said::Pass(bytes.len()),
                Answer::Found(()) => Said::Unread("request_line"),
                Answer::Not | Answer::Malformed(_) => Said::NotAccepted,
            },
            Self::Tls(reader) => hello(reader, bytes),
            Self::Postgres(requests) => match requests.read(bytes) {
                Answer::NeedMore if bytes.first() == Some(&TLS_HANDSHAKE) => {
                    *self = Self::PostgresHello(HelloReader::new());
                    self.read(bytes)
                }
                Answer::NeedMore => Said::More,
                Answer::Found(encryption) => {
                    if encryption == Encryption::Tls {
                        *self = Self::PostgresHello(HelloReader::new());
                    }
                    Said::Encryption(encryption)
                }
                Answer::Not if bytes.first() == Some(&TLS_HANDSHAKE) => {
                    *self = Self::PostgresHello(HelloReader::new());
                    self.read(bytes)
                }
                Answer::Not if recognise(bytes) == Answer::Found(Protocol::Postgres) => {
                    Said::Unnamed
                }
                // To whom encryption was declined is a client of PostgreSQL.
                Answer::Not if requests.any() => malformed(NOT_TLS),
                Answer::Not => Said::NotAccepted,
                Answer::Malformed(word) => malformed(word),
            },
            Self::PostgresHello(reader) => match hello(reader, bytes) {
                Said::NotAccepted => malformed(NOT_TLS),
                said => said,
            },
            Self::Tunnel(requests) => match requests.read(bytes) {
                Answer::NeedMore if bytes.first() == Some(&0) => Said::More,
                Answer::Found(_) => Said::Pass(Encryption::LEN),
                Answer::Malformed(word) => malformed(word),
                _ => {
                    *self = Self::Tls(HelloReader::new());
                    self.read(bytes)
                }
            },
            Self::Connect(reader) => preface(bytes).unwrap_or_else(|| match reader.read(bytes) {
                Answer::NeedMore if bytes.len() > MAX_HEAD => malformed("head_too_large"),
                Answer::NeedMore => Said::More,
                Answer::Found(head) => Said::Head(head),
                Answer::Not => Said::NotAccepted,
                Answer::Malformed(error) => {
                    Said::Malformed { word: error.word(), bad_name: error.is_bad_name() }
                }
            }),
            Self::Http(reader) => match reader.read(bytes) {
                Answer::Not if bytes.starts_with(b"CONNECT ") => malformed(METHOD_CONNECT),
                answer => Said::of_request(answer),
            },
            Self::SocksGreeting(login) => match socks::read_greeting(bytes) {
                Answer::NeedMore => Said::More,
                // Whoever could say who it is, is asked.
                Answer::Found(greeting) if greeting.password && *login != Login::Off => {
                    *self = Self::SocksLogin;
                    Said::Answer(greeting.len, Method::Password.bytes())
                }
                Answer::Found(_) if *login == Login::Required => Said::NoLogin,
                Answer::Found(greeting) if greeting.no_auth => {
                    *self = Self::SocksRequest;
                    Said::Answer(greeting.len, Method::NoAuth.bytes())
                }
                Answer::Found(_) => malformed(NO_METHOD),
                Answer::Not => Said::NotAccepted,
                Answer::Malformed(error) => malformed(error.word()),
            },
            Self::SocksLogin => match socks::read_login(bytes) {
                Answer::NeedMore => Said::More,
                Answer::Found(login) => {
                    let credentials = Credentials::new(login.user, login.password.expose());
                    credentials.map_or(malformed(SocksError::UserEmpty.word()), |credentials| {
                        Said::Login(credentials, login.len)
                    })
                }
                Answer::Not => Said::NotAccepted,
                Answer::Malformed(error) => malformed(error.word()),
            },
            Self::SocksRequest => match socks::read_request(bytes) {
                Answer::NeedMore => Said::More,
                Answer::Found(request) => match request.command {
                    Command::Connect { host, port } => Said::Socks(host, port, request.len),
                    Command::Bind | Command::UdpAssociate => {
                        malformed(SocksError::CommandUnknown.word())
                    }
                },
                Answer::Not => Said::NotAccepted,
                Answer::Malformed(error) => {
                    Said::Malformed { word: error.word(), bad_name: error.is_bad_name() }
                }
            },
        }
    }
}

impl Context {
    /// Reads what has come and goes on as soon as it is enough.
    pub(crate) fn hear(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        if let Some(step) = self.hear_ahead(token, flow) {
            return step;
        }
        if let Some(step) = self.hear_late(token, flow) {
            return step;
        }
        loop {
            let read = match self.receive(flow) {
                Ok(read) => read,
                Err(step) => return step,
            };
            if matches!(flow.work, Work::Hear(None)) {
                self.request_begins(token, flow);
            }
            let came = &self.lender.scratch[..read];
            let bytes = match std::mem::replace(&mut flow.work, Work::Moving) {
                Work::Hear(Some(mut so_far)) => {
                    so_far.push(came);
                    so_far
                }
                Work::Hear(None) => {
                    let reader = self.reader(flow);
                    self.lender.buffers.holding(came).heard_by(reader)
                }
                other => {
                    flow.work = other;
                    return Step::Stay;
                }
            };
            if let Some(step) = self.understand(token, flow, bytes) {
                return step;
            }
        }
    }

    /// Reads into the shared buffer; what to do where nothing has come.
    pub(super) fn receive(&mut self, flow: &mut Flow) -> Result<usize, Step> {
        if !flow.client.readable {
            return Err(Step::Stay);
        }
        let read = match flow.client.recv(&mut self.lender.scratch[..FAIR_BYTES]) {
            Ok(0) => return Err(self.left(flow)),
            Ok(read) => read,
            Err(Errno::AGAIN) => {
                flow.client.readable = false;
                return Err(Step::Stay);
            }
            Err(_) => return Err(self.left(flow)),
        };
        if read < FAIR_BYTES {
            flow.client.drained();
        }
        Ok(read)
    }

    /// Goes on by what the first bytes say; `None` while they do not say enough.
    pub(super) fn understand(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        mut bytes: Buffer,
    ) -> Option<Step> {
        let said = loop {
            match bytes.hear() {
                Said::Answer(taken, answer) => {
                    bytes.advance(taken);
                    // The first bytes into the empty buffer of a new socket: they go whole or not at all.
                    if egress_sys::send(flow.client.fd(), &answer) != Ok(answer.len()) {
                        return Some(self.left(flow));
                    }
                }
                Said::Encryption(encryption) => {
                    bytes.advance(Encryption::LEN);
                    flow.postgres_tls = encryption == Encryption::Tls;
                    if egress_sys::send(flow.client.fd(), &[encryption.answer()]) != Ok(1) {
                        return Some(self.left(flow));
                    }
                }
                said => break said,
            }
        };
        if flow.accept == Accept::Several
            && let Some(accept) = bytes.protocol()
        {
            flow.accept = accept;
        }
        if let Said::More = said {
            let too_much = bytes.len() > FAIR_BYTES && self.lender.buffers.scarce();
            flow.work = Work::Hear(Some(bytes));
            return too_much.then(|| self.refuse(token, flow, Reason::Overloaded, End::Refused));
        }
        flow.work = Work::Resolve(bytes);
        flow.first_bytes_us = flow.age_us();
        Some(self.heard(token, flow, said))
    }

    pub(super) fn reader(&self, flow: &Flow) -> Reader {
        // Who has asked for something by HTTP has chosen.
        let chosen = flow.http().map(|_| Accepts::only(Accept::Http));
        Reader::new(chosen.unwrap_or_else(|| self.accepts(flow)), self.login(flow))
    }

    /// The protocols of the flow's listener.
    pub(super) fn accepts(&self, flow: &Flow) -> Accepts {
        if flow.accept != Accept::Several {
            return Accepts::only(flow.accept);
        }
        let policy = self.policy();
        let listener = policy.listener(flow.listener);
        listener.map_or(Accepts::only(Accept::Tls), |listener| listener.accept)
    }

    fn left(&mut self, flow: &mut Flow) -> Step {
        flow.reason = Reason::ClientLeft;
        Step::End(End::ClientGone)
    }

    fn heard(&mut self, token: FlowToken, flow: &mut Flow, said: Said) -> Step {
        match said {
            Said::More | Said::Answer(..) | Said::Encryption(_) => Step::Stay,
            Said::Login(credentials, taken) => {
                if let Work::Resolve(bytes) = &mut flow.work {
                    bytes.wipe(taken);
                }
                self.log_in(token, flow, credentials, Then::SocksRequest)
            }
            Said::Unread(word) => {
                flow.beside.get_or_insert_default().unread = Some(word);
                self.judge_unnamed(token, flow)
            }
            Said::NoLogin => self.refuse(token, flow, Reason::LoginRequired, End::Refused),
            Said::Unnamed if flow.accept == Accept::Transparent => self.judge_unnamed(token, flow),
            Said::Unnamed => self.refuse(token, flow, Reason::NoName, End::Refused),
            Said::Pass(_) => self.judge_unnamed(token, flow),
            Said::NotAccepted if flow.accept == Accept::Transparent && flow.http().is_none() => {
                self.judge_unnamed(token, flow)
            }
            Said::Http2 => self.hand_over(token, flow, false),
            Said::NotAccepted => self.refuse(token, flow, Reason::NotAccepted, End::Refused),
            Said::Malformed { word, bad_name } => {
                flow.other = Some(word.into());
                let reason = if bad_name { Reason::BadName } else { Reason::Malformed };
                self.refuse(token, flow, reason, End::Refused)
            }
            Said::Hello(hello) => {
                if hello.ech {
                    flow.flags |= flags::ECH;
                }
                match hello.sni {
                    Sni::Name(name) => {
                        let port = self.listener_port(flow);
                        self.judge(token, flow, Host::Name(name), port)
                    }
                    Sni::IpLiteral(ip)
                        if flow.accept == Accept::Transparent
                            && flow.destination != Some(Host::Ip(ip)) =>
                    {
                        flow.other = Some(ip.to_string().into());
                        self.refuse(token, flow, Reason::NameMismatch, End::Refused)
                    }
                    Sni::Absent | Sni::IpLiteral(_) if flow.accept == Accept::Transparent => {
                        self.judge_unnamed(token, flow)
                    }
                    // A TLS listener learns the destination from the name alone: without one there is nowhere to go.
                    Sni::Absent | Sni::IpLiteral(_) => {
                        self.refuse(token, flow, Reason::NoName, End::Refused)
                    }
                }
            }
            Said::Head(head) => {
                flow.prefers = head.prefers;
                if let Work::Resolve(bytes) = &mut flow.work {
                    // What follows the head belongs to the tunnel.
                    bytes.wipe(head.head_len);
                }
                self.judge_known(token, flow, head.login, head.host, head.port)
            }
            Said::Request(head) => self.requested(token, flow, *head),
            Said::Socks(host, port, taken) => {
                if let Work::Resolve(bytes) = &mut flow.work {
                    bytes.advance(taken);
                }
                // A policy may have come since the greeting that asks for a login.
                self.judge_known(token, flow, ProxyLogin::Absent, host, port)
            }
        }
    }

    /// A captured client has not said a word: its server speaks first, or it is slow.
    pub(crate) fn silent(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        let begun = matches!(flow.work, Work::Hear(Some(_)));
        let patience = self.policy().snapshot.settings().timeouts.first_bytes;
        let until =
            flow.heard_from_ns() + u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX / 4);
        if begun && self.now_ns() < until {
            self.wake_at(token, until.div_ceil(1_000_000));
            return Step::Stay;
        }
        if begun {
            return self.refuse(token, flow, Reason::FirstBytesTimeout, End::Refused);
        }
        flow.work = Work::Resolve(self.lender.buffers.holding(&[]));
        self.judge_unnamed(token, flow)
    }

    /// Where a hello's name comes without a port.
    fn listener_port(&self, flow: &Flow) -> u16 {
        if flow.accept == Accept::Transparent {
            return flow.port;
        }
        self.policy().listener(flow.listener).map_or(443, |listener| listener.port)
    }
}
