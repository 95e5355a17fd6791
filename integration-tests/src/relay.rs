//! A network between one node and its router: TCP passes always, UDP can be lost and come back, as behind a
//! firewall that knows no UDP, and the node's address can change, as that of a laptop that is carried about.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A running relay; it ends when dropped.
pub struct Relay {
    /// Where the node connects instead of the router.
    pub address: SocketAddr,
    udp_passes: watch::Sender<bool>,
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
        let (moves, moved) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut node, _)) = tcp.accept().await {
                connections.spawn(async move {
                    if let Ok(mut upstream) = TcpStream::connect(router).await {
                        // An end is an end, however it came about.
                        drop(copy_bidirectional(&mut node, &mut upstream).await);
                    }
                });
            }
        });
        tasks.spawn(pass_datagrams(udp, router, passes, moved));
        Self { address, udp_passes, moves, _tasks: tasks }
    }

    /// From now on UDP passes, or is lost without a sign.
    pub fn let_udp_pass(&self, passes: bool) {
        self.udp_passes.send_replace(passes);
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
