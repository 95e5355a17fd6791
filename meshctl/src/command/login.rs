//! `meshctl login`: an operator token traded for credentials on this machine.

use crate::address;
use crate::cli::LoginArgs;
use crate::connect::{Way, refusal};
use crate::exit::{Failure, Kind, chain};
use crate::output::Screen;
use crate::render;
use mesh_core::id::{MachineId, machine_id_from_hostname};
use mesh_core::units::human_duration;
use mesh_proto::identity::join::{JoinError, join};
use mesh_proto::identity::{Credentials, JoinToken, Role};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

/// How long the trade may take when `--timeout` says nothing.
const USUAL_LIMIT: Duration = Duration::from_secs(20);

/// What `login --json` prints.
#[derive(Serialize)]
struct LoggedIn<'a> {
    name: &'a str,
    address: &'a str,
    folder: String,
    expires_in_s: u64,
}

/// # Errors
/// `Usage` for a damaged token, `Unreachable`, or `Refused` by either side. The old credentials stay until
/// the new ones are complete.
pub(super) async fn run(args: LoginArgs, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let token: JoinToken = args.token.parse().map_err(|error| {
        Failure::new(Kind::Usage, "this join token cannot be used")
            .cause(chain(&error))
            .hint("make one on the router: meshctl token create --role operator")
    })?;
    let redeem_at = address::with_port(&args.redeem_at, address::AGENTS)?;
    let operators = match &args.operators {
        Some(typed) => address::with_port(typed, address::OPERATORS)?,
        None => address::with_port(address::host(&redeem_at), address::OPERATORS)?,
    };
    let name = args.name.unwrap_or_else(proposed_name);
    let folder = way.operator_folder();
    let fresh = folder.with_extension("new");
    // The remains of a login that was cut off: its key was never certified.
    forget(&fresh)?;
    let limit = way.timeout.unwrap_or(USUAL_LIMIT);
    let joined = tokio::time::timeout(limit, join(&redeem_at, &token, name.as_str(), &fresh)).await;
    let credentials = match joined {
        Ok(Ok(credentials)) => accept(credentials, &fresh, &operators),
        Ok(Err(error)) => Err(meaning(&redeem_at, &error)),
        Err(_) => Err(Failure::new(
            Kind::TimedOut,
            format!("the router at {redeem_at} gave no answer within {}", human_duration(limit)),
        )),
    };
    let credentials = match credentials {
        Ok(credentials) => credentials,
        Err(failure) => {
            forget(&fresh)?;
            return Err(failure);
        }
    };
    replace(&folder, &fresh)?;
    let left = credentials.expires_at().duration_since(SystemTime::now()).unwrap_or_default();
    let name = credentials.peer().name.as_str();
    if screen.is_json() {
        let folder = folder.display().to_string();
        let logged_in = LoggedIn { name, address: &operators, folder, expires_in_s: left.as_secs() };
        return screen.result(&render::json("mesh.login/v1", &logged_in, false));
    }
    let said = format!(
        "logged in as operator {name} for {}; credentials are in {}\nnext: meshctl status\n",
        human_duration(left),
        folder.display()
    );
    screen.note(&screen.commands(&said));
    Ok(())
}

/// What the host calls itself, made a valid name.
fn proposed_name() -> MachineId {
    let host =
        fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    machine_id_from_hostname(host.unwrap_or_default().trim())
}

/// Checks that the token made an operator, and notes where operators connect.
fn accept(credentials: Credentials, folder: &Path, operators: &str) -> Result<Credentials, Failure> {
    let role = credentials.peer().role;
    if role != Role::Operator {
        return Err(Failure::new(Kind::Refused, format!("this token makes a {role}, not an operator"))
            .hint("it is spent now; make one with: meshctl token create --role operator"));
    }
    let file = folder.join("address");
    fs::write(&file, format!("{operators}\n")).map_err(|error| at("writing", &file, &error))?;
    Ok(credentials)
}

fn meaning(address: &str, error: &JoinError) -> Failure {
    const FRESH: &str = "make a fresh token on the router: meshctl token create --role operator";
    match error {
        JoinError::WrongRouter { .. } => Failure::new(Kind::Refused, error.to_string()).hint(
            "use the address of the router that made the token; the token was not sent and is still good",
        ),
        JoinError::Connect(error) => {
            let failure = refusal(address, "logins", error);
            Failure {
                hints: vec![format!(
                    "is this the router's agent address? its port is usually {}",
                    address::AGENTS
                )],
                ..failure
            }
        }
        JoinError::Refused(_) => Failure::new(Kind::Refused, error.to_string()).hint(FRESH),
        JoinError::Identity(error) => {
            Failure::new(Kind::Failed, "cannot make credentials").cause(chain(error))
        }
    }
}

/// Puts `fresh` in the place of `folder`. A power cut leaves the old folder, or the new one under one of two
/// names; a half-written one never counts.
fn replace(folder: &Path, fresh: &Path) -> Result<(), Failure> {
    let old: PathBuf = folder.with_extension("old");
    forget(&old)?;
    match fs::rename(folder, &old) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at("moving away", folder, &error)),
    }
    fs::rename(fresh, folder).map_err(|error| at("moving", fresh, &error))?;
    forget(&old)
}

fn forget(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("removing", folder, &error)),
        _ => Ok(()),
    }
}

fn at(action: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(Kind::Failed, format!("{action} {} failed", path.display())).cause(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_credentials_replace_old_ones_whole() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let (folder, fresh) = (data.path().join("operator"), data.path().join("operator.new"));
        for (content, extra) in [("first", "only-in-first"), ("second", "only-in-second")] {
            fs::create_dir(&fresh).expect("a new folder");
            fs::write(fresh.join("address"), content).expect("a file");
            fs::write(fresh.join(extra), "").expect("a file");
            replace(&folder, &fresh).expect("same file system");
            assert_eq!(fs::read_to_string(folder.join("address")).expect("moved"), content);
        }
        assert!(!folder.join("only-in-first").exists() && folder.join("only-in-second").exists());
        assert_eq!(fs::read_dir(data.path()).expect("readable").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn this_machine_always_has_a_name_to_propose() {
        assert!(!proposed_name().as_str().is_empty());
    }
}
