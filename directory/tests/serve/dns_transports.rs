//! DNS over TLS, asked by `kdig` of Knot DNS, and over QUIC; both check the certificate by the mesh's CA.

use std::net::SocketAddr;
use std::process::Command;

use directory_api::Membership;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

use super::dns::{question, texts};
use super::process::Directory;

const SETTINGS: &str = "dot = '127.0.0.1:0'\ndoq = '127.0.0.1:0'";

fn kdig(directory: &Directory, server: SocketAddr, host: &str, question: &[&str]) -> String {
    let output = Command::new("kdig")
        .args([format!("@{}", server.ip()), "-p".into(), server.port().to_string(), "+tls".into()])
        .arg(format!("+tls-ca={}", directory.data().join("ca.pem").display()))
        .args([&format!("+tls-host={host}"), "+timeout=3", "+retry=0", "+nocomments"])
        .args(question)
        .output()
        .expect("kdig is there (package knot-dnsutils)");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn tls_and_quic_show_a_certificate_of_the_mesh() {
    let directory = Directory::start_with(SETTINGS);
    let a = directory.host("a", 1001).await;
    let db = a.register("db").await;
    let locator = db.locators.v4.to_string();
    let right = "directory.capsule.internal";
    let tls = directory.dot.unwrap();
    let said = kdig(&directory, tls, right, &["db.capsule.internal", "A"]);
    assert!(said.contains(&locator), "{said}");
    let said = kdig(&directory, tls, right, &["+dnssec", "none.capsule.internal", "A"]);
    assert!(said.contains("NSEC") && said.contains("RRSIG"), "{said}");
    let said = kdig(&directory, tls, "elsewhere.capsule.internal", &["db.capsule.internal", "A"]);
    assert!(!said.contains(&locator), "{said}");

    let quic = directory.doq.unwrap();
    for name in ["db.capsule.internal.", "DB.capsule.internal."] {
        let mut asked = question(name, RecordType::A);
        asked.metadata.id = 0;
        let answer = by_quic(&a.membership, quic, right, &asked).await.unwrap();
        assert_eq!(texts(&answer), [locator.as_str()]);
    }
    let asked = question("db.capsule.internal.", RecordType::A);
    assert!(by_quic(&a.membership, quic, "elsewhere.capsule.internal", &asked).await.is_err());
}

/// What trusts the mesh's CA and nobody else.
pub(super) fn tls_config(
    membership: &Membership,
    protocol: &str,
) -> Result<rustls::ClientConfig, Box<dyn std::error::Error>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(membership.identity.ca())?;
    let mut tls = rustls::ClientConfig::builder_with_provider(directory_api::identity::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Ok(tls)
}

pub(super) async fn quic(
    membership: &Membership,
    server: SocketAddr,
    host: &str,
) -> Result<(quinn::Endpoint, quinn::Connection), Box<dyn std::error::Error>> {
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls_config(membership, "doq")?)?;
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(std::sync::Arc::new(tls)));
    let connection = endpoint.connect(server, host)?.await?;
    Ok((endpoint, connection))
}

/// As RFC 9250 has it: a stream for each query, its length in front.
pub(super) async fn by_quic(
    membership: &Membership,
    server: SocketAddr,
    host: &str,
    question: &Message,
) -> Result<Message, Box<dyn std::error::Error>> {
    let (_endpoint, connection) = quic(membership, server, host).await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let bytes = question.to_vec()?;
    send.write_all(&u16::try_from(bytes.len())?.to_be_bytes()).await?;
    send.write_all(&bytes).await?;
    send.finish()?;
    let answer = receive.read_to_end(65_537).await?;
    Ok(Message::from_vec(&answer[2..])?)
}
