use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::time::timeout;

use super::*;
use crate::testing::{Ca, Node, SOON, Told, host};

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("capsule-image-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A stream between two hosts; the nodes keep it open.
async fn stream() -> (quinn::SendStream, quinn::RecvStream, [Node; 2]) {
    let ca = Ca::new();
    let (a, mut b) = (ca.node("a"), ca.node("b"));
    let link = a.links.to(&host("b"), b.address).await.unwrap();
    b.up().await;
    let (mut send, _) = link.request().await.unwrap().unwrap();
    // A stream is seen with its first byte.
    send.write_all(&[0]).await.unwrap();
    let Told::Request(mut receive) = b.next().await else { panic!("no stream") };
    receive.read_exact(&mut [0]).await.unwrap();
    (send, receive, [a, b])
}

fn listed(files: &[(&str, u64)]) -> Vec<(String, u64)> {
    files.iter().map(|(name, length)| ((*name).to_owned(), *length)).collect()
}

/// What became of the receiving side, when these bytes are sent and the stream then ends.
async fn received(files: &[(String, u64)], bytes: &[u8], into: &Scratch) -> anyhow::Result<()> {
    let (mut sender, mut receiver, _nodes) = stream().await;
    sender.write_all(bytes).await.unwrap();
    sender.finish().unwrap();
    timeout(SOON, receive(&mut receiver, &into.0, files)).await.expect("no wait for what can't come")
}

#[tokio::test]
async fn an_image_arrives_as_it_was() {
    let (from, to) = (Scratch::new(), Scratch::new());
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 241) as u8).collect();
    for (name, bytes) in [("pages-1.img", &large[..]), ("core.img", b"core"), ("empty.img", b"")] {
        std::fs::write(from.0.join(name), bytes).unwrap();
    }
    std::fs::create_dir(from.0.join("not-a-file")).unwrap();
    let files = list(&from.0).unwrap();
    assert_eq!(files, listed(&[("core.img", 4), ("empty.img", 0), ("pages-1.img", 3_000_001)]));
    let (mut sender, mut receiver, _nodes) = stream().await;
    let (sent, received) =
        tokio::join!(send(&mut sender, &from.0, &files), receive(&mut receiver, &to.0, &files));
    sent.unwrap();
    received.unwrap();
    assert_eq!(list(&to.0).unwrap(), files);
    assert!(std::fs::read(to.0.join("pages-1.img")).unwrap() == large);
    // What comes behind it is not touched.
    sender.write_all(b"next").await.unwrap();
    let mut next = [0; 4];
    receiver.read_exact(&mut next).await.unwrap();
    assert_eq!(&next, b"next");
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    for name in ["", ".", "..", "/", "/etc/passwd", "../up", "a/b", "a/../b", "./a", "a\0b"] {
        let into = Scratch::new();
        assert!(received(&listed(&[(name, 1)]), b"x", &into).await.is_err(), "{name:?}");
        assert_eq!(into.names(), [""; 0], "{name:?}");
    }
}

#[tokio::test]
async fn no_file_is_written_over() {
    let into = Scratch::new();
    assert!(received(&listed(&[("a", 1), ("a", 1)]), b"xy", &into).await.is_err());
    let into = Scratch::new();
    std::os::unix::fs::symlink("/dev/null", into.0.join("link")).unwrap();
    assert!(received(&listed(&[("link", 1)]), b"x", &into).await.is_err());
}

#[tokio::test]
async fn sizes_beyond_the_limits_are_refused_before_anything_is_written() {
    let into = Scratch::new();
    let many: Vec<(String, u64)> = (0..=IMAGE_FILES_MAX).map(|number| (format!("f{number}"), 0)).collect();
    assert!(received(&many, b"", &into).await.is_err());
    assert!(received(&listed(&[("a", IMAGE_BYTES_MAX + 1)]), b"", &into).await.is_err());
    assert!(received(&listed(&[("a", IMAGE_BYTES_MAX), ("b", 1)]), b"", &into).await.is_err());
    assert_eq!(into.names(), [""; 0]);
}

/// Lengths whose sum is no number any more are too large, too.
#[tokio::test]
async fn sizes_that_overflow_are_refused() {
    let into = Arc::new(Scratch::new());
    let (files, scratch) = (listed(&[("a", u64::MAX), ("b", 2)]), into.clone());
    let outcome = tokio::spawn(async move { received(&files, b"", &scratch).await.is_err() }).await;
    assert!(outcome.expect("no panic on what another host says"));
    assert_eq!(into.names(), [""; 0], "it began to write");
}

#[tokio::test]
async fn an_image_that_ends_early_is_an_error() {
    let into = Scratch::new();
    assert!(received(&listed(&[("a", 4), ("b", 4)]), b"aaaabb", &into).await.is_err());
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_sent_is_an_error() {
    let from = Scratch::new();
    std::fs::write(from.0.join("a"), b"abc").unwrap();
    let (mut sender, _receiver, _nodes) = stream().await;
    assert!(send(&mut sender, &from.0, &listed(&[("a", 4)])).await.is_err());
    assert!(send(&mut sender, &from.0, &listed(&[("nothing", 0)])).await.is_err());
}
