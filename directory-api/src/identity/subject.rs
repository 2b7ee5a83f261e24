//! The names in a certificate.

use std::time::SystemTime;

use overlay_proto::HostName;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use super::validity;
use crate::zone::Zone;

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// `spiffe://ZONE/host/NAME`
    Host(HostName),
    /// `spiffe://ZONE/directory`
    Directory,
}

/// Why a peer is nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It showed no certificate.
    #[error("the peer showed no certificate")]
    None,
    /// Its certificate cannot be read.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// Its certificate does not carry exactly one SPIFFE URI of the known form.
    #[error("the peer's certificate names no member of a mesh")]
    Unnamed,
    /// It is the directory where a host is needed.
    #[error("the peer is the directory, not a host")]
    NoHost,
}

impl Subject {
    /// The SPIFFE URI.
    pub fn spiffe(&self, zone: &Zone) -> String {
        match self {
            Self::Host(host) => format!("spiffe://{zone}/host/{host}"),
            Self::Directory => format!("spiffe://{zone}/directory"),
        }
    }

    /// The DNS name by which it is dialled.
    pub fn dns_name(&self, zone: &Zone) -> String {
        match self {
            Self::Host(host) => zone.host(host),
            Self::Directory => zone.directory(),
        }
    }

    pub(crate) fn parse(uri: &str) -> Option<(Self, Zone)> {
        let (zone, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let subject = match path.split_once('/') {
            None if path == "directory" => Self::Directory,
            Some(("host", name)) => Self::Host(name.parse().ok()?),
            _ => return None,
        };
        Some((subject, zone.parse().ok()?))
    }
}

/// The host at the other end of a connection, by the certificate that TLS has verified against the mesh's CA.
///
/// # Errors
/// When it showed no certificate, or one that names no host.
pub fn peer_host(connection: &quinn::Connection) -> Result<HostName, PeerError> {
    match peer_subject(connection)? {
        Subject::Host(host) => Ok(host),
        Subject::Directory => Err(PeerError::NoHost),
    }
}

/// Whoever is at the other end of a connection.
///
/// # Errors
/// When it showed no certificate, or one that names nobody.
pub fn peer_subject(connection: &quinn::Connection) -> Result<Subject, PeerError> {
    let identity = connection.peer_identity().ok_or(PeerError::None)?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| PeerError::Unreadable)?;
    let leaf = chain.first().ok_or(PeerError::None)?;
    of_certificate(leaf).map(|(subject, _)| subject)
}

/// From when the certificate at the other end of a connection is good.
///
/// # Errors
/// When it showed no certificate, or one without dates.
pub fn peer_not_before(connection: &quinn::Connection) -> Result<SystemTime, PeerError> {
    let identity = connection.peer_identity().ok_or(PeerError::None)?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| PeerError::Unreadable)?;
    let leaf = chain.first().ok_or(PeerError::None)?;
    validity(leaf).map(|valid| valid.not_before).map_err(|_| PeerError::Unreadable)
}

/// The name and the zone in a certificate.
pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Result<(Subject, Zone), PeerError> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| PeerError::Unreadable)?;
    let names = certificate.subject_alternative_name().map_err(|_| PeerError::Unreadable)?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    // SPIFFE X509-SVID, section 2: exactly one URI.
    let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(PeerError::Unnamed) };
    Subject::parse(uri).ok_or(PeerError::Unnamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_names_are_read_back_and_others_refused() {
        let zone: Zone = "capsule.internal".parse().unwrap();
        for subject in [Subject::Directory, Subject::Host("a-1".parse().unwrap())] {
            assert_eq!(Subject::parse(&subject.spiffe(&zone)), Some((subject, zone.clone())));
        }
        for bad in [
            "spiffe://capsule.internal/host/",
            "spiffe://capsule.internal/host/a/b",
            "spiffe://capsule.internal/host/A",
            "spiffe://capsule.internal/directory/x",
            "spiffe:///host/a",
            "https://capsule.internal/host/a",
        ] {
            assert_eq!(Subject::parse(bad), None, "{bad}");
        }
    }
}
