//! A file comes back as it was written, and nothing else is ever taken for it.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use age::secrecy::ExposeSecret as _;
use capsule_file::{FileError, Keys, Lock, Manifest, Reader, Section, Writer, seal, unseal, verify};
use overlay_proto::{CapsuleId, ClaimKey, Generation, Locators, OfferId};
use proptest::prelude::*;

fn manifest() -> Manifest {
    Manifest {
        writer: "capsule 0.1.0".into(),
        zone: "capsule.internal".into(),
        capsule: CapsuleId::from_bytes([1; 16]),
        name: "db".parse().unwrap(),
        owner: "root".parse().unwrap(),
        locators: Locators { v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST },
        suspension: OfferId::from_bytes([2; 16]),
        key: ClaimKey::from_bytes([3; 32]),
        generation: Generation::new(4),
        host: "a".parse().unwrap(),
        suspended_at: SystemTime::UNIX_EPOCH,
        sessions: 0,
        contents: serde_json::json!({"more": [1, 2]}),
    }
}

fn write(sections: &[(Section, &str, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), &manifest()).unwrap();
    for (section, name, bytes) in sections {
        writer.section(*section, name).unwrap();
        writer.write_all(bytes).unwrap();
        writer.close().unwrap();
    }
    let written = writer.finish().unwrap();
    assert!(verify(written.as_slice()).is_ok());
    written
}

/// Small, with every kind of frame: open, plain, compressed, close, end.
fn sample() -> Vec<u8> {
    let noise: Vec<u8> = (0..200_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    write(&[
        (Section::Sessions, "", b""),
        (Section::Memory, "pages-1.img", &[0; 3000]),
        (Section::Files, "", &noise),
        (Section::Log, "log", b"hello\n"),
    ])
}

fn read(bytes: &[u8]) -> Vec<(Section, String, Vec<u8>)> {
    let (found, mut reader) = Reader::open(bytes).unwrap();
    assert_eq!(found.name.as_str(), "db");
    let mut all = Vec::new();
    while let Some((section, name)) = reader.next().unwrap() {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        all.push((section, name, content));
    }
    all
}

/// Ends of the frames, by their headers; the first is the end of the prologue.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![32];
    while let Some(&at) = ends.last().filter(|at| **at < bytes.len()) {
        let stored = u32::from_be_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        ends.push(at + 12 + stored as usize + 32);
    }
    ends
}

#[test]
fn every_flipped_byte_is_noticed() {
    let good = sample();
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            let refused = verify(bad.as_slice()).expect_err("a changed file is not taken");
            match refused {
                FileError::Foreign => assert!(at < 8, "byte {at}"),
                // A length that was changed may point behind the end.
                FileError::Damaged { .. } | FileError::Truncated { .. } => assert!(at >= 8, "byte {at}"),
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn every_missing_end_is_noticed() {
    let good = sample();
    for length in 1..good.len() {
        match verify(&good[..length]) {
            Err(FileError::Truncated { at }) => assert_eq!(at, length as u64),
            other => panic!("{length} of {} bytes: {other:?}", good.len()),
        }
    }
    assert!(matches!(verify(&[][..]), Err(FileError::Empty)));
    let ends = boundaries(&good);
    assert_eq!(ends.last(), Some(&good.len()));
    assert!(ends.len() > 12, "{ends:?}");
}

#[test]
fn frames_left_out_repeated_or_exchanged_are_noticed() {
    let good = sample();
    let ends = boundaries(&good);
    let frame = |at: usize| &good[ends[at]..ends[at + 1]];
    let frames = ends.len() - 1;
    for at in 0..frames {
        let without = [&good[..ends[at]], &good[ends[at + 1]..]].concat();
        assert!(verify(without.as_slice()).is_err(), "frame {at} left out");
        let twice = [&good[..ends[at + 1]], frame(at), &good[ends[at + 1]..]].concat();
        assert!(verify(twice.as_slice()).is_err(), "frame {at} repeated");
        if at + 1 < frames {
            let exchanged = [&good[..ends[at]], frame(at + 1), frame(at), &good[ends[at + 2]..]].concat();
            assert!(verify(exchanged.as_slice()).is_err(), "frames {at} and {} exchanged", at + 1);
        }
    }
}

#[test]
fn what_follows_the_end_is_refused() {
    let mut longer = sample();
    let at = longer.len() as u64;
    longer.push(0);
    assert!(matches!(verify(longer.as_slice()), Err(FileError::Trailing { at: found }) if found == at));
    let twice = [sample(), sample()].concat();
    assert!(matches!(verify(twice.as_slice()), Err(FileError::Trailing { .. })));
}

#[test]
fn other_files_are_foreign() {
    for foreign in [&b"#!/bin/sh\n"[..], b"\x7fELF", b"x", &[0; 4096], &[0x89; 40]] {
        assert!(matches!(verify(foreign), Err(FileError::Foreign)));
    }
}

fn locked(lock: &Lock) -> Vec<u8> {
    let mut sealed = seal(Vec::new(), lock).unwrap();
    sealed.write_all(&sample()).unwrap();
    sealed.finish().unwrap()
}

fn opened(bytes: &[u8], keys: &Keys) -> Result<Manifest, FileError> {
    verify(unseal(BufReader::new(bytes), keys)?)
}

#[test]
fn an_encrypted_file_opens_with_its_key_only() {
    let (identity, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    let text = |identity: &age::x25519::Identity| {
        Keys::Identities(format!("# a comment\n{}\n", identity.to_string().expose_secret()))
    };
    let good = locked(&Lock::Recipients(vec![identity.to_public().to_string()]));
    assert!(opened(&good, &text(&identity)).is_ok());
    assert!(matches!(opened(&good, &text(&other)), Err(FileError::WrongKey)));
    assert!(matches!(opened(&good, &Keys::None), Err(FileError::Encrypted)));
    assert!(matches!(opened(&good, &Keys::Passphrase("x".into())), Err(FileError::OtherKey { .. })));
    assert!(matches!(opened(&good, &Keys::Identities("nonsense".into())), Err(FileError::Key(_))));
    assert!(matches!(opened(&sample(), &text(&identity)), Err(FileError::NotEncrypted)));
    // The name of the recipient, the version of age and such stand in the clear: none of it can be changed either.
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(opened(&bad, &text(&identity)).is_err(), "byte {at}");
    }
    for length in 1..good.len() {
        assert!(opened(&good[..length], &text(&identity)).is_err(), "{length} of {} bytes", good.len());
    }
    let bad = locked(&Lock::Recipients(vec![identity.to_public().to_string()]));
    let cut = opened(&bad[..bad.len() - 1], &text(&identity));
    assert!(matches!(cut, Err(FileError::Damaged { .. } | FileError::Truncated { .. })), "{cut:?}");
}

#[test]
fn a_passphrase_opens_what_it_locked() {
    let good = locked(&Lock::Passphrase("swordfish".into()));
    assert!(opened(&good, &Keys::Passphrase("swordfish".into())).is_ok());
    let wrong = opened(&good, &Keys::Passphrase("sword".into()));
    assert!(matches!(wrong, Err(FileError::WrongPassphrase)), "{wrong:?}");
    let other = opened(&good, &Keys::Identities(String::new()));
    assert!(matches!(other, Err(FileError::OtherKey { .. })), "{other:?}");
    assert!(matches!(seal(Vec::new(), &Lock::Passphrase(String::new())), Err(FileError::Key(_))));
    let nobody = seal(Vec::new(), &Lock::Recipients(vec!["age1nobody".into()]));
    assert!(matches!(nobody, Err(FileError::Key(_))));
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let long = (0_usize..3 << 20, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..5000), long]
}

fn sections() -> impl Strategy<Value = Vec<(Section, String, Vec<u8>)>> {
    let kind = prop_oneof![Just(Section::Memory), Just(Section::Files), Just(Section::Log)];
    proptest::collection::vec((kind, "[a-z0-9.-]{0,40}", content()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_written_is_read(all in sections()) {
        let borrowed: Vec<_> = all.iter().map(|(kind, name, bytes)| (*kind, name.as_str(), bytes.as_slice())).collect();
        prop_assert_eq!(read(&write(&borrowed)), all);
    }

    #[test]
    fn random_damage_is_noticed(all in sections(), place in any::<prop::sample::Index>(), flip in 1_u8..) {
        let borrowed: Vec<_> = all.iter().map(|(kind, name, bytes)| (*kind, name.as_str(), bytes.as_slice())).collect();
        let mut bytes = write(&borrowed);
        let at = place.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(verify(bytes.as_slice()).is_err());
    }

    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(verify(bytes.as_slice()).is_err());
        let prologue = &sample()[..32];
        prop_assert!(verify([prologue, &bytes].concat().as_slice()).is_err());
    }
}
