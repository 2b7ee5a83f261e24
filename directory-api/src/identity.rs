//! Who a host or the directory is, and how it proves that.
//!
//! The directory's CA signs one certificate per host. It carries two names: the SPIFFE URI `spiffe://ZONE/host/NAME`,
//! by which the receiving side knows the host, and the DNS name `NAME.hosts.ZONE`, which the dialling side asks for.
//! The directory's own certificate has `spiffe://ZONE/directory` and `directory.ZONE`.
//!
//! An [`Identity`] is a handle: all clones, and all TLS configurations made from it, show the certificate that was
//! installed last, so that a renewal needs no new endpoints. They also trust whom it trusts at the time of a handshake.

mod membership;
mod signing;
mod subject;
mod tls;
mod transport;
mod trust;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay_proto::HostName;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::limits::CHAIN_LENGTH_MAX;
use crate::zone::Zone;

pub use membership::{Membership, MembershipError};
pub use signing::{SigningRequest, certificate_parameters, read_request};
pub use subject::{PeerError, Subject, peer_host, peer_not_before, peer_subject};
pub use tls::{
    ALPN_DIRECTORY, ALPN_LINK, directory_client, directory_server, dns_server, joining_client, link_client,
    link_server, provider,
};
pub use transport::{TransportSettings, endpoint, restartable_endpoint, udp_socket};
pub use trust::{Anchors, credentials_hash};

/// A key, the certificates that vouch for it, and the CA that both sides trust: while its root is being replaced, the old
/// one and the new one.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    subject: Subject,
    zone: Zone,
    anchors: RwLock<Anchors>,
    current: RwLock<Current>,
}

struct Current {
    certified: Arc<CertifiedKey>,
    key_pem: Arc<str>,
    valid: Validity,
}

/// The time in which a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From here.
    pub not_before: SystemTime,
    /// Until here.
    pub not_after: SystemTime,
}

/// Why something is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key's text is broken or of an unknown kind.
    #[error("the private key is unusable: {0}")]
    Key(String),
    /// The certificate's text is broken, or there is none.
    #[error("the certificate is unusable: {0}")]
    Certificate(String),
    /// The certificate was made for another key.
    #[error("the certificate and the private key do not belong together")]
    Mismatch,
    /// The certificate names nobody, or somebody else than before.
    #[error("the certificate names {found}, {expected} is needed")]
    Name {
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// TLS refuses it.
    #[error("TLS refuses the identity: {0}")]
    Tls(#[from] rustls::Error),
    /// A key or request could not be made.
    #[error("cannot make a key or certificate request: {0}")]
    Generate(#[from] rcgen::Error),
}

impl Identity {
    /// Puts an identity together; names are read from the certificate.
    ///
    /// # Errors
    /// When key and certificate do not belong together, or the certificate names neither host nor directory.
    pub fn new(
        key_pem: &str,
        chain: Vec<CertificateDer<'static>>,
        ca: CertificateDer<'static>,
    ) -> Result<Self, IdentityError> {
        let (subject, zone) = named(&chain)?;
        let current = RwLock::new(Current::new(key_pem, chain)?);
        let anchors = RwLock::new(trust::checked(vec![ca])?);
        Ok(Self { inner: Arc::new(Inner { subject, zone, anchors, current }) })
    }

    /// As [`Identity::new`], from PEM texts; all certificates of `ca_pem` are trusted.
    ///
    /// # Errors
    /// As [`Identity::new`], and when a text is no PEM.
    pub fn from_pem(key_pem: &str, chain_pem: &str, ca_pem: &str) -> Result<Self, IdentityError> {
        let anchors = certificates(ca_pem)?;
        let ca = anchors.first().cloned();
        let ca = ca.ok_or_else(|| IdentityError::Certificate("no CA certificate".into()))?;
        let identity = Self::new(key_pem, certificates(chain_pem)?, ca)?;
        identity.trust(anchors)?;
        Ok(identity)
    }

    /// Shows another certificate for the same key from here on, at all clones.
    ///
    /// # Errors
    /// As [`Identity::new`], and when the certificate names somebody else; the old certificate stays then.
    pub fn renew(&self, chain: Vec<CertificateDer<'static>>) -> Result<(), IdentityError> {
        let (subject, zone) = named(&chain)?;
        if (&subject, &zone) != (&self.inner.subject, &self.inner.zone) {
            let found = subject.spiffe(&zone);
            return Err(IdentityError::Name { found, expected: self.inner.subject.spiffe(&self.inner.zone) });
        }
        let current = Current::new(&self.key_pem(), chain)?;
        *self.inner.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// Who this is.
    pub fn subject(&self) -> &Subject {
        &self.inner.subject
    }

    /// The host, unless this is the directory.
    pub fn host(&self) -> Option<&HostName> {
        match &self.inner.subject {
            Subject::Host(host) => Some(host),
            Subject::Directory => None,
        }
    }

    /// The mesh.
    pub fn zone(&self) -> &Zone {
        &self.inner.zone
    }

    /// The certificates shown, leaf first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current(|current| current.certified.cert.clone())
    }

    /// When the certificate shown is good.
    pub fn validity(&self) -> Validity {
        self.current(|current| current.valid)
    }

    /// Whether two thirds of the certificate's time have passed.
    pub fn is_due(&self, now: SystemTime) -> bool {
        let valid = self.validity();
        let whole = valid.not_after.duration_since(valid.not_before).unwrap_or_default();
        now >= valid.not_before + whole * 2 / 3
    }

    /// The private key, PEM; for writing it to its file.
    pub fn key_pem(&self) -> Arc<str> {
        self.current(|current| current.key_pem.clone())
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.current(|current| current.certified.clone())
    }

    fn current<T>(&self, read: impl FnOnce(&Current) -> T) -> T {
        read(&self.inner.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.inner.subject.spiffe(&self.inner.zone))
    }
}

impl Current {
    fn new(key_pem: &str, chain: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| IdentityError::Key(error.to_string()))?;
        let key = provider().key_provider.load_private_key(key)?;
        let leaf = chain.first().ok_or_else(|| IdentityError::Certificate("there is none".into()))?;
        let valid = validity(leaf)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(IdentityError::Mismatch),
            Err(error) => return Err(error.into()),
        }
        Ok(Self { certified: Arc::new(certified), key_pem: key_pem.into(), valid })
    }
}

/// Reads certificates from PEM.
///
/// # Errors
/// When there is none, too many, or one is broken.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let read = read.map_err(|error| IdentityError::Certificate(error.to_string()))?;
    if read.is_empty() || read.len() > CHAIN_LENGTH_MAX {
        return Err(IdentityError::Certificate(format!("1 to {CHAIN_LENGTH_MAX} certificates are needed")));
    }
    Ok(read)
}

/// Writes certificates as PEM.
pub fn certificates_to_pem(chain: &[CertificateDer<'_>]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for certificate in chain {
        let body = data_encoding::BASE64.encode(certificate);
        let _ = writeln!(text, "-----BEGIN CERTIFICATE-----");
        for line in body.as_bytes().chunks(64) {
            let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
        }
        let _ = writeln!(text, "-----END CERTIFICATE-----");
    }
    text
}

/// The hash by which a join token names the CA.
pub fn ca_hash(ca: &CertificateDer<'_>) -> [u8; 32] {
    *blake3::hash(ca).as_bytes()
}

fn named(chain: &[CertificateDer<'_>]) -> Result<(Subject, Zone), IdentityError> {
    let leaf = chain.first().ok_or_else(|| IdentityError::Certificate("there is none".into()))?;
    subject::of_certificate(leaf).map_err(|error| IdentityError::Certificate(error.to_string()))
}

/// When a certificate is good.
///
/// # Errors
/// When it is broken.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<Validity, IdentityError> {
    let broken = || IdentityError::Certificate("unreadable dates".into());
    let (_, read) = x509_parser::parse_x509_certificate(certificate).map_err(|_| broken())?;
    let time = |timestamp: i64| Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).ok()?));
    Ok(Validity {
        not_before: time(read.validity().not_before.timestamp()).ok_or_else(broken)?,
        not_after: time(read.validity().not_after.timestamp()).ok_or_else(broken)?,
    })
}

/// Whether a certificate is for a key.
///
/// # Errors
/// When the certificate is broken.
pub fn certificate_has_key(
    certificate: &CertificateDer<'_>,
    key: &rcgen::KeyPair,
) -> Result<bool, IdentityError> {
    use rcgen::PublicKeyData as _;
    let broken = |_| IdentityError::Certificate("unreadable".into());
    let (_, read) = x509_parser::parse_x509_certificate(certificate).map_err(broken)?;
    Ok(read.public_key().subject_public_key.data.as_ref() == key.der_bytes())
}

#[cfg(test)]
mod tests;
