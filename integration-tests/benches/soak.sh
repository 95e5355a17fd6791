#!/usr/bin/env bash
# A mesh of a router and two agents for a long time: steady requests, clients that leave, agents that are killed. Memory
# must stay flat and every count must be back at 0.
#
#   integration-tests/benches/soak.sh [options]
#     --bin DIR      the project's programs, built with --profile dist [target/dist]
#     --minutes N    how long                                        [30]
#     --rate N       requests per second, streams of 16 tokens       [200]
#     --cancels N    of them each second that leave in the middle    [10]
#     --kill-every N seconds between kills (-9) of an agent, 0: none [60]
#     --out FILE     where the figures go as JSON                    [a temporary folder]
#
# Needs curl, python3, taskset, two cores, and meshbench (see request_path.sh).
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$here/mesh_processes.sh"
. "$here/bench_tools.sh"

BIN=$root/target/dist minutes=30 rate=200 cancels=10 kill_every=60 out=
while [ $# -gt 0 ]; do
  case $1 in
    --bin) BIN=$(cd "$2" && pwd) || exit 1; shift ;;
    --minutes) minutes=$2; shift ;;
    --rate) rate=$2; shift ;;
    --cancels) cancels=$2; shift ;;
    --kill-every) kill_every=$2; shift ;;
    --out) out=$2; shift ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
[ "$rate" -gt "$cancels" ] || die "--cancels are part of --rate: fewer, please"
for program in mesh-router mesh-agent meshctl; do
  [ -x "$BIN/$program" ] || die "$BIN/$program is missing: cargo build --profile dist --workspace, or --bin DIR"
done
MESHBENCH=$(bench_tool meshbench "${MESHBENCH:-}") || exit 1
WORK=$(mktemp -d "${TMPDIR:-/tmp}/soak.XXXXXX")
trap 'stop_all; rm -rf "$WORK"' EXIT
trap 'exit 130' INT TERM
out=${out:-$WORK/figures.json}
last_core=$(($(nproc) - 1))
port=${BENCH_PORT:-18900}
url=http://127.0.0.1:$port

backend $last_core "127.0.0.1:$((port + 5))"
mesh_router mesh 0 127.0.0.1 "$port"
router=$PID
agents=()
for which in 0 1; do
  folder=$WORK/mesh-router
  token=$("$BIN/meshctl" --data "$folder" token create --role node --ttl 1h 2>/dev/null | head -n 1)
  AGENT_METRICS=127.0.0.1:$((port + 6 + which))
  mesh_agent "agent-$which" 0 "127.0.0.1:$((port + 1))" "$token" "$BACKEND"
  agents[which]=$PID
done
until_true 60 "the mesh's first answer" answers "$url" "$KEY"

metric() { curl -sf --noproxy '*' -H "authorization: Bearer $KEY" "$1/metrics" | awk -v name="$2" '$1 == name {print $2}'; }
sample() { echo "$SECONDS $(rss "$router") $(rss "${agents[0]}") $(rss "${agents[1]}")" >>"$WORK/memory" 2>/dev/null; }

length=$((minutes * 60))
# What leaves wants a minute of tokens and gives up after a third of a second.
taskset -c $last_core "$MESHBENCH" load --url "$url" --api-key "$KEY" --mode open --poisson --stream --rate $((rate - cancels)) \
  --ttft-ms 20 --itl-ms 20 --tokens 16 --warmup 1 --duration $length >"$WORK/steady.json" 2>"$WORK/steady.err" &
steady=$!
taskset -c $last_core "$MESHBENCH" load --url "$url" --api-key "$KEY" --mode open --poisson --stream --rate "$cancels" \
  --timeout 0.3 --ttft-ms 20 --itl-ms 50 --tokens 1200 --warmup 1 --duration $length >"$WORK/leaving.json" 2>"$WORK/leaving.err" &
leaving=$!
PIDS+=("$steady" "$leaving")
SECONDS=0 kills=0 next_kill=$kill_every
while kill -0 $steady 2>/dev/null; do
  sleep 5
  sample
  if [ "$kill_every" -gt 0 ] && [ $SECONDS -ge "$next_kill" ] && [ $SECONDS -lt $((length - 20)) ]; then
    which=$((kills % 2))
    kill -9 "${agents[which]}"
    wait "${agents[which]}" 2>/dev/null
    started "agent-$which" taskset -c 0 "$BIN/mesh-agent" --data "$WORK/agent-$which-agent" run
    agents[which]=$PID
    kills=$((kills + 1)) next_kill=$((next_kill + kill_every))
  fi
done
wait $steady $leaving
# What was in flight ends within seconds, or it hangs and is shown.
for _ in $(seq 100); do [ "$(metric "$url" modemesh_router_in_flight)" = 0 ] && break; sleep 0.1; done
{
  echo "modemesh_router_in_flight $(metric "$url" modemesh_router_in_flight)"
  for which in 0 1; do
    echo "modemesh_agent_requests_in_flight[$which] $(metric "http://127.0.0.1:$((port + 6 + which))" modemesh_agent_requests_in_flight)"
  done
} >"$WORK/counters"
python3 "$here/soak_table.py" "$WORK" "$kills" "$out"
