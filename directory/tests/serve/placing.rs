//! Offers and claims over the wire, and whoever is not entitled to them.

use std::time::{Duration, Instant};

use directory_api::{ApiError, CapsuleState, ClientError, LookupKey};
use overlay_proto::Generation;

use super::process::{Directory, key, offer_id};

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ApiError {
    match result.unwrap_err() {
        ClientError::Refused(refusal) => refusal,
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_capsule_moves_and_stays_by_offer_claim_and_revoke() {
    let directory = Directory::start();
    let (a, b) = (directory.host("a", 1001).await, directory.host("b", 1002).await);
    let db = a.register("db").await;
    let db = a.client.set_state(db.id, db.generation, CapsuleState::Running).await.unwrap();
    assert_eq!(b.client.lookup(LookupKey::Locator(db.locators.v4.into())).await.unwrap(), db);
    assert_eq!(b.client.lookup(LookupKey::Locator(db.locators.v6.into())).await.unwrap(), db);
    assert_eq!(b.client.lookup(LookupKey::Name(db.name.clone())).await.unwrap(), db);

    assert_eq!(a.offer(&db, 1, &b).await.state, CapsuleState::Moving);
    let revoked = a.client.revoke(db.id, offer_id(1)).await.unwrap();
    assert_eq!((revoked.generation, revoked.state), (Generation::new(2), CapsuleState::Running));
    assert!(matches!(refused(b.client.claim(db.id, offer_id(1), key(1)).await), ApiError::OfferEnded { .. }));

    a.offer(&revoked, 2, &b).await;
    let claimed = b.claim(&db, 2).await;
    assert_eq!((&claimed.host, claimed.generation), (&b.name, Generation::new(3)));
    assert_eq!(b.claim(&db, 2).await, claimed);
    assert!(matches!(refused(a.client.revoke(db.id, offer_id(2)).await), ApiError::OfferEnded { .. }));
    let running = b.client.set_state(db.id, claimed.generation, CapsuleState::Running).await.unwrap();
    assert_eq!(running.locators, db.locators);
    b.client.remove(db.id, running.generation).await.unwrap();
    b.client.remove(db.id, running.generation).await.expect("removing again is harmless");
    assert!(matches!(refused(a.client.lookup(LookupKey::Id(db.id)).await), ApiError::UnknownCapsule { .. }));
}

#[tokio::test]
async fn an_impostor_moves_nothing() {
    let directory = Directory::start();
    let (a, b, c) =
        (directory.host("a", 1).await, directory.host("b", 2).await, directory.host("c", 3).await);
    let db = a.register("db").await;
    let elsewhere = ApiError::NotPlacedHere { host: a.name.clone(), generation: db.generation };
    let offer = c.client.offer(db.id, db.generation, offer_id(9), c.name.clone(), key(9).hash());
    assert_eq!(refused(offer.await), elsewhere);
    assert_eq!(refused(c.client.remove(db.id, db.generation).await), elsewhere);
    assert_eq!(refused(c.client.set_state(db.id, db.generation, CapsuleState::Stopped).await), elsewhere);
    a.offer(&db, 1, &b).await;
    assert_eq!(refused(c.client.revoke(db.id, offer_id(1)).await), elsewhere);
    let target = b.name.clone();
    assert_eq!(refused(c.client.claim(db.id, offer_id(1), key(1)).await), ApiError::NotTheTarget { target });
    assert_eq!(refused(b.client.claim(db.id, offer_id(1), key(2)).await), ApiError::WrongKey);
    assert_eq!(refused(b.client.claim(db.id, offer_id(2), key(1)).await), elsewhere);
    let still = a.client.lookup(LookupKey::Id(db.id)).await.unwrap();
    assert_eq!((&still.host, still.generation), (&a.name, db.generation));
    let taken = refused(b.client.register("db".parse().unwrap(), "me".parse().unwrap()).await);
    assert_eq!(taken, ApiError::NameTaken { name: "db".into() });
}

#[tokio::test]
async fn claim_and_revoke_at_once_have_one_winner() {
    let directory = Directory::start();
    let (a, b) = (directory.host("a", 1).await, directory.host("b", 2).await);
    let mut db = a.register("db").await;
    for number in 1..=40 {
        let (source, target) = if db.host == a.name { (&a, &b) } else { (&b, &a) };
        source.offer(&db, number, target).await;
        let claim = target.client.claim(db.id, offer_id(number), key(number));
        let revoke = source.client.revoke(db.id, offer_id(number));
        let (claimed, revoked) = tokio::join!(claim, revoke);
        let winner = match (claimed, revoked) {
            (Ok(record), Err(ClientError::Refused(ApiError::OfferEnded { .. })))
            | (Err(ClientError::Refused(ApiError::OfferEnded { .. })), Ok(record)) => record,
            both => panic!("{both:?}"),
        };
        assert_eq!(winner.generation, db.generation.next());
        db = winner;
    }
}

/// A claim lies inside the pause of a move. Prints what it takes on this disk.
#[tokio::test]
async fn a_claim_is_quick() {
    let directory = Directory::start();
    let (a, b) = (directory.host("a", 1).await, directory.host("b", 2).await);
    let mut db = a.register("db").await;
    let (mut claims, mut reads) = (vec![], vec![]);
    for number in 1..=100 {
        let (source, target) = if db.host == a.name { (&a, &b) } else { (&b, &a) };
        source.offer(&db, number, target).await;
        let begin = Instant::now();
        db = target.claim(&db, number).await;
        claims.push(begin.elapsed());
        let begin = Instant::now();
        target.client.lookup(LookupKey::Id(db.id)).await.unwrap();
        reads.push(begin.elapsed());
    }
    claims.sort();
    reads.sort();
    println!(
        "claim: p50 {:?} p90 {:?} max {:?}; lookup: p50 {:?}",
        claims[50], claims[90], claims[99], reads[50]
    );
    assert!(claims[50] < Duration::from_millis(100), "{:?}", claims[50]);
}
