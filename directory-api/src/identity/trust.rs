//! Whom an identity trusts: one root, or for the time of a root's replacement two.
//!
//! Verifiers look at the anchors at each handshake, so that a change needs no new endpoints, and does nothing to
//! connections that are open.

use std::sync::{Arc, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::{Identity, IdentityError, provider};
use crate::limits::ANCHORS_MAX;

/// The certificates that an identity trusts; the first is the one under which its own was signed.
pub type Anchors = Arc<[CertificateDer<'static>]>;

impl Identity {
    /// The certificates that both sides trust.
    pub fn anchors(&self) -> Anchors {
        self.inner.anchors.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The root under which this identity's own certificate was signed.
    pub fn ca(&self) -> CertificateDer<'static> {
        self.anchors().first().expect("an identity has an anchor from its making on").clone()
    }

    /// Trusts these from here on, and no others, at all clones.
    ///
    /// # Errors
    /// When there is none, there are too many, or one is no certificate; the old ones stay then.
    pub fn trust(&self, anchors: Vec<CertificateDer<'static>>) -> Result<(), IdentityError> {
        let anchors = checked(anchors)?;
        *self.inner.anchors.write().unwrap_or_else(PoisonError::into_inner) = anchors;
        Ok(())
    }

    /// What this identity holds, as [`credentials_hash`] has it.
    pub fn credentials(&self) -> [u8; 32] {
        let chain = self.chain();
        credentials_hash(chain.get(1..).unwrap_or_default(), &self.anchors())
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for anchor in self.anchors().iter() {
            roots.add(anchor.clone())?;
        }
        Ok(Arc::new(roots))
    }
}

/// Anchors as an identity keeps them.
pub(super) fn checked(anchors: Vec<CertificateDer<'static>>) -> Result<Anchors, IdentityError> {
    if anchors.is_empty() || anchors.len() > ANCHORS_MAX {
        let reason = format!("1 to {ANCHORS_MAX} CA certificates are needed, there are {}", anchors.len());
        return Err(IdentityError::Certificate(reason));
    }
    let mut roots = RootCertStore::empty();
    for anchor in &anchors {
        roots.add(anchor.clone())?;
    }
    Ok(anchors.into())
}

/// Who signs above a host's own certificate, and whom the host trusts, as one number: by it the directory knows which
/// hosts have taken up what it gives out.
pub fn credentials_hash(above: &[CertificateDer<'_>], anchors: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("capsule 2026 credentials of a host");
    for list in [above, anchors] {
        hasher.update(&u64::try_from(list.len()).unwrap_or(u64::MAX).to_be_bytes());
        for certificate in list {
            hasher.update(blake3::hash(certificate).as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// Trusts servers that the identity's anchors vouch for at the time of the handshake.
#[derive(Debug)]
pub(super) struct TrustedServers(pub(super) Identity);

impl ServerCertVerifier for TrustedServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        WebPkiServerVerifier::builder_with_provider(self.0.roots()?, provider())
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
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Trusts clients that the identity's anchors vouch for at the time of the handshake.
#[derive(Debug)]
pub(super) struct TrustedClients {
    pub(super) identity: Identity,
    /// Whether a client may come without a certificate.
    pub(super) strangers: bool,
}

impl ClientCertVerifier for TrustedClients {
    fn client_auth_mandatory(&self) -> bool {
        !self.strangers
    }

    // Clients of the mesh have one certificate each and need no hint which to show.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        WebPkiClientVerifier::builder_with_provider(self.identity.roots()?, provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
