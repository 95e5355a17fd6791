//! Trading a join token for a certificate, and a certificate for a newer one.

use super::connect::{ConnectError, dial};
use super::{Credentials, IdentityError, JoinToken, LocalKey, tls};
use crate::frame::alpn;
use crate::v1::fleet_client::FleetClient;
use crate::v1::{Certified, JoinRequest, RenewRequest};
use rustls_pki_types::CertificateDer;
use std::path::Path;
use tonic::transport::Channel;

pub(super) const PIN_MISMATCH: &str = "the router's CA is not the one that the join token pins";

/// Why joining failed. Before [`JoinError::Refused`], and before an unusable answer, the secret was not sent.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Whoever answers at the address is not the router that made the token.
    #[error("the router at {address} is not the one that made this token: its CA has another key")]
    WrongRouter {
        /// Which address.
        address: String,
    },
    /// No TLS connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The router refused the token or the request, and why.
    #[error("the router refused: {0}")]
    Refused(String),
    /// A local file or key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Makes a key in `folder` (0600, never sent), checks that `router` (`host:port`) has the CA that the token
/// pins, and only then trades the token for a certificate, which is saved in `folder`.
///
/// # Errors
/// [`JoinError`] tells whether the router could not be reached, is another one, or refused.
pub async fn join(
    router: &str,
    token: &JoinToken,
    proposed_name: &str,
    folder: &Path,
) -> Result<Credentials, JoinError> {
    let pin =
        token.pin_bytes().ok_or_else(|| IdentityError::invalid("the join token", "holds a damaged pin"))?;
    let key = LocalKey::create_or_load(&folder.join("key.pem"))?;
    let csr_der = key.csr_der()?.into();
    let channel = dial(router, tls::pinned_client(pin, alpn::H2)?).await.map_err(|error| {
        if let ConnectError::Refused { address, source } = &error
            && source.to_string().contains(PIN_MISMATCH)
        {
            return JoinError::WrongRouter { address: address.clone() };
        }
        JoinError::Connect(error)
    })?;
    let request = JoinRequest {
        token_id: token.id.clone(),
        secret: token.secret.clone(),
        csr_der,
        proposed_name: proposed_name.into(),
    };
    let reply =
        FleetClient::new(channel).join(request).await.map_err(|s| JoinError::Refused(s.message().into()))?;
    accept(reply.into_inner(), &key, folder)
}

/// Gets a new certificate for the key in `folder` over an authenticated channel and saves it there.
///
/// # Errors
/// [`JoinError`]; the old certificate stays in place.
pub async fn renew(channel: Channel, folder: &Path) -> Result<Credentials, JoinError> {
    let key = LocalKey::create_or_load(&folder.join("key.pem"))?;
    let request = RenewRequest { csr_der: key.csr_der()?.into() };
    let reply =
        FleetClient::new(channel).renew(request).await.map_err(|s| JoinError::Refused(s.message().into()))?;
    accept(reply.into_inner(), &key, folder)
}

fn accept(reply: Certified, key: &LocalKey, folder: &Path) -> Result<Credentials, JoinError> {
    let chain = reply.chain_der.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let credentials = key.with_chain(chain)?;
    // Building the TLS configuration proves that the certificate is for our key.
    tls::client(&credentials, alpn::H2)?;
    credentials.save(folder)?;
    Ok(credentials)
}
