//! TLS settings: 1.3 only, mutual, no resumption (every handshake shows its certificates), AES-128-GCM first.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme, version,
};

use super::trust::{TrustedClients, TrustedServers};
use super::{Identity, IdentityError, Subject, TransportSettings, ca_hash, subject};

/// ALPN of the directory.
pub const ALPN_DIRECTORY: &[u8] = b"capsule-directory/1";

/// ALPN of links between hosts.
pub const ALPN_LINK: &[u8] = b"capsule-link/1";

/// aws-lc-rs with AES-128-GCM first: 11.2 Gbit/s through one connection, against 9.8 with AES-256 and 6.2 with ChaCha20
/// (measured November 2026).
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

/// What the directory serves with. A client may come without a certificate, since a new host has none; the server must
/// refuse it everything but joining.
///
/// # Errors
/// When TLS refuses the identity.
pub fn directory_server(
    identity: &Identity,
    settings: &TransportSettings,
) -> Result<quinn::ServerConfig, IdentityError> {
    let verifier = TrustedClients { identity: identity.clone(), strangers: true };
    server(identity, Arc::new(verifier), ALPN_DIRECTORY, settings)
}

/// What the directory serves DNS with, over TLS or QUIC: anyone may ask, and knows it by the mesh's CA and the name
/// [`crate::Zone::directory`].
///
/// # Errors
/// When TLS refuses the identity.
pub fn dns_server(identity: &Identity, alpn: &[u8]) -> Result<rustls::ServerConfig, IdentityError> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(identity.clone())));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What a host asks the directory with; the server name is [`crate::Zone::directory`].
///
/// # Errors
/// When TLS refuses the identity.
pub fn directory_client(
    identity: &Identity,
    settings: &TransportSettings,
) -> Result<quinn::ClientConfig, IdentityError> {
    client(identity, ALPN_DIRECTORY, settings)
}

/// What a host serves links with: whoever dials must be a host of the mesh.
///
/// # Errors
/// When TLS refuses the identity.
pub fn link_server(
    identity: &Identity,
    settings: &TransportSettings,
) -> Result<quinn::ServerConfig, IdentityError> {
    let verifier = TrustedClients { identity: identity.clone(), strangers: false };
    server(identity, Arc::new(HostsOnly(Arc::new(verifier))), ALPN_LINK, settings)
}

/// What a host dials links with; the server name is [`crate::Zone::host`], so that only that host can answer.
///
/// # Errors
/// When TLS refuses the identity.
pub fn link_client(
    identity: &Identity,
    settings: &TransportSettings,
) -> Result<quinn::ClientConfig, IdentityError> {
    client(identity, ALPN_LINK, settings)
}

/// What a new host joins with: it has no certificate, and knows the directory only by the hash of its CA.
///
/// # Errors
/// When TLS refuses the settings.
pub fn joining_client(
    expected_ca_hash: [u8; 32],
    settings: &TransportSettings,
) -> Result<quinn::ClientConfig, IdentityError> {
    let verifier = Arc::new(PinnedCa { expected_ca_hash, provider: provider() });
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_DIRECTORY.to_vec()];
    config.resumption = Resumption::disabled();
    quic_client(config, settings)
}

fn server(
    identity: &Identity,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: &[u8],
    settings: &TransportSettings,
) -> Result<quinn::ServerConfig, IdentityError> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Shown(identity.clone())));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(config).map_err(|error| tls_error(&error))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(settings.build());
    Ok(config)
}

fn client(
    identity: &Identity,
    alpn: &[u8],
    settings: &TransportSettings,
) -> Result<quinn::ClientConfig, IdentityError> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustedServers(identity.clone())))
        .with_client_cert_resolver(Arc::new(Shown(identity.clone())));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    quic_client(config, settings)
}

fn quic_client(
    config: rustls::ClientConfig,
    settings: &TransportSettings,
) -> Result<quinn::ClientConfig, IdentityError> {
    let crypto = QuicClientConfig::try_from(config).map_err(|error| tls_error(&error))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(settings.build());
    Ok(config)
}

fn tls_error(error: &dyn std::error::Error) -> IdentityError {
    IdentityError::Tls(rustls::Error::General(error.to_string()))
}

/// Shows whatever certificate the identity has at the time of the handshake.
#[derive(Debug)]
struct Shown(Identity);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Adds to the usual check that the certificate names a host.
#[derive(Debug)]
struct HostsOnly(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for HostsOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        match subject::of_certificate(end_entity) {
            Ok((Subject::Host(_), _)) => Ok(verified),
            Ok((Subject::Directory, _)) | Err(_) => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Trusts the CA in the server's chain when its hash is the expected one, and then checks the chain as usual.
#[derive(Debug)]
struct PinnedCa {
    expected_ca_hash: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| ca_hash(certificate) == self.expected_ca_hash)
            .ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
