//! Who holds a port: read from `/proc`, as far as this user may look.

use std::fs;
use std::net::SocketAddr;

/// A transport with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, listening sockets only.
    Tcp,
    /// UDP.
    Udp,
}

/// The process that holds `port`, as `nginx (pid 812)`. `None` when the system does not tell: another user's
/// process, or no `/proc`.
#[must_use]
pub fn holder(port: u16, protocol: Protocol) -> Option<String> {
    let inodes = socket_inodes(port, protocol);
    if inodes.is_empty() {
        return None;
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|pid| pid.bytes().all(|b| b.is_ascii_digit())) else { continue };
        let Ok(handles) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = handles.flatten().any(|handle| {
            let target = fs::read_link(handle.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            target
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|inode| inodes.iter().any(|known| known == inode))
        });
        if holds {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", command.trim()));
        }
    }
    None
}

/// The inodes of the sockets bound to `port` (columns of `/proc/net/tcp`: 1 local address, 3 state, 9 inode).
fn socket_inodes(port: u16, protocol: Protocol) -> Vec<String> {
    const LISTENING: &str = "0A";
    let files = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let wanted = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for file in files {
        for line in fs::read_to_string(file).unwrap_or_default().lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, _, _, _, _, _, inode, ..] = columns.as_slice() else { continue };
            if local.ends_with(&wanted) && (protocol == Protocol::Udp || *state == LISTENING) {
                inodes.push((*inode).to_owned());
            }
        }
    }
    inodes
}

/// A complaint about an address that cannot be listened on: names the holder of a busy port.
#[must_use]
pub fn cannot_listen(
    purpose: &str,
    address: SocketAddr,
    protocol: Protocol,
    flag: &str,
    error: &std::io::Error,
) -> crate::complaint::Complaint {
    let transport = if protocol == Protocol::Tcp { "TCP" } else { "UDP" };
    let complaint =
        crate::complaint::Complaint::new(format!("cannot listen on {address} ({transport}) for {purpose}"));
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return complaint.cause(error).hint(format!("choose another address with {flag} ADDRESS:PORT"));
    }
    let cause = match holder(address.port(), protocol) {
        Some(process) => format!("the port is in use by {process}"),
        None => "the port is in use by another process".into(),
    };
    complaint.cause(cause).hint(format!("stop that process, or choose another port with {flag} ADDRESS:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn our_own_sockets_are_found_by_their_port() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let mine = format!("(pid {})", std::process::id());
        for (port, protocol) in [
            (tcp.local_addr().expect("bound").port(), Protocol::Tcp),
            (udp.local_addr().expect("bound").port(), Protocol::Udp),
        ] {
            let found = holder(port, protocol).expect("this process may look at itself");
            assert!(found.ends_with(&mine), "{found}");
        }
    }

    #[test]
    fn a_busy_port_is_explained_with_a_way_out() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = tcp.local_addr().expect("bound");
        let error = TcpListener::bind(address).expect_err("it is taken");
        let complaint = cannot_listen("clients", address, Protocol::Tcp, "--clients", &error);
        assert!(complaint.cause.expect("known").contains(&format!("(pid {})", std::process::id())));
        assert!(complaint.hint.expect("given").contains("--clients"));
    }
}
