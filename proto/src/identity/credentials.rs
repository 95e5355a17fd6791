//! A key, its certificate chain and the mesh's CA, in memory and in a private folder.
//!
//! Files: `key.pem` (0600), `chain.pem` (leaf, then CA), `ca.pem`. A new chain replaces the old one by rename,
//! so a power cut leaves one or the other.

use super::{IdentityError, Peer};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A private key that never leaves the machine it was made on.
pub struct LocalKey {
    key: KeyPair,
}

impl LocalKey {
    /// Makes a key in memory.
    ///
    /// # Errors
    /// [`IdentityError::Make`] when the system has no randomness.
    pub fn create() -> Result<Self, IdentityError> {
        let key = KeyPair::generate()
            .map_err(|source| IdentityError::Make { what: "making a private key", source })?;
        Ok(Self { key })
    }

    /// Reads the key in `file`, or makes one there (0600).
    ///
    /// # Errors
    /// [`IdentityError`] when the file cannot be read, written or understood.
    pub fn create_or_load(file: &Path) -> Result<Self, IdentityError> {
        if !file.exists() {
            let fresh = Self::create()?;
            write_private(file, fresh.key.serialize_pem().as_bytes())?;
            return Ok(fresh);
        }
        let text = read_file(file)?;
        let text = std::str::from_utf8(&text).map_err(|e| IdentityError::invalid("the private key", e))?;
        let key = KeyPair::from_pem(text)
            .map_err(|source| IdentityError::Make { what: "reading the private key", source })?;
        Ok(Self { key })
    }

    /// A certificate request for this key (PKCS#10, DER). It names nothing: names come from the router.
    ///
    /// # Errors
    /// [`IdentityError::Make`] when signing fails.
    pub fn csr_der(&self) -> Result<Vec<u8>, IdentityError> {
        let request = CertificateParams::default()
            .serialize_request(&self.key)
            .map_err(|source| IdentityError::Make { what: "making a certificate request", source })?;
        Ok(request.der().to_vec())
    }

    /// The key with a chain that was signed for it.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`] when the chain is empty.
    pub fn with_chain(&self, chain: Vec<CertificateDer<'static>>) -> Result<Credentials, IdentityError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        Credentials::new(key, chain)
    }
}

/// What a process needs to prove who it is.
pub struct Credentials {
    /// The private key.
    pub key: PrivateKeyDer<'static>,
    /// Leaf first, then the CA.
    pub chain: Vec<CertificateDer<'static>>,
    peer: Peer,
    issued_at: SystemTime,
    expires_at: SystemTime,
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone_key(),
            chain: self.chain.clone(),
            peer: self.peer.clone(),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Credentials of {} {}", self.peer.role, self.peer.name)
    }
}

impl Credentials {
    fn new(key: PrivateKeyDer<'static>, chain: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        let [leaf, _ca] = chain.as_slice() else {
            return Err(IdentityError::invalid("the certificate chain", "does not hold a leaf and the CA"));
        };
        let peer = Peer::from_der(leaf)?;
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|e| IdentityError::invalid("the certificate", e))?;
        let at = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
        };
        let issued_at = at(parsed.validity().not_before.timestamp());
        let expires_at = at(parsed.validity().not_after.timestamp());
        Ok(Self { key, peer, issued_at, expires_at, chain })
    }

    /// Reads the credentials in `folder`.
    ///
    /// # Errors
    /// [`IdentityError`] when a file is missing or not understood.
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        let key = PrivateKeyDer::from_pem_slice(&read_file(&folder.join("key.pem"))?)
            .map_err(|e| IdentityError::invalid("the private key", e))?;
        let chain = CertificateDer::pem_slice_iter(&read_file(&folder.join("chain.pem"))?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| IdentityError::invalid("the certificate chain", e))?;
        Self::new(key, chain)
    }

    /// Writes the chain and the CA into `folder`; the key is written too unless it is there already.
    ///
    /// # Errors
    /// [`IdentityError::File`] when a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        create_private_folder(folder)?;
        let key_file = folder.join("key.pem");
        if !key_file.exists() {
            write_private(&key_file, pem("PRIVATE KEY", self.key.secret_der()).as_bytes())?;
        }
        let chain: String = self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        write_private(&folder.join("chain.pem"), chain.as_bytes())?;
        write_private(&folder.join("ca.pem"), pem("CERTIFICATE", self.ca()).as_bytes())
    }

    /// Role and name in the certificate.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The mesh's CA.
    #[must_use]
    pub fn ca(&self) -> &CertificateDer<'static> {
        // `new` refuses any chain that is not leaf and CA.
        &self.chain[1]
    }

    /// From when the certificate is valid.
    #[must_use]
    pub fn issued_at(&self) -> SystemTime {
        self.issued_at
    }

    /// Until when the certificate is valid.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// When to renew: after two thirds of the certificate's life, so that a router may be away for the last
    /// third without shutting anybody out.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self.expires_at.duration_since(self.issued_at).unwrap_or_default();
        self.issued_at + life.mul_f64(2.0 / 3.0)
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).unwrap_or_default());
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// Makes `folder` and its parents, readable by their owner only.
pub(super) fn create_private_folder(folder: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| IdentityError::File {
        action: "creating",
        path: folder.into(),
        source,
    })
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::File { action: "reading", path: path.into(), source })
}

/// Writes `bytes` (0600) under a temporary name and renames, so that nobody ever reads half a file.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    if let Some(folder) = path.parent() {
        create_private_folder(folder)?;
    }
    let failed = |source| IdentityError::File { action: "writing", path: path.into(), source };
    let part = path.with_extension(format!("part{}", std::process::id()));
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    })();
    written.map_err(|source| {
        // Best effort: the error that matters is the one being returned.
        drop(fs::remove_file(&part));
        failed(source)
    })
}
