//! The way to the router's operator plane: credentials, address, channel, and what each failure on that
//! way means for the person.

mod answers;

use crate::address;
use crate::exit::{Failure, Kind, chain};
pub(crate) use answers::{Answered, why};
use mesh_core::units::human_duration;
use mesh_proto::identity::Credentials;
use mesh_proto::identity::connect::{ConnectError, channel};
use mesh_proto::v1::operator_client::OperatorClient;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// How long a call may take when `--timeout` says nothing.
const USUAL_LIMIT: Duration = Duration::from_secs(10);

/// An address file holds one line; a longer one is something else.
const LONGEST_ADDRESS: usize = 300;

/// What every command needs to know to reach a router.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    /// The data folder.
    pub(crate) data: PathBuf,
    /// `--router`.
    pub(crate) router: Option<String>,
    /// `--timeout`.
    pub(crate) timeout: Option<Duration>,
}

impl Way {
    /// The folder of the operator's credentials.
    pub(crate) fn operator_folder(&self) -> PathBuf {
        self.data.join("operator")
    }

    /// `--router`, else the address file, else this machine.
    ///
    /// # Errors
    /// A usage failure when the address is none; `Failed` when the file cannot be read.
    pub(crate) fn operators_address(&self) -> Result<String, Failure> {
        if let Some(typed) = &self.router {
            return address::with_port(typed, address::OPERATORS);
        }
        let file = self.operator_folder().join("address");
        match std::fs::read_to_string(&file) {
            Ok(text) if text.len() <= LONGEST_ADDRESS => address::with_port(text.trim(), address::OPERATORS)
                .map_err(|bad| {
                    bad.hint(format!("it stands in {}; or name one: --router HOST", file.display()))
                }),
            Ok(text) => Err(Failure::new(Kind::Failed, format!("{} is no address file", file.display()))
                .cause(format!("it has {} bytes, more than {LONGEST_ADDRESS}", text.len()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(format!("127.0.0.1:{}", address::OPERATORS))
            }
            Err(error) => Err(Failure::new(Kind::Failed, format!("cannot read {}", file.display()))
                .cause(error.to_string())),
        }
    }

    /// Connects to the operator plane. Reads the credentials each time, because a router on this machine
    /// renews them when it starts.
    ///
    /// # Errors
    /// `Refused` without usable credentials or when TLS fails, `Unreachable` when nobody answers.
    pub(crate) async fn dial(&self) -> Result<Operators, Failure> {
        let address = self.operators_address()?;
        let credentials = credentials(&self.operator_folder(), SystemTime::now())?;
        let limit = self.timeout.unwrap_or(USUAL_LIMIT);
        let channel = tokio::time::timeout(limit, channel(&address, &credentials))
            .await
            .map_err(|_| unreachable(&address, &format!("no answer within {}", human_duration(limit))))?
            .map_err(|error| refusal(&address, "operators", &error))?;
        Ok(Operators { client: OperatorClient::new(channel), address, limit, proven: false })
    }
}

/// A connection to the operator plane.
#[derive(Debug)]
pub(crate) struct Operators {
    client: OperatorClient<Channel>,
    /// Where it leads.
    pub(crate) address: String,
    limit: Duration,
    /// Whether a call has succeeded. TLS 1.3 servers refuse a client's certificate only after the client's
    /// side of the handshake is done, so a refusal shows on the first call.
    proven: bool,
}

impl Operators {
    /// Makes one call within the time limit.
    ///
    /// # Errors
    /// The status of the call as a [`Failure`].
    pub(crate) async fn call<T, F>(
        &mut self,
        ask: impl FnOnce(OperatorClient<Channel>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let reply = tokio::time::timeout(self.limit, ask(self.client.clone())).await.map_err(|_| {
            let limit = human_duration(self.limit);
            Failure::new(
                Kind::TimedOut,
                format!("the router at {} gave no answer within {limit}", self.address),
            )
            .hint("give it longer: --timeout 1m")
        })?;
        let reply = reply.map_err(|status| self.meaning(&status))?;
        self.proven = true;
        Ok(reply.into_inner())
    }

    /// What a status of the router means for the person.
    pub(crate) fn meaning(&self, status: &Status) -> Failure {
        let message =
            if status.message().is_empty() { status.code().description() } else { status.message() };
        let kind = match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => return refused(&self.address, message),
            Code::NotFound => Kind::NotFound,
            Code::InvalidArgument => Kind::Usage,
            Code::ResourceExhausted => Kind::DoesNotFit,
            Code::DeadlineExceeded => Kind::TimedOut,
            Code::Unknown | Code::Unavailable | Code::Internal | Code::Cancelled if is_transport(status) => {
                let cause = why(status);
                return if self.proven {
                    unreachable(&self.address, &cause)
                } else {
                    refused(&self.address, &cause)
                };
            }
            Code::Unavailable => return unreachable(&self.address, message),
            // A router's other port takes an operator's certificate too.
            Code::Unimplemented if !self.proven => {
                let cause =
                    "a router of this mesh answers there, but not its operators: so does the port for agents";
                return wrong_port(&self.address, "operators", cause)
                    .hint("is the port right? then bring meshctl and the router to the same version");
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => Kind::Failed,
        };
        Failure::new(kind, message)
    }
}

/// Whether the status was made on this side, of a broken connection, and not sent by the router.
fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || status.message().starts_with("Service was not ready")
}

/// The operator's credentials, checked as far as this side can.
fn credentials(folder: &Path, now: SystemTime) -> Result<Credentials, Failure> {
    if !folder.join("chain.pem").exists() || !folder.join("key.pem").exists() {
        return Err(ways_in(Failure::new(
            Kind::Refused,
            format!("no operator credentials in {}", folder.display()),
        )));
    }
    let credentials = Credentials::load(folder).map_err(|error| {
        ways_in(
            Failure::new(
                Kind::Refused,
                format!("the operator credentials in {} are unusable", folder.display()),
            )
            .cause(chain(&error)),
        )
    })?;
    if let Ok(ago) = now.duration_since(credentials.expires_at()) {
        let ago = human_duration(ago);
        return Err(ways_in(Failure::new(
            Kind::Refused,
            format!("the operator certificate in {} expired {ago} ago", folder.display()),
        )));
    }
    Ok(credentials)
}

/// Both ways to come by credentials.
fn ways_in(failure: Failure) -> Failure {
    failure
        .hint("on the router's machine: `modemesh up` or `mesh-router run` writes and renews them (or point --data there)")
        .hint("on any other: `meshctl token create --role operator` there, then `meshctl login ROUTER TOKEN` here")
}

fn refused(address: &str, cause: &str) -> Failure {
    ways_in(
        Failure::new(Kind::Refused, format!("the router at {address} refuses this operator")).cause(cause),
    )
}

/// Nobody there.
pub(crate) fn unreachable(address: &str, cause: &str) -> Failure {
    Failure::new(Kind::Unreachable, format!("cannot reach the router at {address}"))
        .cause(cause)
        .hint("is it running? on its machine: `modemesh up` or `mesh-router run`")
        .hint("is it on another machine? name it: --router HOST:7402")
}

/// Somebody there who is not who was looked for.
fn wrong_port(address: &str, whom: &str, cause: &str) -> Failure {
    Failure::new(Kind::Unreachable, format!("what answers at {address} is no router's port for {whom}"))
        .cause(cause)
        .hint("a router's ports are 7400 for clients, 7401 for agents and logins, 7402 for operators (--router HOST:7402), unless its configuration says otherwise")
}

/// What a failed connection to the port for `whom` means.
pub(crate) fn refusal(address: &str, whom: &str, error: &ConnectError) -> Failure {
    match error {
        ConnectError::Unreachable { source, .. } => unreachable(address, &system_words(source)),
        ConnectError::Refused { source, .. } if Answered::of(source).is_some() => {
            match Answered::of(source) {
                Some(answer @ (Answered::NoTls | Answered::OtherTls)) => {
                    wrong_port(address, whom, answer.words())
                }
                _ => ways_in(
                    Failure::new(Kind::Refused, format!("the TLS handshake with {address} failed"))
                        .cause(why(source)),
                ),
            }
        }
        ConnectError::Refused { source, .. } => unreachable(
            address,
            &format!("something answers there but ends the TLS handshake: {}", system_words(source)),
        ),
        ConnectError::Identity(error) => {
            ways_in(Failure::new(Kind::Refused, "the operator credentials are unusable").cause(chain(error)))
        }
        ConnectError::Grpc { source, .. } => refused(address, &why(source)),
    }
}

/// `connection refused` without the number of the system call.
pub(crate) fn system_words(error: &io::Error) -> String {
    const WORDS: [(io::ErrorKind, &str); 5] = [
        (io::ErrorKind::ConnectionRefused, "connection refused"),
        (io::ErrorKind::ConnectionReset, "connection reset"),
        (io::ErrorKind::UnexpectedEof, "connection closed"),
        (io::ErrorKind::HostUnreachable, "no route to the host"),
        (io::ErrorKind::NetworkUnreachable, "no route to the network"),
    ];
    let known = WORDS.into_iter().find(|(kind, _)| *kind == error.kind());
    known.map_or_else(|| chain(error), |(_, words)| words.to_owned())
}

#[cfg(test)]
mod tests;
