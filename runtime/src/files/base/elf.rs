//! The build id of an ELF file.

use std::io::Read;

use crate::files::limits;

const NOTE_SEGMENT: u32 = 4;
const GNU_BUILD_ID: u32 = 3;

/// The GNU build id, where the first bytes of the file are little-endian ELF with such a note.
pub(super) fn build_id(file: impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    file.take(limits::BUILD_ID_SEARCH_BYTES_MAX as u64).read_to_end(&mut head)?;
    Ok(find(&head))
}

fn find(head: &[u8]) -> Option<Vec<u8>> {
    if head.get(..4)? != b"\x7fELF" || *head.get(5)? != 1 {
        return None;
    }
    let wide = *head.get(4)? == 2;
    let (table, entry_bytes, count) = if wide {
        (number(head, 32, 8)?, number(head, 54, 2)?, number(head, 56, 2)?)
    } else {
        (number(head, 28, 4)?, number(head, 42, 2)?, number(head, 44, 2)?)
    };
    for index in 0..count {
        let at = table.checked_add(index.checked_mul(entry_bytes)?)?;
        if number(head, at, 4)? != u64::from(NOTE_SEGMENT) {
            continue;
        }
        let (offset, length) = if wide {
            (number(head, at.checked_add(8)?, 8)?, number(head, at.checked_add(32)?, 8)?)
        } else {
            (number(head, at.checked_add(4)?, 4)?, number(head, at.checked_add(16)?, 4)?)
        };
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        if let Some(id) = head.get(start..end).and_then(in_notes) {
            return Some(id);
        }
    }
    None
}

fn in_notes(mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let name_bytes = usize::try_from(number(notes, 0, 4)?).ok()?;
        let id_bytes = usize::try_from(number(notes, 4, 4)?).ok()?;
        let kind = number(notes, 8, 4)?;
        let name = notes.get(12..12_usize.checked_add(name_bytes)?)?;
        let start = 12_usize.checked_add(name_bytes.checked_next_multiple_of(4)?)?;
        let id = notes.get(start..start.checked_add(id_bytes)?)?;
        if kind == u64::from(GNU_BUILD_ID) && name == b"GNU\0" {
            return Some(id.to_vec());
        }
        notes = notes.get(start.checked_add(id_bytes.checked_next_multiple_of(4)?)?..)?;
    }
}

fn number(bytes: &[u8], at: u64, width: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
}
