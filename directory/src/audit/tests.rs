use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::testing::Scratch;

fn entry(number: u64) -> Entry {
    let at = UNIX_EPOCH + Duration::from_millis(1_790_000_000_123);
    Entry {
        revision: Some(number),
        ..Entry::new(at, &By::Operator, "token", "host", "a", "expires in 3600 s".into())
    }
}

#[test]
fn what_was_written_is_read_newest_last() {
    let scratch = Scratch::new("audit");
    assert_eq!(read(scratch.path(), 10).unwrap(), []);
    let mut log = Log::open(scratch.path()).unwrap();
    log.append(&[]).unwrap();
    log.append(&[entry(1), entry(2)]).unwrap();
    // Another process appends to the same file, and one died in the middle of a line.
    Log::open(scratch.path()).unwrap().append(&[entry(3)]).unwrap();
    fs::write(scratch.path().join("audit.1.log"), "{\"at_ms\":7").unwrap();
    assert_eq!(read(scratch.path(), 10).unwrap(), [entry(1), entry(2), entry(3)]);
    assert_eq!(read(scratch.path(), 2).unwrap(), [entry(2), entry(3)]);
    let shown = entry(5).to_string();
    assert_eq!(shown, "2026-09-21T14:13:20.123Z  r5  operator  token  host a: expires in 3600 s");
}

#[test]
fn it_does_not_grow_without_bound() {
    let scratch = Scratch::new("audit-turns");
    let mut log = Log::open(scratch.path()).unwrap();
    let files = u64::try_from(AUDIT_FILES_MAX).unwrap() + 2;
    for number in 1..=files {
        log.append(&[entry(number)]).unwrap();
        log.bytes = AUDIT_FILE_BYTES_MAX;
    }
    let kept = read(scratch.path(), 100).unwrap();
    let numbers: Vec<_> = kept.iter().filter_map(|entry| entry.revision).collect();
    assert_eq!(numbers, (3..=files).collect::<Vec<_>>());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), AUDIT_FILES_MAX);
}
