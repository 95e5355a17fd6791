#!/usr/bin/env bash
# Token streams over a bad link: QUIC beside HTTP/2 over TLS, an agent that changes its address, a path of MTU 1280.
#
#   sudo integration-tests/benches/lossy_link.sh [options]
#     --bin DIR        the project's programs, built with --profile dist                     [target/dist]
#     --profiles A,B   of wifi (1 % loss, 2 + 0..5 ms), wan (1 % loss, 20 + 0..5 ms), clean [wifi,wan]
#     --links A,B      of quic,h2,auto: the agent's `data_link`; `default` sets nothing     [quic,h2]
#     --runs N         of each link in each profile, interleaved                           [3]
#     --seconds N      of each measurement                                                 [10]
#     --no-roaming     leaves out the change of address
#     --no-mtu         leaves out the path of MTU 1280
#     --out FILE       where the figures go as JSON                                        [a temporary folder]
#
# Router and clients are in one network namespace, agent and backend in another, joined by two TUN devices and linkemu:
# many kernels have no `netem`. Needs root, `ip`, curl, python3, and meshbench and linkemu: MESHBENCH and LINKEMU name
# the programs, or they are built from the folder $BENCH_TOOLS.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$here/mesh_processes.sh"
. "$here/bench_tools.sh"

BIN=$root/target/dist profiles=wifi,wan links=quic,h2 runs=3 seconds=10 roaming=yes mtu=yes out=
while [ $# -gt 0 ]; do
  case $1 in
    --bin) BIN=$(cd "$2" && pwd) || exit 1; shift ;;
    --profiles) profiles=$2; shift ;;
    --links) links=$2; shift ;;
    --runs) runs=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --no-roaming) roaming=no ;;
    --no-mtu) mtu=no ;;
    --out) out=$2; shift ;;
    *) sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done

[ "$(id -u)" = 0 ] || die "network namespaces need root"
for tool in ip curl python3 taskset; do command -v $tool >/dev/null || die "$tool is not installed"; done
for program in mesh-router mesh-agent meshctl; do
  [ -x "$BIN/$program" ] || die "$BIN/$program is missing: cargo build --profile dist --workspace, or --bin DIR"
done
[ -c /dev/net/tun ] || die "no /dev/net/tun: this kernel or container has no TUN devices"
MESHBENCH=$(bench_tool meshbench "${MESHBENCH:-}") || exit 1
LINKEMU=$(bench_tool linkemu "${LINKEMU:-}") || exit 1

# Names of this run only (device names have 15 bytes at most).
head=mmr$$ tail=mma$$ near=mmtr$$ far=mmta$$
ROUTER_IP=10.77.0.1 AGENT_IP=10.77.0.2 AGENT_IP_2=10.77.0.3 STREAMS=50
WORK=$(mktemp -d "${TMPDIR:-/tmp}/lossy-link.XXXXXX")
out=${out:-$WORK/figures.json}
link_down() {
  stop_all
  ip netns del $head 2>/dev/null
  ip netns del $tail 2>/dev/null
  ip link del $near 2>/dev/null
  ip link del $far 2>/dev/null
  true
}
trap 'link_down; rm -rf "$WORK"' EXIT
trap 'exit 130' INT TERM
in_head() { ip netns exec $head "$@"; }
in_tail() { ip netns exec $tail "$@"; }
last_core=$(($(nproc) - 1))

# link_up MTU LINKEMU_OPTION…: both namespaces, the link, the backend, the router, and an agent that has joined.
link_up() {
  local bytes=$1; shift
  ip netns add $head && ip netns add $tail || die "no network namespaces here"
  ip tuntap add dev $near mode tun && ip tuntap add dev $far mode tun || die "no TUN devices here"
  started linkemu "$LINKEMU" $near $far "$@"
  until_true 5 "linkemu's start" grep -q ready "$WORK/linkemu.out"
  ip link set $near netns $head && ip link set $far netns $tail || die "the devices could not be moved"
  in_head sh -c "ip addr add $ROUTER_IP/24 dev $near; ip link set $near mtu $bytes up; ip link set lo up"
  in_tail sh -c "ip addr add $AGENT_IP/24 dev $far; ip link set $far mtu $bytes up; ip link set lo up"
  started backend ip netns exec $tail taskset -c $last_core "$MESHBENCH" backend --listen 127.0.0.1:18700 --model mock
  until_true 10 "the backend's start" in_tail curl -sf --noproxy '*' http://127.0.0.1:18700/v1/models
  rm -rf "$WORK/mesh-router" "$WORK/mesh-agent"
  mesh_router mesh 0 $ROUTER_IP 18710 ip netns exec $head
  agent_config "$WORK/mesh-agent" http://127.0.0.1:18700
  # A join may meet the loss, too.
  in_tail "$BIN/mesh-agent" --data "$WORK/mesh-agent" join --name agent $ROUTER_IP:18711 "$TOKEN" >"$WORK/join.out" \
    2>"$WORK/join.err" || { cat "$WORK/join.err" >&2; die "mesh-agent join failed"; }
}

# agent_up LINK starts the agent with that data link; agent_down ends it.
agent_up() {
  case $1 in default) AGENT_MORE= ;; *) AGENT_MORE="data_link = \"$1\"" ;; esac
  agent_config "$WORK/mesh-agent" http://127.0.0.1:18700
  started agent ip netns exec $tail taskset -c 0 "$BIN/mesh-agent" --data "$WORK/mesh-agent" run
  AGENT=$PID
  for _ in $(seq 300); do
    answers http://127.0.0.1:18710 "$KEY" ip netns exec $head && return
    kill -0 "$AGENT" 2>/dev/null || break
    sleep 0.1
  done
  sed 's/^/#   /' "$WORK/agent.err" | tail -n 4 >&2
  say "no answer with data_link $1: left out (is this version's agent without that setting?)"
  agent_down
  return 1
}
agent_down() {
  kill "$AGENT" 2>/dev/null
  wait "$AGENT" 2>/dev/null
  # The router must have seen it go, or the next agent's first answer would be the old one's.
  sleep 1
}

# load NAME OPTION…: meshbench beside the router; its report goes to $WORK/NAME.json.
load() {
  local name=$1; shift
  in_head taskset -c $last_core "$MESHBENCH" load --url http://127.0.0.1:18710 --api-key "$KEY" "$@" >"$WORK/$name.json" \
    2>"$WORK/load.err" || { cat "$WORK/load.err" >&2; die "meshbench load failed"; }
}
streams() { load "$1" --mode hold --conns $STREAMS --ttft-ms 20 --itl-ms 50 --tokens "$2" --warmup 3 --duration "$seconds"; }

for profile in ${profiles//,/ }; do
  case $profile in
    wifi) emulated="--loss 0.01 --delay-ms 2 --jitter-ms 5" ;;
    wan) emulated="--loss 0.01 --delay-ms 20 --jitter-ms 5" ;;
    clean) emulated="--delay-ms 2" ;;
    *) die "no profile $profile" ;;
  esac
  # shellcheck disable=SC2086 # they are words
  link_up 1500 $emulated
  for run in $(seq "$runs"); do
    for link in ${links//,/ }; do
      agent_up "$link" || continue
      streams "link-$profile-$link-$run" 80
      say "$profile $link run $run is measured"
      agent_down
    done
  done
  link_down
done

if [ $roaming = yes ]; then
  for link in ${links//,/ }; do
    link_up 1500 --delay-ms 2
    if agent_up "$link"; then
      # Streams longer than the measurement, so that all of them live through the change.
      streams "roam-$link" $((20 * (seconds + 6))) &
      measuring=$!
      sleep 6
      lost=$(date +%s%N)
      in_tail ip addr del $AGENT_IP/24 dev $far
      sleep 0.3
      in_tail ip addr add $AGENT_IP_2/24 dev $far
      echo $((($(date +%s%N) - lost) / 1000)) >"$WORK/roam-$link.outage"
      wait $measuring || die "measuring the change of address failed"
      say "change of address with $link is measured"
      agent_down
    fi
    link_down
  done
fi
if [ $mtu = yes ]; then
  for link in ${links//,/ }; do
    link_up 1280 --delay-ms 2
    if agent_up "$link"; then
      streams "mtu-streams-$link" 80
      load "mtu-bodies-$link" --mode closed --conns 4 --prompt-bytes 100000 --warmup 1 --duration 4
      say "MTU 1280 with $link is measured"
      agent_down
    fi
    link_down
  done
fi
python3 "$here/lossy_link_table.py" "$WORK" "$out"
