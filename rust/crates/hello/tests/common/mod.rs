//! Builds ClientHellos, sound and broken ones, and cuts them up.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::{fs, path::Path};

use egress_hello::{
    Answer,
    connect::{ConnectHead, HeadError, HeadReader},
    tls::{ClientHello, HelloReader, TlsError},
};

pub type Hello = Answer<ClientHello, TlsError>;
pub type Head = Answer<ConnectHead, HeadError>;

/// A vector with a one-byte length.
pub fn vec8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).expect("fits")], content].concat()
}

/// A vector with a two-byte length.
pub fn vec16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).expect("fits").to_be_bytes(), content].concat()
}

pub fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vec16(data)].concat()
}

pub fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &vec16(&[&[0], &vec16(name)[..]].concat()))
}

pub fn alpn(names: &[&[u8]]) -> Vec<u8> {
    extension(16, &vec16(&names.iter().flat_map(|name| vec8(name)).collect::<Vec<u8>>()))
}

pub fn versions(list: &[u16]) -> Vec<u8> {
    extension(
        43,
        &vec8(&list.iter().flat_map(|version| version.to_be_bytes()).collect::<Vec<u8>>()),
    )
}

/// A key_share of one group.
pub fn key_share(group: u16, length: usize) -> Vec<u8> {
    let share = [group.to_be_bytes().to_vec(), vec16(&vec![0x5a; length])].concat();
    extension(51, &vec16(&share))
}

pub fn ech(payload: &[u8]) -> Vec<u8> {
    extension(0xfe0d, &[&[0, 0, 1, 0, 1, 7], &vec16(&[9; 32])[..], &vec16(payload)].concat())
}

/// The parts of a hello's body; each test breaks the one that it is about.
pub struct Builder {
    pub version: [u8; 2],
    pub random: Vec<u8>,
    pub session: Vec<u8>,
    pub ciphers: Vec<u8>,
    pub compression: Vec<u8>,
    /// The block with its length; `None` leaves it out.
    pub extensions: Option<Vec<u8>>,
}

impl Builder {
    /// A TLS 1.3 hello with these extensions after supported_versions.
    pub fn new(extensions: &[Vec<u8>]) -> Self {
        let block = [versions(&[0x0a0a, 0x0304, 0x0303]), extensions.concat()].concat();
        Self {
            version: [3, 3],
            random: vec![0xab; 32],
            session: vec8(&[0xcd; 32]),
            ciphers: vec16(&[0x1a, 0x1a, 0x13, 1, 0x13, 2]),
            compression: vec8(&[0]),
            extensions: Some(vec16(&block)),
        }
    }

    pub fn body(&self) -> Vec<u8> {
        let extensions = self.extensions.clone().unwrap_or_default();
        [
            &self.version[..],
            &self.random,
            &self.session,
            &self.ciphers,
            &self.compression,
            &extensions,
        ]
        .concat()
    }

    /// In one record.
    pub fn bytes(&self) -> Vec<u8> {
        record(&message(&self.body()))
    }
}

/// The handshake header before a hello's body.
pub fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("fits").to_be_bytes();
    [&[1], &length[1..], body].concat()
}

pub fn record(payload: &[u8]) -> Vec<u8> {
    [&[0x16, 3, 1], &vec16(payload)[..]].concat()
}

/// The handshake bytes in records of `size` bytes each.
pub fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(record).collect()
}

/// A hello like that of a browser: GREASE everywhere, a post-quantum key share, ECH.
pub fn browser(name: &[u8]) -> Builder {
    Builder::new(&[
        extension(0x2a2a, &[]),
        key_share(0x11ec, 1216),
        alpn(&[b"h2", b"http/1.1"]),
        ech(&[7; 144]),
        extension(10, &vec16(&[0x3a, 0x3a, 0x11, 0xec, 0, 29])),
        sni(name),
        extension(0x8a8a, &[0]),
    ])
}

/// A hello of exactly `length` body bytes, filled up with padding (RFC 7685).
pub fn padded(length: usize) -> Vec<u8> {
    let bare = Builder::new(&[sni(b"long.example"), extension(21, &[])]).body().len();
    let (mut rest, mut extensions) = (length - bare, vec![sni(b"long.example")]);
    let first = rest.min(60_000);
    extensions.push(extension(21, &vec![0; first]));
    rest -= first;
    if rest > 0 {
        extensions
            .push(extension(0x4a4a, &vec![0; rest.checked_sub(4).expect("room for a header")]));
    }
    let body = Builder::new(&extensions).body();
    assert_eq!(body.len(), length);
    body
}

pub fn read_hello(bytes: &[u8]) -> Hello {
    HelloReader::new().read(bytes)
}

pub fn read_head(bytes: &[u8]) -> Head {
    HeadReader::new().read(bytes)
}

/// Feeds the bytes up to each of `cuts` in turn, then all: the last answer, which may not change
/// once there was one.
pub fn feed<T, M>(
    bytes: &[u8],
    cuts: &[usize],
    mut read: impl FnMut(&[u8]) -> Answer<T, M>,
) -> Answer<T, M>
where
    Answer<T, M>: PartialEq + std::fmt::Debug,
{
    let mut answer = Answer::NeedMore;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        let next = read(&bytes[..cut]);
        if answer != Answer::NeedMore {
            assert_eq!(answer, next, "an answer changed when more bytes came");
        }
        answer = next;
    }
    answer
}

/// The captured hellos by the name of their client.
pub fn captured() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hellos");
    let mut hellos: Vec<_> = fs::read_dir(folder)
        .expect("the folder of hellos")
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let label = path.file_name()?.to_str()?.strip_suffix(".hex")?.to_owned();
            Some((label, unhex(&fs::read_to_string(&path).expect("text"))))
        })
        .collect();
    hellos.sort();
    hellos
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim();
    let pairs = (0..digits.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal")).collect()
}
