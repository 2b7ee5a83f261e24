use super::*;
use crate::identity::{SigningRequest, certificate_parameters, read_request};

struct Ca {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let key = rcgen::KeyPair::generate().unwrap();
        Self { issuer: rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap() }
    }

    fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    fn issue(&self, csr: &[u8], subject: &Subject) -> Vec<CertificateDer<'static>> {
        let (mut request, _) = read_request(csr).unwrap();
        request.params = certificate_parameters(&zone(), subject).unwrap();
        vec![request.signed_by(&self.issuer).unwrap().der().clone()]
    }

    fn identity(&self, host: &str) -> Identity {
        let host: HostName = host.parse().unwrap();
        let request = SigningRequest::generate(&zone(), &host).unwrap();
        let chain = self.issue(request.csr_der(), &Subject::Host(host));
        Identity::new(request.key_pem(), chain, self.der()).unwrap()
    }
}

fn zone() -> Zone {
    "capsule.internal".parse().unwrap()
}

fn listen(identity: &Identity) -> (quinn::Endpoint, std::net::SocketAddr) {
    let server = link_server(identity, &TransportSettings::link()).unwrap();
    let socket = udp_socket("127.0.0.1:0".parse().unwrap(), 1 << 20).unwrap();
    let endpoint = endpoint(socket, Some(server)).unwrap();
    let address = endpoint.local_addr().unwrap();
    (endpoint, address)
}

/// Dials as `dialler` for the host `wanted`; gives what the server knows of the dialler.
async fn dial(dialler: &Identity, server: &Identity, wanted: &str) -> Result<HostName, String> {
    let (listening, address) = listen(server);
    let accepting = tokio::spawn(async move {
        let incoming = listening.accept().await.ok_or("closed")?;
        let connection = incoming.await.map_err(|error| error.to_string())?;
        peer_host(&connection).map_err(|error| error.to_string())
    });
    let socket = udp_socket("127.0.0.1:0".parse().unwrap(), 1 << 20).unwrap();
    let client = endpoint(socket, None).unwrap();
    let config = link_client(dialler, &TransportSettings::link()).unwrap();
    let name = zone().host(&wanted.parse().unwrap());
    let connection =
        client.connect_with(config, address, &name).unwrap().await.map_err(|error| error.to_string())?;
    assert_eq!(peer_host(&connection).unwrap().as_str(), wanted);
    accepting.await.unwrap()
}

#[tokio::test]
async fn two_hosts_know_each_other() {
    let ca = Ca::new();
    assert_eq!(dial(&ca.identity("a"), &ca.identity("b"), "b").await.unwrap().as_str(), "a");
}

#[tokio::test]
async fn another_host_than_the_wanted_one_is_refused() {
    let ca = Ca::new();
    assert!(dial(&ca.identity("a"), &ca.identity("c"), "b").await.is_err());
}

#[tokio::test]
async fn another_mesh_is_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    assert!(dial(&other.identity("a"), &ca.identity("b"), "b").await.is_err());
    // Believes in the right CA, but is certified by another.
    let stranger = other.identity("a");
    let stranger = Identity::new(&stranger.key_pem(), stranger.chain(), ca.der()).unwrap();
    assert!(dial(&stranger, &ca.identity("b"), "b").await.is_err());
}

#[tokio::test]
async fn the_directory_is_no_host() {
    let ca = Ca::new();
    let host: HostName = "a".parse().unwrap();
    let request = SigningRequest::generate(&zone(), &host).unwrap();
    let chain = ca.issue(request.csr_der(), &Subject::Directory);
    let directory = Identity::new(request.key_pem(), chain, ca.der()).unwrap();
    assert!(directory.host().is_none());
    assert!(dial(&directory, &ca.identity("b"), "b").await.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_by_the_same_configuration() {
    let ca = Ca::new();
    let (a, b) = (ca.identity("a"), ca.identity("b"));
    let shown = a.clone();
    let request = SigningRequest::for_key(&a.key_pem(), &zone(), a.host().unwrap()).unwrap();
    let renewed = ca.issue(request.csr_der(), a.subject());
    a.renew(renewed.clone()).unwrap();
    assert_eq!(shown.chain(), renewed);
    assert_eq!(dial(&shown, &b, "b").await.unwrap().as_str(), "a");
    assert!(matches!(a.renew(b.chain()), Err(IdentityError::Name { .. })));
    assert!(matches!(Identity::new(&a.key_pem(), b.chain(), ca.der()), Err(IdentityError::Mismatch)));
}

#[tokio::test]
async fn a_root_is_replaced_under_the_same_configurations() {
    let (old, new) = (Ca::new(), Ca::new());
    let (a, b) = (old.identity("a"), old.identity("b"));
    let certified = |identity: &Identity| {
        let request =
            SigningRequest::for_key(&identity.key_pem(), &zone(), identity.host().unwrap()).unwrap();
        identity.renew(new.issue(request.csr_der(), identity.subject())).unwrap();
    };
    // The handles by which endpoints know the identities: nothing is made anew.
    let (shown_a, shown_b) = (a.clone(), b.clone());
    a.trust(vec![old.der(), new.der()]).unwrap();
    assert_eq!(
        dial(&shown_a, &shown_b, "b").await.unwrap().as_str(),
        "a",
        "one trusts both, the other the old"
    );
    b.trust(vec![old.der(), new.der()]).unwrap();
    certified(&a);
    assert_eq!(dial(&shown_a, &shown_b, "b").await.unwrap().as_str(), "a", "one of each");
    assert_eq!(dial(&shown_b, &shown_a, "a").await.unwrap().as_str(), "b", "the other way round");
    a.trust(vec![new.der()]).unwrap();
    assert!(dial(&shown_a, &shown_b, "b").await.is_err(), "the old root is nobody any more");
    assert!(dial(&shown_b, &shown_a, "a").await.is_err(), "neither for who is dialled");
    certified(&b);
    b.trust(vec![new.der()]).unwrap();
    assert_eq!(dial(&shown_a, &shown_b, "b").await.unwrap().as_str(), "a");
    assert!(a.trust(vec![]).is_err() && a.trust(vec![old.der(); 4]).is_err());
    assert_eq!(a.anchors().as_ref(), [new.der()]);
}

#[test]
fn a_membership_is_read_back() {
    let ca = Ca::new();
    let directory = std::env::temp_dir().join(format!("capsule-membership-{}", std::process::id()));
    let membership = Membership {
        host: "a".parse().unwrap(),
        zone: zone(),
        identity: ca.identity("a"),
        api: vec!["192.0.2.1:4400".parse().unwrap()],
        dns: vec!["[2001:db8::1]:53".parse().unwrap()],
        locators: vec!["10.88.0.0/16".parse().unwrap()],
    };
    assert!(matches!(Membership::load(&directory), Err(MembershipError::None(_))));
    membership.save(&directory).unwrap();
    let read = Membership::load(&directory).unwrap();
    let other = Ca::new();
    membership.identity.trust(vec![other.der(), ca.der()]).unwrap();
    membership.save_credentials(&directory).unwrap();
    let both = Membership::load(&directory).unwrap().identity;
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(both.anchors().as_ref(), [other.der(), ca.der()]);
    assert_eq!(both.credentials(), membership.identity.credentials());
    assert_ne!(both.credentials(), read.identity.credentials());
    assert_eq!(
        (read.host, read.zone, read.api, read.dns, read.locators),
        (membership.host, membership.zone, membership.api, membership.dns, membership.locators)
    );
    assert_eq!(read.identity.chain(), membership.identity.chain());
    assert_eq!(read.identity.ca(), ca.der());
}

#[tokio::test]
async fn links_find_the_largest_packets_that_gso_takes() {
    let ca = Ca::new();
    let b = ca.identity("b");
    let (listening, address) = listen(&b);
    let accepting = tokio::spawn(async move {
        let connection = listening.accept().await.unwrap().await.unwrap();
        connection.closed().await;
    });
    let socket = udp_socket("127.0.0.1:0".parse().unwrap(), 1 << 20).unwrap();
    let client = endpoint(socket, None).unwrap();
    let config = link_client(&ca.identity("a"), &TransportSettings::link()).unwrap();
    let connection =
        client.connect_with(config, address, &zone().host(b.host().unwrap())).unwrap().await.unwrap();
    let begin = std::time::Instant::now();
    // The search ends within 20 bytes of its upper bound (quinn's default).
    while connection.stats().path.current_mtu < crate::limits::MTU_MAX - 20 {
        let mtu = connection.stats().path.current_mtu;
        assert!(begin.elapsed() < Duration::from_secs(10), "stuck at {mtu} bytes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    connection.close(0u32.into(), b"");
    accepting.await.unwrap();
}
