//! A network between one node and its router: UDP can be lost and come back, as behind a firewall that knows no UDP;
//! TCP can stand still, as in an outage, or be ended by the network; and the node's address can change, as that of
//! a laptop that is carried about.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A running relay; it ends when dropped.
pub struct Relay {
    /// Where the node connects instead of the router.
    pub address: SocketAddr,
    udp_passes: watch::Sender<bool>,
    tcp_passes: watch::Sender<bool>,
    tcp_cuts: watch::Sender<u8>,
    moves: watch::Sender<u8>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// A relay to `router`. Every packet passes.
    ///
    /// # Panics
    /// When there are no free ports.
    pub async fn start(router: SocketAddr) -> Self {
        let (tcp, udp) = same_port().await;
        let address = tcp.local_addr().expect("just bound");
        let (udp_passes, passes) = watch::channel(true);
        let (tcp_passes, stands) = watch::channel(true);
        let (tcp_cuts, mut cut) = watch::channel(0);
        let (moves, moved) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((node, _)) = tcp.accept() => {
                        connections.spawn(pass_bytes(node, router, stands.clone()));
                    }
                    Ok(()) = cut.changed() => connections = JoinSet::new(),
                    else => return,
                }
            }
        });
        tasks.spawn(pass_datagrams(udp, router, passes, moved));
        Self { address, udp_passes, tcp_passes, tcp_cuts, moves, _tasks: tasks }
    }

    /// From now on UDP passes, or is lost without a sign.
    pub fn let_udp_pass(&self, passes: bool) {
        self.udp_passes.send_replace(passes);
    }

    /// From now on TCP passes, or stands still without a sign; what stood then arrives when it passes again.
    pub fn let_tcp_pass(&self, passes: bool) {
        self.tcp_passes.send_replace(passes);
    }

    /// Ends every TCP connection towards both sides, as a proxy between them may.
    pub fn cut_tcp(&self) {
        self.tcp_cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on the router sees the node's datagrams come from another address and port, and what it sends to the
    /// old one is lost.
    pub fn move_node(&self) {
        self.moves.send_modify(|moves| *moves += 1);
    }
}

async fn same_port() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("just bound")).await {
            return (tcp, udp);
        }
    }
}

async fn pass_bytes(node: TcpStream, router: SocketAddr, passes: watch::Receiver<bool>) {
    let Ok(upstream) = TcpStream::connect(router).await else { return };
    let ((from_node, to_node), (from_router, to_router)) = (node.into_split(), upstream.into_split());
    tokio::join!(pass_on(from_node, to_router, passes.clone()), pass_on(from_router, to_node, passes));
}

/// An end is an end, however it came about.
async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut passes: watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut bytes).await.unwrap_or(0);
        let stands = passes.wait_for(|passes| *passes).await.is_err();
        if length == 0 || stands || to.write_all(&bytes[..length]).await.is_err() {
            return drop(to.shutdown().await);
        }
    }
}

/// For the one node whose datagrams came last. A node that dials again does so from another port, which for
/// the router is another address too.
async fn pass_datagrams(
    node_side: UdpSocket,
    router: SocketAddr,
    passes: watch::Receiver<bool>,
    mut moved: watch::Receiver<u8>,
) {
    let node_side = Arc::new(node_side);
    let mut node = None;
    let mut back = JoinSet::new();
    let mut router_side: Option<Arc<UdpSocket>> = None;
    let mut packet = [0; 2048];
    // An error here is the notice that a port is closed: not this relay's business.
    loop {
        let Ok((length, from)) = node_side.recv_from(&mut packet).await else { continue };
        if !*passes.borrow() {
            continue;
        }
        let has_moved = moved.has_changed().unwrap_or(false);
        if node != Some(from) || has_moved {
            if has_moved {
                back = JoinSet::new();
            }
            // All of 127.0.0.0/8 is this machine.
            let ours = format!("127.0.0.{}:0", 1 + *moved.borrow_and_update());
            let fresh = Arc::new(UdpSocket::bind(ours).await.expect("a free port"));
            fresh.connect(router).await.expect("loopback");
            node = Some(from);
            router_side = Some(fresh.clone());
            let (node_side, passes) = (node_side.clone(), passes.clone());
            back.spawn(async move {
                let mut packet = [0; 2048];
                loop {
                    let Ok(length) = fresh.recv(&mut packet).await else { continue };
                    if *passes.borrow() {
                        drop(node_side.send_to(&packet[..length], from).await);
                    }
                }
            });
        }
        if let Some(router_side) = &router_side {
            drop(router_side.send(&packet[..length]).await);
        }
    }
}
