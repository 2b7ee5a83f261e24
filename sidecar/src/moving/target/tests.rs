use super::*;

#[test]
fn files_are_taken_for_moves_under_way_from_their_source_only() {
    let arrivals = Arrivals::default();
    let (ours, others) = (OfferId::from_bytes([1; 16]), OfferId::from_bytes([2; 16]));
    let (source, stranger): (HostName, HostName) = ("a".parse().unwrap(), "evil".parse().unwrap());
    assert_eq!(arrivals.directory(&source, ours, Tree::Private), None);
    arrivals.begin(ours, source.clone(), "/upper".into(), "/base".into());
    arrivals.begin(others, stranger.clone(), "/other".into(), "/other-base".into());
    assert_eq!(arrivals.directory(&source, ours, Tree::Private), Some("/upper".into()));
    assert_eq!(arrivals.directory(&source, ours, Tree::Base), Some("/base".into()));
    assert_eq!(arrivals.directory(&stranger, ours, Tree::Private), None);
    assert_eq!(arrivals.directory(&source, others, Tree::Base), None);
    arrivals.end(&ours);
    assert_eq!(arrivals.directory(&source, ours, Tree::Private), None);
    assert_eq!(arrivals.directory(&stranger, others, Tree::Private), Some("/other".into()));
}
