//! The certificate authority: makes itself once, then signs keys for names that the directory decided on.
//!
//! ```text
//!  root (ca.pem, 20 years) ── signs ──► issuer (issuer.pem, 2 years) ── signs ──► hosts, the directory
//!  its key may lie encrypted, or elsewhere      its key lies beside the store
//! ```
//!
//! Hosts trust the root, and show the issuer's certificate with their own. A mesh that was made before there were issuers
//! has a root that may not have one, and signs with it until it is replaced. While a root is being replaced hosts trust
//! two.

use std::time::{Duration, SystemTime};

use directory_api::identity::{
    IdentityError, Subject, Validity, certificate_has_key, certificate_parameters, certificates,
    credentials_hash, read_request, validity,
};
use directory_api::{Identity, Zone};
use overlay_proto::HostName;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::CertificateDer;

/// How long the CA itself is good.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// How long an issuer is good. Nothing that it signs outlives it.
const ISSUER_LIFE: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// How long the directory's own certificate is good; it is renewed at two thirds.
const SERVER_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Certificates begin in the past, for hosts whose clocks are behind.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Certificates have whole seconds.
const CERTIFICATE_CLOCK: Duration = Duration::from_secs(1);

/// The CA of one mesh.
pub struct Ca {
    zone: Zone,
    issuer: Issuer<'static, KeyPair>,
    /// The issuer's certificate, unless the root itself signs.
    intermediate: Option<CertificateDer<'static>>,
    valid: Validity,
    certificate: CertificateDer<'static>,
    /// The next root, or the last one.
    also_trusted: Vec<CertificateDer<'static>>,
}

/// A key and the certificate that goes with it, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The private key.
    pub key: String,
    /// The certificate.
    pub certificate: String,
}

/// A new host's key, that it proved to have.
pub struct Request {
    /// Whom it names.
    pub host: HostName,
    /// BLAKE3 hash of the public key.
    pub key_hash: [u8; 32],
    parameters: rcgen::CertificateSigningRequestParams,
}

/// Makes a root.
///
/// # Errors
/// When the crypto library fails.
pub fn create(zone: &Zone, now: SystemTime) -> Result<Pair, IdentityError> {
    let parameters = authority(format!("capsule mesh {zone}"), 1, now, now + CA_LIFE);
    let key = KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    Ok(Pair { key: key.serialize_pem(), certificate: certificate.pem() })
}

/// Makes an issuer, signed by the root.
///
/// # Errors
/// When the root's key or certificate are broken, or do not belong together.
pub fn create_issuer(zone: &Zone, root: &Pair, now: SystemTime) -> Result<Pair, IdentityError> {
    let certificate = one_certificate(&root.certificate)?;
    let root_key = KeyPair::from_pem(&root.key)?;
    if !certificate_has_key(&certificate, &root_key)? {
        return Err(IdentityError::Mismatch);
    }
    let until = (now + ISSUER_LIFE).min(validity(&certificate)?.not_after);
    let mut parameters = authority(format!("capsule mesh {zone}, issuer"), 0, now, until);
    parameters.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(&certificate, root_key)?;
    let key = KeyPair::generate()?;
    let signed = parameters.signed_by(&key, &issuer)?;
    Ok(Pair { key: key.serialize_pem(), certificate: signed.pem() })
}

/// What a certificate says that signs others, of which `below` more levels may sign again.
fn authority(name: String, below: u8, now: SystemTime, until: SystemTime) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    parameters.distinguished_name = distinguished;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.not_before = (now - CLOCK_TOLERANCE).into();
    parameters.not_after = until.into();
    parameters
}

fn one_certificate(pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    let certificate = certificates(pem)?.into_iter().next();
    certificate.ok_or_else(|| IdentityError::Certificate("there is none".into()))
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
    /// Takes up the root that [`create`] made, which signs itself.
    ///
    /// # Errors
    /// When key or certificate are broken.
    pub fn root(zone: Zone, root: &Pair) -> Result<Self, IdentityError> {
        let certificate = one_certificate(&root.certificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, KeyPair::from_pem(&root.key)?)?;
        let valid = validity(&certificate)?;
        Ok(Self { zone, issuer, intermediate: None, valid, certificate, also_trusted: Vec::new() })
    }

    /// Takes up the issuer that [`create_issuer`] made for the root of this certificate.
    ///
    /// # Errors
    /// When key or certificates are broken.
    pub fn issuer(zone: Zone, issuer: &Pair, root_certificate: &str) -> Result<Self, IdentityError> {
        let certificate = one_certificate(root_certificate)?;
        let intermediate = one_certificate(&issuer.certificate)?;
        let valid = validity(&intermediate)?;
        let key = KeyPair::from_pem(&issuer.key)?;
        if !certificate_has_key(&intermediate, &key)? {
            return Err(IdentityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&intermediate, key)?;
        let (intermediate, also_trusted) = (Some(intermediate), Vec::new());
        Ok(Self { zone, issuer, intermediate, valid, certificate, also_trusted })
    }

    /// The same CA, with other roots that hosts trust beside this one.
    ///
    /// # Errors
    /// When one of them is no certificate.
    pub fn also_trusting<'a>(
        mut self,
        roots: impl Iterator<Item = &'a String>,
    ) -> Result<Self, IdentityError> {
        self.also_trusted = roots.map(|pem| one_certificate(pem)).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// All roots that hosts trust; the first is this CA's own.
    pub fn anchors(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(&self.certificate).chain(&self.also_trusted).cloned().collect()
    }

    /// What a host holds that has its certificate from this CA.
    pub fn credentials(&self) -> [u8; 32] {
        credentials_hash(self.intermediate.as_slice(), &self.anchors())
    }

    /// When what signs is good.
    pub fn validity(&self) -> Validity {
        self.valid
    }

    /// Whether another issuer is wanted: two thirds of its time have passed.
    pub fn is_due(&self, now: SystemTime) -> bool {
        let whole = self.valid.not_after.duration_since(self.valid.not_before).unwrap_or_default();
        self.intermediate.is_some() && now >= self.valid.not_before + whole * 2 / 3
    }

    /// The root's certificate, which hosts trust.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Certifies a host's key, and gives all certificates up to the root. Only the key is taken from the request; names,
    /// time and use are the directory's.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn certify(
        &self,
        mut request: Request,
        life: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        request.parameters.params = self.parameters(&Subject::Host(request.host), life, now)?;
        let leaf = request.parameters.signed_by(&self.issuer)?.der().clone();
        Ok(std::iter::once(leaf).chain(self.intermediate.clone()).collect())
    }

    /// A fresh identity for the directory itself. Its chain ends with the CA, by which new hosts know it.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn own_identity(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        let key = KeyPair::generate()?;
        let chain = self.own_chain(&key, now)?;
        let identity = Identity::new(&key.serialize_pem(), chain, self.certificate.clone())?;
        identity.trust(self.anchors())?;
        Ok(identity)
    }

    /// Renews the directory's own certificate, and has it trust whom this CA's hosts trust.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn renew_own(&self, identity: &Identity, now: SystemTime) -> Result<(), IdentityError> {
        let key = KeyPair::from_pem(&identity.key_pem())?;
        identity.trust(self.anchors())?;
        identity.renew(self.own_chain(&key, now)?)
    }

    fn own_chain(
        &self,
        key: &KeyPair,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let parameters = self.parameters(&Subject::Directory, SERVER_LIFE, now)?;
        let leaf = parameters.signed_by(key, &self.issuer)?;
        let above = self.intermediate.iter().chain([&self.certificate]).cloned();
        Ok(std::iter::once(leaf.der().clone()).chain(above).collect())
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
        parameters.not_after = (now + life).min(self.valid.not_after).into();
        Ok(parameters)
    }
}
/// Whether a certificate that is good from `not_before` on was made after `time`, by the clock of the directory that made
/// it.
pub fn is_of_after(not_before: SystemTime, time: SystemTime) -> bool {
    not_before + CLOCK_TOLERANCE + CERTIFICATE_CLOCK > time
}
