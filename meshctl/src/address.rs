//! Addresses as people type them: `strix-1`, `10.0.0.2:7402`, `[fd7a::1]`, `fd7a::1`.

use crate::exit::{Failure, Kind};
use std::net::Ipv6Addr;

/// Where agents connect, and where tokens are redeemed.
pub(crate) const AGENTS: u16 = 7401;
/// Where operators connect.
pub(crate) const OPERATORS: u16 = 7402;

/// `text` with `port` added where it names none.
///
/// # Errors
/// A usage failure that shows `text`, when it is no host or its port is no port.
pub(crate) fn with_port(text: &str, port: u16) -> Result<String, Failure> {
    let bad = |why: &str| {
        Failure::new(Kind::Usage, format!("`{}` is no router address: {why}", shown(text)))
            .hint(format!("write HOST or HOST:PORT, as in `strix-1:{port}`"))
    };
    if text.contains("://") {
        return Err(bad("it has a scheme"));
    }
    let (host, typed_port) = split(text);
    if host.is_empty() || host.len() > 255 {
        return Err(bad("the host must have 1 to 255 characters"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let bracketed = host.contains(':') || text.starts_with('[');
    if bracketed && host.parse::<Ipv6Addr>().is_err() {
        return Err(bad("the host is no IPv6 address"));
    }
    if !bracketed && !host.chars().all(plain) {
        return Err(bad("the host holds a character that host names do not have"));
    }
    let port = match typed_port {
        Some(digits) => match digits.parse::<u16>() {
            Ok(number) if number > 0 => number,
            _ => return Err(bad("the port must be 1 to 65535")),
        },
        None => port,
    };
    Ok(if bracketed { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// The host of an address that [`with_port`] made, without brackets.
pub(crate) fn host(address: &str) -> &str {
    split(address).0
}

/// Whether this host is only reachable from its own machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether this is a bind address ("all interfaces") that nobody can dial.
pub(crate) fn is_unspecified(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

fn split(text: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        return (host, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some(rest) }));
    }
    match text.rsplit_once(':') {
        // More than one colon and no brackets: an IPv6 address without a port.
        Some((host, _)) if host.contains(':') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_added_only_where_it_is_missing() {
        for (typed, meant) in [
            ("strix-1", "strix-1:7402"),
            ("strix-1:9", "strix-1:9"),
            ("10.0.0.2", "10.0.0.2:7402"),
            ("fd7a::1", "[fd7a::1]:7402"),
            ("[fd7a::1]", "[fd7a::1]:7402"),
            ("[fd7a::1]:80", "[fd7a::1]:80"),
        ] {
            assert_eq!(with_port(typed, OPERATORS).as_deref(), Ok(meant), "{typed}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_text() {
        for typed in ["", ":7402", "http://a:1", "a b", "a:0", "a:99999", "a:", "[zz]:1", "[::1]x", "a/b"] {
            let failure = with_port(typed, OPERATORS).expect_err(typed);
            assert_eq!(failure.kind, Kind::Usage);
            assert!(failure.what.contains(typed), "{}", failure.what);
        }
    }

    #[test]
    fn bind_addresses_and_loopback_are_told_apart() {
        assert!(is_unspecified("0.0.0.0") && is_unspecified("::") && !is_unspecified("10.0.0.1"));
        assert!(is_loopback("localhost") && is_loopback("127.0.0.1") && is_loopback("::1"));
        assert_eq!(host("[::1]:7402"), "::1");
    }
}
