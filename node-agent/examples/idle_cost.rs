//! What an agent costs while nothing happens: CPU, memory, reports.
//!
//! ```text
//! cargo run --release -p node-agent --example idle_cost -- [SECONDS [ROOT…]]
//! ```
//! Each agent is a process of its own with everything that `mesh-agent run` has: the probe at 1 Hz, the search for
//! engines, both links with real certificates to a router in this process. ROOT is where it finds `/proc` and
//! `/sys`; without any, this machine and every machine in `tests/roots`, all at once. CPU time is the kernel's count
//! for the process, RSS the `VmRSS` at the end. Goals: 0.5 % of one core, 25 MB.

#[expect(dead_code, reason = "the tests' router does more than wait")]
#[path = "../tests/agent_links/scripted_router.rs"]
mod scripted_router;

use mesh_daemon::telemetry;
use mesh_proto::v1::agent_message;
use node_agent::app::{Agent, AgentOptions, Uplink};
use node_agent::config::AgentConfig;
use node_agent::router_link::Identity;
use prometheus_client::registry::Registry;
use scripted_router::{Attached, Mesh, ScriptedRouter, any, name};
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// What starting costs is not what being there costs.
const WARM_UP: Duration = Duration::from_secs(5);

/// `USER_HZ`, in which Linux tells processes their CPU time on all architectures of today.
const TICKS: f64 = 100.0;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    let said = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["agent", folder, router, root, seconds] => {
            runtime.block_on(agent(Path::new(folder), router, Path::new(root), seconds.parse()?))?
        }
        rest => {
            let seconds = rest.first().map_or(Ok(60), |text| text.parse())?;
            let roots = rest.iter().skip(1).map(PathBuf::from).collect();
            runtime.block_on(compare(seconds, roots))?
        }
    };
    std::io::stdout().write_all(said.as_bytes())?;
    Ok(())
}

/// Measures an agent for each root and prints a line for each.
async fn compare(seconds: u64, mut roots: Vec<PathBuf>) -> Result<String, Failure> {
    if roots.is_empty() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/roots");
        roots = std::fs::read_dir(fixtures)?.flatten().map(|entry| entry.path()).collect();
        roots.retain(|path| path.is_dir());
        roots.sort();
        roots.insert(0, "/".into());
    }
    let mesh = Mesh::new();
    mesh.certify(Duration::from_secs(24 * 3600));
    let mut router = ScriptedRouter::start(&mesh, any());
    let mut running = Vec::new();
    for root in roots {
        let child = Command::new(std::env::current_exe()?)
            .args(["agent".as_ref(), mesh.agent_folder().as_os_str()])
            .args([router.address.to_string().as_ref(), root.as_os_str()])
            .arg(seconds.to_string())
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        // One after the other, so that each session is known by its root.
        let attached = router.attached().await;
        running.push(tokio::spawn(measure(root, child, attached, seconds)));
    }
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let mut out = format!(
        "{seconds} s at 1 Hz, {} agents at once, load average of this machine {}\n\n",
        running.len(),
        load.split(' ').take(3).collect::<Vec<_>>().join(" ")
    );
    out += "| machine | CPU, % of one core | RSS, MB | of that its own, MB | reports a minute |\n|---|---|---|---|---|\n";
    for line in running {
        out += &line.await??;
    }
    Ok(out)
}

async fn measure(
    root: PathBuf,
    child: Child,
    mut attached: Attached,
    seconds: u64,
) -> Result<String, Failure> {
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs(seconds);
    let mut reports = 0_u32;
    while let Ok(message) = timeout_at(end, attached.message()).await {
        let message = message.ok_or("the agent has left")?;
        if Instant::now() >= begin && matches!(message, agent_message::Kind::Report(_)) {
            reports += 1;
        }
    }
    // It is still listened to until it has told its figures.
    let listening = tokio::spawn(async move { while attached.message().await.is_some() {} });
    let output = child.wait_with_output().await?;
    listening.abort();
    let machine = root.file_name().map_or("this one".into(), |name| name.to_string_lossy().into_owned());
    let per_minute = f64::from(reports) * 60.0 / seconds as f64;
    Ok(format!("| {machine} | {} | {per_minute:.1} |\n", String::from_utf8_lossy(&output.stdout)))
}

/// One agent; returns its figures.
async fn agent(folder: &Path, router: &str, root: &Path, seconds: u64) -> Result<String, Failure> {
    let config = AgentConfig::default();
    let _telemetry = telemetry::init(&config.telemetry, "mesh-agent").map_err(|error| error.to_string())?;
    let options = AgentOptions {
        data: folder.into(),
        name: name("node-1"),
        root: root.into(),
        uplink: Some(Uplink { router: router.into(), identity: Identity::open(folder)? }),
    };
    let stop = CancellationToken::new();
    let agent = Agent::start(options, &config, &mut Registry::default(), stop.clone()).await;
    let agent = agent.map_err(|complaint| complaint.to_string())?;
    sleep(WARM_UP).await;
    let (before, since) = (cpu_seconds()?, Instant::now());
    sleep(Duration::from_secs(seconds)).await;
    let share = (cpu_seconds()? - before) / since.elapsed().as_secs_f64() * 100.0;
    let said = format!("{share:.2} | {:.1} | {:.1}", status_mb("VmRSS")?, status_mb("RssAnon")?);
    // The router began to count a moment later.
    sleep(WARM_UP).await;
    stop.cancel();
    agent.stopped().await;
    Ok(said)
}

/// CPU time of this process and its threads so far, in user mode and in the kernel.
fn cpu_seconds() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may hold anything; after it, fields 14 and 15 of proc(5) are the 12th and 13th.
    let (_, rest) = text.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let ticks: Vec<f64> =
        rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

/// A line of `/proc/self/status` in MB (10⁶ bytes).
fn status_mb(key: &str) -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).ok_or("no such line")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Completes with `future` or fails: nothing here takes this long unless it hangs.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(20), future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not happen within 20 s"))
}
