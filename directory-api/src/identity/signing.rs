//! A fresh key and the request to have it certified.

use overlay_proto::HostName;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::{IdentityError, Subject};
use crate::zone::Zone;

/// A key that was just made, and the request that goes to the directory. The key never leaves the host.
pub struct SigningRequest {
    key_pem: String,
    csr_der: Vec<u8>,
}

impl SigningRequest {
    /// Makes an ECDSA P-256 key and a request for this host's two names.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn generate(zone: &Zone, host: &HostName) -> Result<Self, IdentityError> {
        Self::with_key(&KeyPair::generate()?, zone, host)
    }

    /// Makes a request for a key that exists, for a renewal: only the certificate's file changes by it.
    ///
    /// # Errors
    /// When the key is unreadable or the crypto library fails.
    pub fn for_key(key_pem: &str, zone: &Zone, host: &HostName) -> Result<Self, IdentityError> {
        Self::with_key(&KeyPair::from_pem(key_pem)?, zone, host)
    }

    fn with_key(key: &KeyPair, zone: &Zone, host: &HostName) -> Result<Self, IdentityError> {
        let mut parameters = certificate_parameters(zone, &Subject::Host(host.clone()))?;
        parameters.use_authority_key_identifier_extension = false;
        let request = parameters.serialize_request(key)?;
        Ok(Self { key_pem: key.serialize_pem(), csr_der: request.der().to_vec() })
    }

    /// The private key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The request, DER.
    pub fn csr_der(&self) -> &[u8] {
        &self.csr_der
    }
}

/// The names that a certificate for `subject` carries; used by the request and by the CA, which takes nothing from the
/// request but its key.
///
/// # Errors
/// When a name does not fit into a certificate.
pub fn certificate_parameters(zone: &Zone, subject: &Subject) -> Result<CertificateParams, IdentityError> {
    let mut parameters = CertificateParams::default();
    parameters.subject_alt_names = vec![
        SanType::URI(subject.spiffe(zone).try_into()?),
        SanType::DnsName(subject.dns_name(zone).try_into()?),
    ];
    let mut name = DistinguishedName::new();
    name.push(
        DnType::CommonName,
        match subject {
            Subject::Host(host) => host.as_str(),
            Subject::Directory => "directory",
        },
    );
    parameters.distinguished_name = name;
    Ok(parameters)
}

/// Whom a signing request names, when its signature is good.
///
/// # Errors
/// When the request is unreadable, wrongly signed, or names nobody.
pub fn read_request(
    csr_der: &[u8],
) -> Result<(rcgen::CertificateSigningRequestParams, Subject), IdentityError> {
    let request = rcgen::CertificateSigningRequestParams::from_der(&csr_der.into())?;
    let nobody = || IdentityError::Certificate("the request names no member of a mesh".into());
    let mut uris = request.params.subject_alt_names.iter().filter_map(|name| match name {
        SanType::URI(uri) => Some(uri.as_str()),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(nobody()) };
    let (subject, _) = Subject::parse(uri).ok_or_else(nobody)?;
    Ok((request, subject))
}
