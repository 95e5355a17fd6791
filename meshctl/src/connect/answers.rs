//! What a failed conversation tells of whoever answered, in our words and not in a library's.

use super::system_words;
use crate::exit::chain;
use rustls::{AlertDescription, CertificateError};
use std::error::Error;
use std::io;

/// Whoever answered, as far as an error tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// No TLS.
    NoTls,
    /// TLS, but nothing that a router offers there.
    OtherTls,
    /// TLS with a certificate that is not good here: why.
    Certificate(&'static str),
    /// It does not take our certificate.
    RefusesUs,
}

impl Answered {
    /// What the chain of causes under `error` tells.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let typed = causes(error).find_map(tls_within).map(Self::of_tls);
        // After the handshake HTTP/2 keeps only the words of what ended its connection.
        typed.or_else(|| chain(error).contains("received fatal alert").then_some(Self::RefusesUs))
    }

    fn of_tls(error: &rustls::Error) -> Self {
        if let rustls::Error::InvalidMessage(_) = error {
            Self::NoTls
        } else if let rustls::Error::InvalidCertificate(why) = error {
            Self::Certificate(of_certificate(why))
        } else if let rustls::Error::AlertReceived(alert) = error
            && REFUSALS.contains(alert)
        {
            Self::RefusesUs
        } else {
            Self::OtherTls
        }
    }

    /// As a cause.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::NoTls => "what answers there does not speak TLS",
            Self::OtherTls => "what answers there speaks TLS, but offers nothing that a router does",
            Self::Certificate(why) => why,
            Self::RefusesUs => "it does not take the certificate that was shown",
        }
    }
}

/// What a server says that does not take a client's certificate, or wants one.
const REFUSALS: [AlertDescription; 9] = [
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::CertificateRequired,
    AlertDescription::UnknownCA,
    AlertDescription::DecryptError,
    AlertDescription::AccessDenied,
];

fn of_certificate(why: &CertificateError) -> &'static str {
    if let CertificateError::Expired | CertificateError::ExpiredContext { .. } = why {
        "its certificate has expired"
    } else if let CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } = why {
        "its certificate is not valid yet: compare the clocks of both machines"
    } else {
        "its certificate is not that of a router of this mesh"
    }
}

/// Why a conversation broke off: by what answered, else by what the system said.
pub(crate) fn why(error: &(dyn Error + 'static)) -> String {
    if let Some(answer) = Answered::of(error) {
        return answer.words().into();
    }
    let system = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>());
    system.map_or_else(|| without_jargon(chain(error)), system_words)
}

/// What HTTP/2's library says of a connection that ended tells a person nothing more.
fn without_jargon(told: String) -> String {
    const JARGON: [&str; 3] = ["h2 protocol error", "http2 error", "stream closed because of"];
    let is_jargon = JARGON.iter().any(|words| told.contains(words)) || told.ends_with("transport error");
    if is_jargon { "the connection broke off".into() } else { told }
}

/// An error of the system hides what it was made of from [`Error::source`].
fn tls_within<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    cause.downcast_ref().or_else(|| tls_within(cause.downcast_ref::<io::Error>()?.get_ref()?))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<io::Error>);

    #[test]
    fn a_connection_that_ended_is_told_in_words_of_ours() {
        for jargon in [
            "h2 protocol error: error reading a body from connection: stream closed because of a broken pipe",
            "h2 protocol error: http2 error: connection error detected: refused stream",
            "Service was not ready: transport error",
        ] {
            assert_eq!(why(&Said(jargon, None)), "the connection broke off", "{jargon}");
        }
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(why(&Said("h2 protocol error", Some(reset))), "connection reset");
        for plain in ["the clock stands still", "no route to hypervisor-1", "transport error: no such name"] {
            assert_eq!(why(&Said(plain, None)), plain);
        }
    }
}
