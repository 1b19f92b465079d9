//! PostgreSQL's first messages, sound and broken, and the refusal that psql prints.
#![allow(clippy::panic, reason = "a failed test says what it got")]

use egress_hello::{
    Answer,
    postgres::{First, FirstMessage, MAX_STARTUP, StartupError, error_response, read_first},
};

fn message(code: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + rest.len()).expect("short");
    [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
}

/// The answer to `bytes`; every shorter part of them has the same one or none yet.
fn read(bytes: &[u8]) -> Answer<FirstMessage, StartupError> {
    let whole = read_first(bytes);
    for end in 0..bytes.len() {
        let part = read_first(&bytes[..end]);
        assert!(part == Answer::NeedMore || part == whole, "{part:?} became {whole:?}");
    }
    whole
}

#[test]
fn sound_ones() {
    const V3: u32 = 3 << 16;
    for (kind, bytes) in [
        (First::SslRequest, message(80_877_103, b"")),
        (First::GssRequest, message(80_877_104, b"")),
        (First::CancelRequest, message(80_877_102, &[0, 0, 0, 7, 1, 2, 3, 4])),
        (First::CancelRequest, message(80_877_102, &[7; 260])),
        (First::Startup, message(V3, b"user\0app\0database\0ledger\0\0")),
        (First::Startup, message(V3 | 2, b"user\0app\0options\0\0\0")),
    ] {
        let len = bytes.len();
        assert_eq!(read(&bytes), Answer::Found(FirstMessage { kind, len }));
        let followed = [&bytes[..], b"\x16\x03\x01"].concat();
        assert_eq!(read_first(&followed), Answer::Found(FirstMessage { kind, len }));
    }
}

#[test]
fn broken_ones() {
    const V3: u32 = 3 << 16;
    for (word, bytes) in [
        ("postgres_length", vec![0, 0, 0, 7]),
        ("postgres_length", vec![0, 0, 0x27, 0x11]),
        ("postgres_length", vec![0xff; 4]),
        ("postgres_length", message(80_877_103, b"x")),
        ("postgres_length", message(80_877_102, b"")),
        ("postgres_length", message(80_877_102, &[0; 261])),
        ("postgres_version", message(2 << 16, b"user\0a\0\0")),
        ("postgres_version", message(80_877_105, b"")),
        ("postgres_parameters", message(V3, b"")),
        ("postgres_parameters", message(V3, b"\0")),
        ("postgres_parameters", message(V3, b"database\0a\0\0")),
        ("postgres_parameters", message(V3, b"user\0\0\0")),
        ("postgres_parameters", message(V3, b"user\0a\0")),
        ("postgres_parameters", message(V3, b"user\0a\0database\0\0")),
        ("postgres_parameters", message(V3, b"user\0a\0\0b\0\0")),
    ] {
        match read(&bytes) {
            Answer::Malformed(error) => assert_eq!(error.word(), word, "{bytes:?}"),
            other => panic!("{word}: {other:?}: {bytes:?}"),
        }
    }
    let longest =
        message(V3, &[b"user\0".to_vec(), vec![b'a'; MAX_STARTUP - 15], vec![0, 0]].concat());
    assert_eq!(longest.len(), MAX_STARTUP);
    assert!(matches!(read_first(&longest), Answer::Found(_)));
}

#[test]
fn a_refusal_has_severity_code_message_and_hint() {
    let told = error_response("28000", "Blocked\0 here.", "Ask the owners.");
    let fields = b"SFATAL\0VFATAL\0C28000\0MBlocked here.\0HAsk the owners.\0\0";
    assert_eq!(told[0], b'E');
    assert_eq!(u32::from_be_bytes([told[1], told[2], told[3], told[4]]) as usize, told.len() - 1);
    assert_eq!(&told[5..], fields);
    assert!(error_response("28000", "No.", "").ends_with(b"MNo.\0\0"));
}
