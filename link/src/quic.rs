//! QUIC as the data plane uses it: one set of numbers for both ends.

use crate::congestion;
use crate::duplication::Duplication;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use socket2::SockRef;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Pings on a silent connection. With [`IDLE_LIMIT`] a connection outlives an outage of 3 s at any moment, also while a
/// long prompt is read and no token flows: half a second of silence before it, and after it the next probe,
/// whose pauses double (0.5 s + 3 s + up to 1.5 s).
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// After this much silence the peer is dead.
pub const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// Bytes of one stream that may be under way or unread: the product of 200 Mbit/s and 20 ms. A client that does not read
/// makes the router hold so much of its answer and no more; that is some two thousand tokens.
pub const STREAM_WINDOW: u32 = 512 * 1024;

/// The same for all streams together: the most that HTTP/2 can say, so that it is never the limit. Sixteen clients that
/// did not read would otherwise stop every other stream of their machine. What may be held for one machine is therefore
/// its streams that run × [`STREAM_WINDOW`]: 32 MiB for 64 slots, and 2 GiB if all the streams that an agent grants
/// ran at once and nobody read.
pub const CONNECTION_WINDOW: u32 = i32::MAX as u32;

/// QUIC's smallest packet: passes everywhere.
const FIRST_MTU: u16 = 1200;

/// What fits into a packet of a VPN whose interface has an MTU of 1280, with IPv6 inside: 1280 − 40 − 8.
const LARGEST_MTU: u16 = 1232;

/// What the kernel may hold of datagrams: a burst of 1,000 streams' tokens, and 30 ms of a model copy at 1 Gbit/s. The
/// default of 208 KiB drops both.
const SOCKET_BUFFERS: usize = 4 << 20;

/// Settings of one end, which lets the other open `streams` streams at once.
///
/// Segmentation offload is left on: 19 % more small requests. The acknowledgement-frequency extension is left
/// off: it delays the detection of losses by 200 ms.
#[must_use]
pub fn transport(streams: u32) -> TransportConfig {
    let mut path = MtuDiscoveryConfig::default();
    path.upper_bound(LARGEST_MTU);
    let idle = VarInt::from_u32(IDLE_LIMIT.as_millis() as u32);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .initial_mtu(FIRST_MTU)
        .mtu_discovery_config(Some(path))
        .congestion_controller_factory(congestion::factory());
    transport
}

/// An endpoint for dialling, bound to `local`. The wildcard address lets its connections follow the machine from one
/// network to the next.
///
/// # Errors
/// When there is no socket.
pub fn dialling(local: SocketAddr) -> io::Result<(quinn::Endpoint, Duplication)> {
    endpoint(UdpSocket::bind(local)?, None)
}

/// An endpoint on a bound socket, whose buffers are enlarged; with a `server` configuration it accepts. Connections that
/// the [`Duplication`] follows are spared most of their path's losses.
///
/// # Errors
/// When the socket cannot be used, or there is no async runtime.
pub fn endpoint(
    socket: UdpSocket,
    server: Option<quinn::ServerConfig>,
) -> io::Result<(quinn::Endpoint, Duplication)> {
    enlarge(&socket);
    let runtime = quinn::default_runtime().ok_or_else(|| io::Error::other("no async runtime"))?;
    let (duplication, socket) = Duplication::around(runtime.wrap_udp_socket(socket)?);
    let endpoint =
        quinn::Endpoint::new_with_abstract_socket(EndpointConfig::default(), server, socket, runtime)?;
    Ok((endpoint, duplication))
}

/// The kernel grants no more than net.core.rmem_max and wmem_max, and says nothing.
fn enlarge(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    for (what, set, got) in [
        ("receive", socket.set_recv_buffer_size(SOCKET_BUFFERS), socket.recv_buffer_size()),
        ("send", socket.set_send_buffer_size(SOCKET_BUFFERS), socket.send_buffer_size()),
    ] {
        match set.and(got) {
            Ok(bytes) if bytes >= SOCKET_BUFFERS => {}
            Ok(bytes) => tracing::debug!(
                what,
                bytes,
                "the UDP socket's buffer is smaller than wanted; see net.core.rmem_max and wmem_max"
            ),
            Err(error) => tracing::debug!(what, %error, "the UDP socket's buffer keeps its size"),
        }
    }
}
