//! The mesh's certificate authority: one key pair in a private folder of the router.

use super::credentials::{read_file, write_private};
use super::{IdentityError, Role, spki_sha256, tls::ROUTER_NAME};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_core::id::MachineId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// Clocks in a home mesh differ: a certificate is valid from this long before it is made.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The CA outlives the hardware; replacing it means joining every machine again.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Signs certificates of the mesh. ECDSA P-256, path length 0.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// Opens the authority in `folder` (`ca.key`, `ca.pem`), or makes it when there is none yet.
    ///
    /// # Errors
    /// [`IdentityError`] when the files cannot be read, written or understood. A key without its
    /// certificate, or the reverse, is an error: making a new CA would shut out every joined machine.
    pub fn open_or_create(folder: &Path) -> Result<Self, IdentityError> {
        let (key_file, pem_file) = (folder.join("ca.key"), folder.join("ca.pem"));
        match (key_file.exists(), pem_file.exists()) {
            (false, false) => Self::create(folder),
            (true, true) => Self::open(folder),
            (true, false) => {
                Err(IdentityError::invalid("the mesh's CA", format!("{} is missing", pem_file.display())))
            }
            (false, true) => {
                Err(IdentityError::invalid("the mesh's CA", format!("{} is missing", key_file.display())))
            }
        }
    }

    /// Makes a new authority in `folder`.
    ///
    /// # Errors
    /// [`IdentityError`] when a file cannot be written.
    pub fn create(folder: &Path) -> Result<Self, IdentityError> {
        let make = |source| IdentityError::Make { what: "making the mesh's CA", source };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "modemesh CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_life(&mut params, SystemTime::now(), CA_LIFE);
        let certificate = params.self_signed(&key).map_err(make)?;
        write_private(&folder.join("ca.key"), key.serialize_pem().as_bytes())?;
        write_private(&folder.join("ca.pem"), certificate.pem().as_bytes())?;
        Self::open(folder)
    }

    /// Opens an existing authority.
    ///
    /// # Errors
    /// [`IdentityError`] when a file is missing or not understood.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        let key_text = read_file(&folder.join("ca.key"))?;
        let key_text =
            std::str::from_utf8(&key_text).map_err(|e| IdentityError::invalid("the CA's key", e))?;
        let key = KeyPair::from_pem(key_text)
            .map_err(|source| IdentityError::Make { what: "reading the CA's key", source })?;
        let certificate = CertificateDer::from_pem_slice(&read_file(&folder.join("ca.pem"))?)
            .map_err(|e| IdentityError::invalid("the CA's certificate", e))?;
        if spki_sha256(&certificate)? != <[u8; 32]>::from(Sha256::digest(key.subject_public_key_info())) {
            return Err(IdentityError::invalid("the mesh's CA", "ca.key and ca.pem do not belong together"));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|source| IdentityError::Make { what: "reading the CA's certificate", source })?;
        Ok(Self { issuer, certificate })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What join tokens pin: base64url of SHA-256 over the CA's public key (SPKI).
    ///
    /// # Errors
    /// Never in practice: the certificate was read when the authority was opened.
    pub fn pin(&self) -> Result<String, IdentityError> {
        Ok(URL_SAFE_NO_PAD.encode(spki_sha256(&self.certificate)?))
    }

    /// Signs the key in `csr_der` for `role` and `name`; everything else the request asks for is ignored.
    /// Returns the chain, leaf first, then the CA.
    ///
    /// # Errors
    /// [`IdentityError`] when the request is malformed or its signature wrong.
    pub fn issue(
        &self,
        csr_der: &[u8],
        role: Role,
        name: &MachineId,
        life: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let (csr, _) = read_csr(csr_der)?;
        let make = |source| IdentityError::Make { what: "signing a certificate", source };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        let uri = format!("spiffe://modemesh/{role}/{name}");
        params.subject_alt_names.push(SanType::URI(uri.try_into().map_err(make)?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match role {
            Role::Router => {
                params.subject_alt_names.push(SanType::DnsName(ROUTER_NAME.try_into().map_err(make)?));
                vec![ExtendedKeyUsagePurpose::ServerAuth]
            }
            Role::Node | Role::Operator => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        set_life(&mut params, SystemTime::now(), life);
        let leaf = params.signed_by(&csr.public_key, &self.issuer).map_err(make)?;
        Ok(vec![leaf.der().clone(), self.certificate.clone()])
    }
}

fn set_life(params: &mut CertificateParams, now: SystemTime, life: Duration) {
    params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
    params.not_after = OffsetDateTime::from(now + life);
}

/// Reads a certificate request and checks that its sender holds the key: (request, SHA-256 of the SPKI).
pub(super) fn read_csr(der: &[u8]) -> Result<(CertificateSigningRequestParams, [u8; 32]), IdentityError> {
    let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
        .map_err(|e| IdentityError::invalid("the certificate request", e))?;
    let key_sha256 = Sha256::digest(csr.public_key.subject_public_key_info()).into();
    Ok((csr, key_sha256))
}
