use std::time::{Duration, UNIX_EPOCH};

use directory_api::stored::Restored;
use directory_api::{CapsuleRecord, CapsuleState, RestoreId};
use overlay_proto::{CapsuleId, Generation, Locators};

use super::*;
use crate::extras::{ExtraData, ExtraRecord};
use crate::store::{SpentToken, StoredHost};
use crate::testing::Scratch;

fn facts() -> Contents {
    let capsule = |number: u8| CapsuleRecord {
        id: CapsuleId::from_bytes([number; 16]),
        name: format!("c{number}").parse().unwrap(),
        owner: "me".parse().unwrap(),
        locators: Locators { v4: [10, 88, 0, number].into(), v6: "fd88::1".parse().unwrap() },
        host: "a".parse().unwrap(),
        generation: Generation::new(7),
        state: CapsuleState::Running,
        offer: None,
        last_outcome: None,
        suspension: None,
        created_at: UNIX_EPOCH + Duration::from_secs(1),
        registration: [number; 16],
    };
    let host = |name: &str, address: Option<&str>| StoredHost {
        name: name.parse().unwrap(),
        operator: true,
        address: address.map(|address| address.parse().unwrap()),
        alive: address.is_some(),
    };
    let silent = StoredHost { alive: false, ..host("c", Some("192.0.2.3:4433")) };
    let extra = ExtraRecord { below: vec![], ttl: 60, data: ExtraData::Txt(vec![b"text".to_vec()]) };
    Contents {
        revision: 99,
        locator_next: 12,
        capsules: vec![capsule(1), capsule(2)],
        hosts: vec![host("a", Some("192.0.2.1:4433")), host("b", None), silent],
        spent: vec![SpentToken {
            nonce: [1; 16],
            expires_at: UNIX_EPOCH + Duration::from_secs(5),
            key_hash: [2; 32],
        }],
        host_owners: vec![("b".parse().unwrap(), vec!["ann".parse().unwrap()])],
        rules: vec![],
        extras: vec![(CapsuleId::from_bytes([1; 16]), vec![extra])],
        restored: Some(Restored {
            id: RestoreId::from_bytes([3; 16]),
            revision: 4,
            taken_at: UNIX_EPOCH,
            awaited: vec!["b".parse().unwrap()],
        }),
    }
}

fn backup() -> Backup {
    let files = vec![KeptFile { name: "ca.pem".into(), content: b"-----BEGIN".to_vec() }];
    Backup::new("capsule.internal".into(), [5; 32], UNIX_EPOCH + Duration::from_millis(1_700), facts(), files)
}

#[test]
fn a_backup_is_read_back() {
    let bytes = backup().encode(None).unwrap();
    let read = Backup::decode(&bytes, None).unwrap();
    assert_eq!(read, backup());
    assert_eq!((read.head.capsules, read.head.hosts, read.head.revision), (2, 3, 99));
    assert_eq!(decode_facts(&encode_facts(&facts())).unwrap(), facts());
}

#[test]
fn what_is_cut_off_or_changed_anywhere_is_refused() {
    let bytes = backup().encode(None).unwrap();
    for length in 0..bytes.len() {
        let error = Backup::decode(&bytes[..length], None).unwrap_err();
        let cut = matches!(error, BackupError::CutOff { .. }) || length == 0;
        assert!(cut, "{length} bytes: {error}");
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        assert!(Backup::decode(&changed, None).is_err(), "byte {at}");
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert!(matches!(Backup::decode(&longer, None), Err(BackupError::Damaged)));
}

#[test]
fn other_files_and_later_formats_are_told_apart() {
    for foreign in [b"".as_slice(), b"age-encryption.org/v1", &[0; 200]] {
        assert!(matches!(Backup::decode(foreign, None), Err(BackupError::Foreign)));
    }
    let mut newer = backup().encode(None).unwrap();
    newer[19] = 2;
    assert!(matches!(Backup::decode(&newer, None), Err(BackupError::Newer { found: 2 })));
}

#[test]
fn a_sealed_backup_needs_its_passphrase() {
    let scratch = Scratch::new("sealed-backup");
    let passphrase = |text: &str| {
        let path = scratch.path().join("passphrase");
        std::fs::write(&path, text).unwrap();
        Passphrase::read(&path).unwrap()
    };
    let right = passphrase("correct horse battery");
    let bytes = backup().encode(Some(&right)).unwrap();
    assert!(!bytes.windows(10).any(|window| window == b"-----BEGIN"), "the keys are encrypted");
    assert_eq!(Backup::decode(&bytes, Some(&right)).unwrap(), backup());
    assert!(matches!(Backup::decode(&bytes, None), Err(BackupError::Sealed)));
    let wrong = passphrase("wrong horse battery");
    assert!(matches!(Backup::decode(&bytes, Some(&wrong)), Err(BackupError::Passphrase(_))));
    let plain = backup().encode(None).unwrap();
    assert!(matches!(Backup::decode(&plain, Some(&right)), Err(BackupError::NotSealed)));
}

#[test]
fn a_file_is_written_whole_and_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = Scratch::new("backup-file");
    let path = scratch.path().join("backup");
    // What an earlier attempt left, readable by everybody.
    std::fs::write(scratch.path().join("backup.new"), b"half").unwrap();
    file::write(&path, b"one").unwrap();
    file::write(&path, b"two").unwrap();
    assert_eq!(file::read(&path).unwrap(), b"two");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    assert!(file::write(&scratch.path().join("none/backup"), b"x").is_err());
}
