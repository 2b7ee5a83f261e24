//! Talks QUIC from inside a capsule: an unmodified quinn on both sides, with its own discovery of the path's MTU.

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// The name in the server's certificate.
const NAME: &str = "quic.test";

/// Bytes of one question, which is answered with itself.
const QUESTION_BYTES: usize = 8192;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answers every stream with itself, until it is ended.
    Serve { port: u16 },
    /// Asks over one connection, again and again, and tells how it went.
    Ask {
        place: String,
        #[arg(long)]
        seconds: f64,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Serve { port } => serve(port).await,
        Verb::Ask { place, seconds } => ask(&place, Duration::from_secs_f64(seconds)).await,
    };
    match done {
        Ok(answer) => {
            print(&answer);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("quic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(port: u16) -> anyhow::Result<Value> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = quinn::ServerConfig::with_single_cert(vec![made.cert.der().clone()], key.into())?;
    let endpoint = quinn::Endpoint::server(config, (Ipv6Addr::UNSPECIFIED, port).into())?;
    print(&json!({ "bound": endpoint.local_addr()? }));
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = incoming.await?;
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                let question = receive.read_to_end(QUESTION_BYTES).await?;
                send.write_all(&question).await?;
                send.finish()?;
            }
            anyhow::Ok(())
        });
    }
    Ok(Value::Null)
}

async fn ask(place: &str, time: Duration) -> anyhow::Result<Value> {
    let to: SocketAddr = place.to_socket_addrs()?.next().context("no such place")?;
    let any: SocketAddr = if to.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0_u8; 4], 0).into() };
    let endpoint = quinn::Endpoint::client(any)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let connection = endpoint.connect_with(config, to, NAME)?.await.context("connecting")?;
    print(&json!({ "connected_to": to }));
    let (began, mut asked, mut longest) = (Instant::now(), 0_u64, Duration::ZERO);
    while began.elapsed() < time {
        let question: Vec<u8> = (0..QUESTION_BYTES).map(|at| (at as u64 ^ asked) as u8).collect();
        let since = Instant::now();
        let (mut send, mut receive) = connection.open_bi().await.context("opening a stream")?;
        send.write_all(&question).await?;
        send.finish()?;
        let answer = receive.read_to_end(QUESTION_BYTES).await.context("reading an answer")?;
        ensure!(answer == question, "question {asked} was answered with something else");
        longest = longest.max(since.elapsed());
        asked += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stats = connection.stats();
    Ok(json!({
        "asked": asked,
        "longest_ms": longest.as_secs_f64() * 1e3,
        "sent_packets": stats.path.sent_packets,
        "lost_packets": stats.path.lost_packets,
        "mtu": stats.path.current_mtu,
    }))
}

/// Takes every certificate: what is tested is the way, not who is at its end.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[allow(clippy::print_stdout, reason = "what the test reads")]
fn print(answer: &Value) {
    println!("{answer}");
}
