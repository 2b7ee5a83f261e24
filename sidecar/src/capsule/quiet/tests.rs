use super::*;

#[test]
fn dials_are_counted_until_they_end() {
    let quiet = Quiet::new(false);
    assert_eq!((quiet.state(), quiet.dials()), (State::Open, 0));
    let (first, second) = (quiet.dialling().expect("not quiet"), quiet.dialling().expect("not quiet"));
    assert_eq!(quiet.dials(), 2);
    // A clone is the same quiet.
    let clone = quiet.clone();
    clone.begin();
    assert_eq!(quiet.state(), State::Quiet);
    assert!(quiet.dialling().is_none());
    assert_eq!(quiet.dials(), 2, "one that was refused is not under way");
    drop(first);
    assert_eq!(clone.dials(), 1);
    drop(second);
    assert_eq!(quiet.dials(), 0);
    quiet.end();
    assert!(clone.dialling().is_some());
    assert_eq!(quiet.dials(), 0);
}

#[test]
fn an_arriving_capsule_is_quiet_from_the_beginning() {
    let quiet = Quiet::new(true);
    assert!(quiet.state() == State::Quiet && quiet.dialling().is_none());
}

#[tokio::test]
async fn watchers_see_every_change() {
    let quiet = Quiet::new(false);
    let mut watch = quiet.watch();
    quiet.begin();
    watch.changed().await.unwrap();
    assert_eq!(*watch.borrow_and_update(), State::Quiet);
    quiet.end();
    watch.changed().await.unwrap();
    assert_eq!(*watch.borrow_and_update(), State::Open);
}

/// A capsule leaves only when the connector has let go and the last dial is over.
#[tokio::test]
async fn shut_waits_for_the_connector_and_for_dials() {
    let quiet = Quiet::new(false);
    let dialling = quiet.dialling().expect("not quiet");
    quiet.begin();
    let shutting = tokio::spawn({
        let quiet = quiet.clone();
        async move { quiet.shut().await }
    });
    quiet.until_shut().await;
    tokio::time::sleep(LOOK * 20).await;
    assert!(!shutting.is_finished(), "nobody acknowledged");
    quiet.acknowledge();
    tokio::time::sleep(LOOK * 20).await;
    assert!(!shutting.is_finished(), "a dial is under way");
    drop(dialling);
    shutting.await.unwrap();
    // The next departure is not taken for this one.
    quiet.end();
    let again = tokio::time::timeout(LOOK * 20, quiet.shut()).await;
    assert!(again.is_err(), "the old acknowledgement was believed");
}

/// Who makes it quiet and then sees no dials can rely on it: none began unseen.
#[test]
fn no_dial_begins_unseen() {
    for _ in 0..200 {
        let quiet = Quiet::new(false);
        let dialler = {
            let quiet = quiet.clone();
            std::thread::spawn(move || quiet.dialling())
        };
        quiet.begin();
        let seen = quiet.dials();
        let dialling = dialler.join().unwrap();
        if dialling.is_some() && seen == 0 {
            panic!("a dial began after the quiet");
        }
    }
}
