//! Who is who: the mesh's own certificate authority, the certificates it gives, and the one-use tokens that
//! are traded for them.
//!
//! Roles are enforced twice. A router's certificate is for servers only and carries the DNS name
//! [`tls::ROUTER_NAME`], which no other role gets, so a client's ordinary name check refuses a node that
//! plays router. Node and operator certificates are for clients only, and the server reads role and name
//! from the URI name `spiffe://modemesh/<role>/<name>`.

mod authority;
pub mod connect;
mod credentials;
mod farewell;
pub mod join;
pub mod tls;
mod token;

pub use authority::Authority;
pub use credentials::{Credentials, LocalKey};
pub use token::JoinToken;

use mesh_core::id::MachineId;
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::PathBuf;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What a certificate's holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Places and forwards; the only role that may serve.
    Router,
    /// A machine with engines.
    Node,
    /// A person with `meshctl`.
    Operator,
}

impl Role {
    /// The word used in certificates, tokens and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Node => "node",
            Self::Operator => "operator",
        }
    }

    /// The role that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Router, Self::Node, Self::Operator].into_iter().find(|role| role.word() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

/// Why something about identity failed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("{action} {path}: {source}", path = path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key, certificate or request is not what it should be.
    #[error("{what}: {reason}")]
    Invalid {
        /// Which thing.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Making a key or certificate failed.
    #[error("{what}: {source}")]
    Make {
        /// Which thing.
        what: &'static str,
        /// What the library said.
        source: rcgen::Error,
    },
    /// TLS refused the material.
    #[error("{what}: {source}")]
    Tls {
        /// Which thing.
        what: &'static str,
        /// What the library said.
        source: rustls::Error,
    },
}

impl IdentityError {
    pub(crate) fn invalid(what: &'static str, reason: impl fmt::Display) -> Self {
        Self::Invalid { what, reason: reason.to_string() }
    }
}

/// The holder of a certificate that was verified against the mesh's CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it is.
    pub role: Role,
    /// Its name, unique within its role.
    pub name: MachineId,
    /// SHA-256 of its public key (SPKI, DER).
    pub key_sha256: [u8; 32],
}

const SPIFFE_PREFIX: &str = "spiffe://modemesh/";

impl Peer {
    /// Reads role and name from a leaf certificate (DER). Says nothing about who signed it: TLS does.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`] when the certificate has no, or more than one, name of the mesh.
    pub fn from_der(leaf: &[u8]) -> Result<Self, IdentityError> {
        const WHAT: &str = "the peer's certificate";
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|e| IdentityError::invalid(WHAT, e))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|e| IdentityError::invalid(WHAT, e))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let mut ours = names.iter().filter_map(|name| {
            if let GeneralName::URI(uri) = name { uri.strip_prefix(SPIFFE_PREFIX) } else { None }
        });
        let (Some(path), None) = (ours.next(), ours.next()) else {
            return Err(IdentityError::invalid(WHAT, "holds no single name of this mesh"));
        };
        let (role, name) = path.split_once('/').unwrap_or((path, ""));
        Ok(Self {
            role: Role::from_word(role)
                .ok_or_else(|| IdentityError::invalid(WHAT, format!("role `{role}` is unknown")))?,
            name: MachineId::new(name).map_err(|e| IdentityError::invalid(WHAT, e))?,
            key_sha256: Sha256::digest(certificate.public_key().raw).into(),
        })
    }
}

/// SHA-256 of the public key inside a certificate (DER of its SPKI): what a join token pins.
///
/// # Errors
/// [`IdentityError::Invalid`] when the bytes are no certificate.
pub fn spki_sha256(certificate: &[u8]) -> Result<[u8; 32], IdentityError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|e| IdentityError::invalid("a certificate", e))?;
    Ok(Sha256::digest(parsed.public_key().raw).into())
}

/// SHA-256 of the public key inside a certificate request (DER), after checking the request's own signature.
///
/// # Errors
/// [`IdentityError::Invalid`] when the bytes are no request or its signature is wrong.
pub fn csr_key_sha256(csr: &[u8]) -> Result<[u8; 32], IdentityError> {
    authority::read_csr(csr).map(|(_, key_sha256)| key_sha256)
}
