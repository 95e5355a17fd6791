//! TLS configurations made of the mesh's own certificates. There is none that shows a certificate without
//! verifying the other side's.

use super::{Credentials, IdentityError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::{Arc, RwLock};

/// The DNS name in every router's certificate and in no other: what a client checks.
pub const ROUTER_NAME: &str = "router.modemesh.internal";

/// Whether a server insists on a client certificate during the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// No certificate, no connection.
    Required,
    /// Only for the port where machines join: each call checks for itself.
    Optional,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut store = RootCertStore::empty();
    store.add(ca.clone()).map_err(|source| IdentityError::Tls { what: "the mesh's CA", source })?;
    Ok(Arc::new(store))
}

/// A client that proves who it is and accepts only a router of this mesh.
///
/// # Errors
/// [`IdentityError::Tls`] when key and certificate do not fit.
pub fn client(credentials: &Credentials, alpn: &[u8]) -> Result<ClientConfig, IdentityError> {
    let tls = |source| IdentityError::Tls { what: "the TLS client configuration", source };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_root_certificates(roots(credentials.ca())?)
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())
        .map_err(tls)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// A client without a certificate that accepts only a router whose CA has the pinned key (SHA-256 of SPKI).
/// The handshake fails before a single byte of the join request is sent.
///
/// # Errors
/// [`IdentityError::Tls`] when the library refuses the configuration.
pub fn pinned_client(pin: [u8; 32], alpn: &[u8]) -> Result<ClientConfig, IdentityError> {
    let provider = provider();
    let verifier = PinVerifier { pin, algorithms: provider.signature_verification_algorithms };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| IdentityError::Tls { what: "the TLS client configuration", source })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// A server of the mesh. `certificate` may change while the server runs.
///
/// # Errors
/// [`IdentityError`] when the CA is not understood.
pub fn server(
    certificate: Arc<ServerCertificate>,
    ca: &CertificateDer<'static>,
    alpn: &[u8],
    clients: ClientCertificate,
) -> Result<ServerConfig, IdentityError> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider());
    let verifier = match clients {
        ClientCertificate::Required => builder.build(),
        ClientCertificate::Optional => builder.allow_unauthenticated().build(),
    }
    .map_err(|e| IdentityError::invalid("the verifier of client certificates", e))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| IdentityError::Tls { what: "the TLS server configuration", source })?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![alpn.to_vec()];
    // A resumed session would skip the check of a client's certificate, and with it a replaced key.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The certificate a server shows now; renewing replaces it for new connections.
#[derive(Debug)]
pub struct ServerCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerCertificate {
    /// Starts with `credentials`.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] when key and certificate do not fit.
    pub fn new(credentials: &Credentials) -> Result<Arc<Self>, IdentityError> {
        Ok(Arc::new(Self { current: RwLock::new(certified(credentials)?) }))
    }

    /// Shows `credentials` from the next handshake on.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] when key and certificate do not fit; the old certificate stays.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), IdentityError> {
        let fresh = certified(credentials)?;
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh;
        Ok(())
    }
}

fn certified(credentials: &Credentials) -> Result<Arc<CertifiedKey>, IdentityError> {
    CertifiedKey::from_der(credentials.chain.clone(), credentials.key.clone_key(), &provider())
        .map(Arc::new)
        .map_err(|source| IdentityError::Tls { what: "the server's certificate", source })
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

#[derive(Debug)]
struct PinVerifier {
    pin: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = others
            .iter()
            .find(|der| super::spki_sha256(der).is_ok_and(|hash| hash == self.pin))
            .ok_or_else(|| rustls::Error::General(super::join::PIN_MISMATCH.into()))?;
        let mut store = RootCertStore::empty();
        store.add(pinned.clone().into_owned())?;
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?
            .verify_server_cert(leaf, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
