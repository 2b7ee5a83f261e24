use bytes::Bytes;
use overlay_proto::EndKind;
use tokio::io::AsyncReadExt;

use super::*;
use crate::session::Remains;
use crate::testing::{SOON, program};

/// Fills the program's connection until its kernel takes no more, and far beyond what a session lets wait.
async fn fill(ours: &Program) {
    kernel::tcp::set_unsent_limit(ours.fd().unwrap(), u32::MAX).unwrap();
    let mut pending = Bytes::from(vec![1; 64 << 20]);
    while tokio::time::timeout(Duration::from_millis(100), ours.send(&mut pending)).await.is_ok() {}
    assert!(ours.unacknowledged() > 0);
}

#[tokio::test]
async fn nothing_under_way_is_reset_at_once() {
    let (_far, ours) = program(None).await;
    let mut resetting = Resetting::new(&ours);
    assert!(resetting.is_due(&ours, resetting.next()));
    let gone = Program::Gone(Remains::new(Bytes::new(), EndKind::Reset));
    let mut resetting = Resetting::new(&gone);
    assert!(resetting.is_due(&gone, resetting.next()));
}

#[tokio::test]
async fn a_program_that_takes_nothing_is_reset_after_the_grace() {
    let (_far, ours) = program(None).await;
    fill(&ours).await;
    let began = Instant::now();
    let mut resetting = Resetting::new(&ours);
    assert!(!resetting.is_due(&ours, began - RESET_LOOK), "before its time");
    assert!(!resetting.is_due(&ours, began + RESET_LOOK));
    assert_eq!(resetting.next(), began + 2 * RESET_LOOK);
    assert!(!resetting.is_due(&ours, began + RESET_GRACE - RESET_LOOK));
    assert!(resetting.is_due(&ours, Instant::now() + RESET_GRACE + RESET_LOOK));
}

#[tokio::test]
async fn progress_prolongs_the_grace() {
    let (mut far, ours) = program(None).await;
    fill(&ours).await;
    let mut resetting = Resetting::new(&ours);
    let late = Instant::now() + RESET_GRACE - RESET_LOOK;
    assert!(!resetting.is_due(&ours, late));
    let before = ours.unacknowledged();
    let mut taken = vec![0; 64 << 10];
    tokio::time::timeout(SOON, async {
        while ours.unacknowledged() >= before {
            assert!(far.read(&mut taken).await.unwrap() > 0);
        }
    })
    .await
    .expect("the program reads");
    assert!(ours.unacknowledged() > 0, "it took all at once");
    assert!(!resetting.is_due(&ours, late + RESET_LOOK));
    assert!(!resetting.is_due(&ours, late + RESET_GRACE));
    assert!(resetting.is_due(&ours, late + RESET_LOOK + RESET_GRACE));
}

#[tokio::test]
async fn an_ended_connection_lingers_until_all_is_acknowledged() {
    let (mut far, ours) = program(None).await;
    let linger = Linger::new();
    assert!(!linger.is_over(&ours), "it is open");
    fill(&ours).await;
    ours.shutdown();
    assert!(!linger.is_over(&ours), "the program has not read it");
    let mut all = Vec::new();
    tokio::time::timeout(SOON, far.read_to_end(&mut all)).await.expect("an end").unwrap();
    tokio::time::timeout(SOON, async {
        while !linger.is_over(&ours) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("it is over when all was read");
    let gone = Program::Gone(Remains::new(Bytes::new(), EndKind::Fin));
    assert!(linger.is_over(&gone));
}

#[tokio::test]
async fn looks_become_rarer_up_to_a_bound() {
    let mut linger = Linger::new();
    let mut pause = LINGER_FIRST;
    for _ in 0..20 {
        let now = linger.next();
        linger.looked(now - Duration::from_nanos(1));
        assert_eq!(linger.next(), now, "not looked yet");
        linger.looked(now);
        pause = (pause * 2).min(LINGER_LONGEST);
        assert_eq!(linger.next(), now + pause);
    }
    assert_eq!(pause, LINGER_LONGEST);
}
