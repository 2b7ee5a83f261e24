use std::path::PathBuf;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("capsule-log-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bytes_of(reader: &mut Reader) -> Vec<u8> {
    let mut all: Vec<u8> = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        all.extend(chunk.bytes);
    }
    all
}

#[test]
fn any_bytes_come_back() {
    let folder = Folder::new("bytes");
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 256) as u8).collect();
    let mut writer = Writer::open(&folder.0).unwrap();
    writer.append(Stream::Out, &bytes).unwrap();
    writer.append(Stream::Err, b"end\n").unwrap();
    let mut reader = Reader::open(&folder.0).unwrap();
    let mut out: Vec<u8> = Vec::new();
    let last = loop {
        let chunk = reader.next_chunk().unwrap().unwrap();
        if chunk.stream == Stream::Err {
            break chunk;
        }
        out.extend(chunk.bytes);
    };
    assert!(out == bytes);
    assert_eq!(last.bytes, b"end\n");
    assert!(last.time.ends_with('Z'));
}

#[test]
fn a_reader_follows_through_a_rotation() {
    let folder = Folder::new("rotation");
    let mut reader = Reader::open(&folder.0).unwrap();
    assert!(reader.next_chunk().unwrap().is_none());
    let mut writer = Writer::with_limit(&folder.0, 1000).unwrap();
    let (mut written, mut read): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
    for n in 0..200 {
        let line = format!("line {n}\n");
        writer.append(Stream::Out, line.as_bytes()).unwrap();
        written.extend(line.as_bytes());
        if n % 7 == 0 {
            read.extend(bytes_of(&mut reader));
        }
    }
    read.extend(bytes_of(&mut reader));
    assert_eq!(read, written);
    assert!(std::fs::metadata(crate::place::log(&folder.0)).unwrap().len() <= 1000);
}

#[test]
fn a_second_writer_goes_on() {
    let folder = Folder::new("again");
    Writer::open(&folder.0).unwrap().append(Stream::Out, b"one ").unwrap();
    Writer::open(&folder.0).unwrap().append(Stream::Out, b"two").unwrap();
    assert_eq!(bytes_of(&mut Reader::open(&folder.0).unwrap()), b"one two");
}
