//! Where the router listens: addresses as people write them, and ports that are given twice.

use super::Check;
use std::net::SocketAddr;

/// An address, or a port of this machine alone.
pub(super) fn address_of(text: &str) -> Option<SocketAddr> {
    let alone = || Some(SocketAddr::from(([127, 0, 0, 1], text.parse::<u16>().ok()?)));
    text.parse().ok().or_else(alone)
}

/// Whether two listeners would be in each other's way; port 0 is chosen by the system.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    // Every address of IPv6 is every address of IPv4, too.
    let covers =
        |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let overlap = one.ip() == other.ip() || covers(one, other) || covers(other, one);
    overlap && one.port() == other.port() && one.port() != 0
}

impl Check<'_> {
    /// Complains of listeners that would be in each other's way.
    pub(super) fn shared_ports(&mut self, listeners: [(&str, Option<SocketAddr>); 3]) {
        for (at, (name, address)) in listeners.iter().enumerate() {
            for (other, others) in &listeners[..at] {
                if let (Some(address), Some(others)) = (address, others)
                    && collide(*address, *others)
                {
                    let message = format!(
                        "{address} and listen.{other} ({others}) have the same port: --{other} and --{name} need one each"
                    );
                    self.problem(&format!("listen.{name}"), message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load;
    use std::net::SocketAddr;

    #[test]
    fn a_port_alone_is_one_of_this_machine() {
        let flags = vec![("listen.clients", "17500".into()), ("listen.agents", "[::]:0".into())];
        let settings = load(None, flags).expect("addresses");
        assert_eq!(settings.clients, SocketAddr::from(([127, 0, 0, 1], 17500)));
        let said = load(None, vec![("listen.clients", "175000".into())]).expect_err("no port").to_string();
        assert!(said.contains("  listen.clients: `175000` is no address such as 127.0.0.1:7400"), "{said}");
    }

    #[test]
    fn a_port_for_two_names_both_flags() {
        let said = |clients: &str, operators: &str| {
            let flags = vec![("listen.clients", clients.into()), ("listen.operators", operators.into())];
            load(None, flags).map_err(|complaint| complaint.to_string())
        };
        for (clients, operators) in [
            ("127.0.0.1:17500", "127.0.0.1:17500"),
            ("0.0.0.0:17500", "127.0.0.1:17500"),
            ("127.0.0.1:17500", "[::]:17500"),
        ] {
            let told = said(clients, operators).expect_err("one port for two");
            assert!(
                told.contains("--clients and --operators need one each") && told.contains("17500"),
                "{told}"
            );
        }
        assert!(
            said("127.0.0.1:7401", "127.0.0.1:1")
                .expect_err("the agents'")
                .contains("--clients and --agents")
        );
        for (clients, operators) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:17500", "127.0.0.2:17500"),
            ("0.0.0.0:17500", "[::1]:17500"),
        ] {
            assert!(said(clients, operators).is_ok(), "{clients} {operators}");
        }
    }
}
