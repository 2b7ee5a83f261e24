//! The certificate authority: makes itself once, then signs keys for names that the directory decided on.

use std::time::{Duration, SystemTime};

use directory_api::identity::{IdentityError, Subject, certificate_parameters, certificates, read_request};
use directory_api::{Identity, Zone};
use overlay_proto::HostName;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::CertificateDer;

/// How long the CA itself is good.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// How long the directory's own certificate is good; it is renewed at two thirds.
const SERVER_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Certificates begin in the past, for hosts whose clocks are behind.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The CA of one mesh.
pub struct Ca {
    zone: Zone,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A new host's key, that it proved to have.
pub struct Request {
    /// Whom it names.
    pub host: HostName,
    /// BLAKE3 hash of the public key.
    pub key_hash: [u8; 32],
    parameters: rcgen::CertificateSigningRequestParams,
}

/// Makes a CA; gives its key and its certificate, PEM.
///
/// # Errors
/// When the crypto library fails.
pub fn create(zone: &Zone, now: SystemTime) -> Result<(String, String), IdentityError> {
    let mut parameters = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("capsule mesh {zone}"));
    parameters.distinguished_name = name;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.not_before = (now - CLOCK_TOLERANCE).into();
    parameters.not_after = (now + CA_LIFE).into();
    let key = KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

/// Reads a host's signing request and checks that it has the key.
///
/// # Errors
/// When it is unreadable, wrongly signed, or names no host.
pub fn read(csr: &[u8]) -> Result<Request, IdentityError> {
    let (parameters, subject) = read_request(csr)?;
    let Subject::Host(host) = subject else {
        return Err(IdentityError::Certificate("the request names no host".into()));
    };
    let key_hash = *blake3::hash(parameters.public_key.der_bytes()).as_bytes();
    Ok(Request { host, key_hash, parameters })
}

impl Ca {
    /// Takes up the CA that [`create`] made.
    ///
    /// # Errors
    /// When key or certificate are broken.
    pub fn load(zone: Zone, key_pem: &str, certificate_pem: &str) -> Result<Self, IdentityError> {
        let certificate = certificates(certificate_pem)?.into_iter().next();
        let certificate =
            certificate.ok_or_else(|| IdentityError::Certificate("no CA certificate".into()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { zone, issuer, certificate })
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Certifies a host's key. Only the key is taken from the request; names, time and use are the directory's.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn certify(
        &self,
        mut request: Request,
        life: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        request.parameters.params = self.parameters(&Subject::Host(request.host), life, now)?;
        Ok(request.parameters.signed_by(&self.issuer)?.der().clone())
    }

    /// A fresh identity for the directory itself. Its chain ends with the CA, by which new hosts know it.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn own_identity(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        let key = KeyPair::generate()?;
        Identity::new(&key.serialize_pem(), self.own_chain(&key, now)?, self.certificate.clone())
    }

    /// Renews the directory's own certificate.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn renew_own(&self, identity: &Identity, now: SystemTime) -> Result<(), IdentityError> {
        let key = KeyPair::from_pem(&identity.key_pem())?;
        identity.renew(self.own_chain(&key, now)?)
    }

    fn own_chain(
        &self,
        key: &KeyPair,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let parameters = self.parameters(&Subject::Directory, SERVER_LIFE, now)?;
        let leaf = parameters.signed_by(key, &self.issuer)?;
        Ok(vec![leaf.der().clone(), self.certificate.clone()])
    }

    fn parameters(
        &self,
        subject: &Subject,
        life: Duration,
        now: SystemTime,
    ) -> Result<CertificateParams, IdentityError> {
        let mut parameters = certificate_parameters(&self.zone, subject)?;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.use_authority_key_identifier_extension = true;
        parameters.not_before = (now - CLOCK_TOLERANCE).into();
        parameters.not_after = (now + life).into();
        Ok(parameters)
    }
}
