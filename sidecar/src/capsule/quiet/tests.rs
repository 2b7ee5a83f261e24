use super::*;

#[test]
fn dials_are_counted_until_they_end() {
    let quiet = Quiet::new(false);
    assert_eq!((quiet.is_quiet(), quiet.dials()), (false, 0));
    let (first, second) = (quiet.dialling().expect("not quiet"), quiet.dialling().expect("not quiet"));
    assert_eq!(quiet.dials(), 2);
    // A clone is the same quiet.
    let clone = quiet.clone();
    clone.set(true);
    assert!(quiet.is_quiet());
    assert!(quiet.dialling().is_none());
    assert_eq!(quiet.dials(), 2, "one that was refused is not under way");
    drop(first);
    assert_eq!(clone.dials(), 1);
    drop(second);
    assert_eq!(quiet.dials(), 0);
    quiet.set(false);
    assert!(clone.dialling().is_some());
    assert_eq!(quiet.dials(), 0);
}

#[test]
fn an_arriving_capsule_is_quiet_from_the_beginning() {
    let quiet = Quiet::new(true);
    assert!(quiet.is_quiet() && quiet.dialling().is_none());
}

#[tokio::test]
async fn watchers_see_every_change() {
    let quiet = Quiet::new(false);
    let mut watch = quiet.watch();
    for value in [true, false, true] {
        quiet.set(value);
        watch.changed().await.unwrap();
        assert_eq!(*watch.borrow_and_update(), value);
    }
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
        quiet.set(true);
        let seen = quiet.dials();
        let dialling = dialler.join().unwrap();
        if dialling.is_some() && seen == 0 {
            panic!("a dial began after the quiet");
        }
    }
}
