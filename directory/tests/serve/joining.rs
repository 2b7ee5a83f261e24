//! Who gets in.

use std::time::Duration;

use directory_api::identity::{SigningRequest, TransportSettings, endpoint, joining_client, udp_socket};
use directory_api::{ApiError, Change, ClientError, Membership, Request, Response, Token, frame, join};

use super::process::Directory;

fn refusal(error: &ClientError) -> &ApiError {
    error.refusal().unwrap_or_else(|| panic!("{error}"))
}

#[tokio::test]
async fn a_token_lets_one_host_in_once() {
    let directory = Directory::start();
    let token = directory.token("a", &[]);
    let membership = join(directory.api, &token).await.unwrap();
    assert_eq!((membership.host.as_str(), membership.zone.as_str()), ("a", "capsule.internal"));
    assert_eq!((&membership.api, &membership.dns), (&vec![directory.api], &vec![directory.dns]));
    let error = join(directory.api, &token).await.unwrap_err();
    assert_eq!(refusal(&error), &ApiError::TokenUsed);
    assert!(error.to_string().contains("used before"), "{error}");

    let kept = directory.data().join("identity");
    membership.save(&kept).unwrap();
    let client =
        directory_api::Client::connect(membership.api, Membership::load(&kept).unwrap().identity).unwrap();
    assert!(client.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_expired_or_foreign_token_lets_nobody_in() {
    let (directory, other) = (Directory::start(), Directory::start());
    let token = directory.token("a", &["--ttl", "1s"]);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(refusal(&join(directory.api, &token).await.unwrap_err()), &ApiError::TokenExpired);

    // The token names another CA: the new host does not trust this directory, and sends nothing.
    let error = join(directory.api, &other.token("a", &[])).await.unwrap_err();
    assert!(matches!(error, ClientError::Away { .. }), "{error}");
    assert!(matches!(join(directory.api, "capsule1-nonsense").await, Err(ClientError::Token(_))));

    // This CA, but not this directory's signature.
    let real = Token::read(&directory.token("a", &[])).unwrap();
    let error = join(directory.api, &real.sign(&[7; 32])).await.unwrap_err();
    assert_eq!(refusal(&error), &ApiError::TokenUnknown);
    let used = directory.run(&["token", "--host", "a", "--ttl", "0s"]);
    assert_eq!(used.status.code(), Some(1));
}

#[tokio::test]
async fn a_token_is_for_the_host_it_names() {
    let directory = Directory::start();
    let text = directory.token("a", &[]);
    let token = Token::read(&text).unwrap();
    let request = SigningRequest::generate(&token.zone, &"b".parse().unwrap()).unwrap();
    let ask = Request::Join { token: text.trim().into(), csr: request.csr_der().to_vec() };
    let expected = ApiError::TokenForAnotherHost { host: "a".parse().unwrap() };
    assert_eq!(stranger(&directory, &token, ask).await, Response::Error(expected));
    let ask = Request::Join { token: text.trim().into(), csr: vec![1, 2, 3] };
    let answer = stranger(&directory, &token, ask).await;
    assert!(matches!(answer, Response::Error(ApiError::Malformed { .. })), "{answer:?}");
    join(directory.api, &text).await.expect("a refusal does not use the token up");
}

#[tokio::test]
async fn a_stranger_can_only_join() {
    let directory = Directory::start();
    let token = Token::read(&directory.token("a", &[])).unwrap();
    let capsule = overlay_proto::CapsuleId::from_bytes([0; 16]);
    for request in [
        Request::List,
        Request::Hosts,
        Request::Watch { from_revision: 0 },
        Request::Remove { capsule, generation: overlay_proto::Generation::new(1) },
        Request::RenewCertificate { csr: vec![] },
    ] {
        let answer = stranger(&directory, &token, request).await;
        assert!(matches!(answer, Response::Error(ApiError::Denied { .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_and_a_removed_host_is_out() {
    let directory = Directory::start();
    let (a, b) = (directory.host("a", 1).await, directory.host("b", 2).await);
    let before = a.membership.identity.chain();
    a.client.renew_certificate().await.unwrap();
    assert_ne!(a.membership.identity.chain(), before);
    a.lease(1).await;
    b.lease(2).await;
    let mut watched = b.client.watch(0);
    assert!(watched.recv().await.is_some());
    let error = a.client.remove_host("b".parse().unwrap(), false).await.unwrap_err();
    assert_eq!(refusal(&error), &ApiError::HostAlive { host: "b".parse().unwrap() });
    a.client.remove_host("b".parse().unwrap(), true).await.unwrap();
    let error = b.client.list().await.unwrap_err();
    assert_eq!(refusal(&error), &ApiError::NotAMember { host: "b".parse().unwrap() });
    // The certificate is good for hours, and opens nothing.
    let error = b.client.renew_certificate().await.unwrap_err();
    assert_eq!(refusal(&error), &ApiError::NotAMember { host: "b".parse().unwrap() });
    a.client.register("late".parse().unwrap(), "me".parse().unwrap()).await.unwrap();
    while let Ok(Some(change)) =
        tokio::time::timeout(std::time::Duration::from_millis(500), watched.recv()).await
    {
        assert!(!matches!(&change, Change::Capsule { record, .. } if record.name.as_str() == "late"));
    }
    let guest = directory.joined("guest", &["--no-operator"]).await;
    guest.lease(3).await;
    assert!(
        !guest.client.hosts().await.unwrap().iter().find(|host| host.name == guest.name).unwrap().operator
    );
    let error = guest.client.remove_host("a".parse().unwrap(), true).await.unwrap_err();
    assert!(matches!(refusal(&error), ApiError::Denied { .. }), "{error}");
}

/// Asks as somebody without a certificate.
async fn stranger(directory: &Directory, token: &Token, request: Request) -> Response {
    let endpoint = endpoint(udp_socket("127.0.0.1:0".parse().unwrap(), 1 << 16).unwrap(), None).unwrap();
    let config = joining_client(token.ca_hash, &TransportSettings::directory()).unwrap();
    let connecting = endpoint.connect_with(config, directory.api, &token.zone.directory()).unwrap();
    let connection = connecting.await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    frame::write(&mut send, &request.encode(), 1 << 20).await.unwrap();
    send.finish().unwrap();
    let answer = frame::read(&mut receive, 1 << 20).await.unwrap().unwrap();
    Response::decode(&answer).unwrap()
}

#[tokio::test]
async fn a_token_may_name_the_owners_whose_capsules_a_host_runs() {
    let directory = Directory::start();
    let long = format!("{}-{}", "x".repeat(61), "y");
    let mut flags = vec!["--owner", "ann"];
    flags.extend([["--owner", long.as_str()]; 7].concat());
    let a = directory.joined("a", &flags).await;
    a.lease(1).await;
    a.client.register("hers".parse().unwrap(), "ann".parse().unwrap()).await.unwrap();
    let other = a.client.register("his".parse().unwrap(), "bob".parse().unwrap()).await.unwrap_err();
    assert!(matches!(refusal(&other), ApiError::Denied { .. }), "{other}");
    let too_many = directory.run(&[&["token", "--host", "b"][..], &flags, &["--owner", "bob"]].concat());
    assert_eq!(too_many.status.code(), Some(1), "{too_many:?}");
}
