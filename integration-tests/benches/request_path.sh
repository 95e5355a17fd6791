#!/usr/bin/env bash
# What the request path costs beside nginx: the table of docs/benchmarks.md, with goals.
#
#   integration-tests/benches/request_path.sh [options]
#     --bin DIR          the project's programs, built with --profile dist        [target/dist]
#     --time FACTOR      on the seconds of each measurement                     [1]
#     --runs N           of each scenario for each target, interleaved          [5]
#     --scenarios A,B    of sse1000,lat200,max64,body100k,burst16               [all]
#     --targets A,B      of one,mesh,mesh-own-core                              [all]
#     --agent-core N     the agent's core in mesh-own-core                      [2, or 1 where there is no other]
#     --no-memory        leaves out the memory at 1,000 and 5,000 streams
#     --only-memory      nothing else
#     --nice N           priority of everything that is measured, -20 (first) to 19; below 0 as root only [0]
#     --router-toml FILE lines added to each router.toml (whole tables)
#     --out FILE         where the figures go as JSON                           [a temporary folder]
#
# Core 0: nginx (one worker) or ours. Core 1: generator and backend. Needs nginx, curl, python3, taskset, two cores, and
# meshbench: MESHBENCH names the program, or it is built from $BENCH_TOOLS/meshbench.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$here/mesh_processes.sh"

BIN=$root/target/dist time=1 runs=5 scenarios=sse1000,lat200,max64,body100k,burst16
targets=one,mesh,mesh-own-core memory=yes table=yes out=
cores=$(nproc)
agent_core=$((cores > 2 ? 2 : 1))
while [ $# -gt 0 ]; do
  case $1 in
    --bin) BIN=$(cd "$2" && pwd) || exit 1; shift ;;
    --time) time=$2; shift ;;
    --runs) runs=$2; shift ;;
    --scenarios) scenarios=$2; shift ;;
    --targets) targets=$2; shift ;;
    --agent-core) agent_core=$2; shift ;;
    --no-memory) memory=no ;;
    --only-memory) table=no ;;
    --nice) renice -n "$2" -p $$ >/dev/null || exit 1; shift ;;
    --router-toml) ROUTER_MORE=$(cat "$2") || exit 1; shift ;;
    --out) out=$2; shift ;;
    *) sed -n '2,21s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done

[ "$cores" -ge 2 ] || die "needs two processor cores"
for tool in "${NGINX:-nginx}" curl python3 taskset; do
  command -v "$tool" >/dev/null || die "$tool is not installed"
done
for program in modemesh mesh-router mesh-agent meshctl; do
  [ -x "$BIN/$program" ] || die "$BIN/$program is missing: cargo build --profile dist --workspace, or --bin DIR"
done
. "$here/bench_tools.sh"
MESHBENCH=$(bench_tool meshbench "${MESHBENCH:-}") || exit 1

WORK=$(mktemp -d "${TMPDIR:-/tmp}/request-path.XXXXXX")
trap 'stop_all; rm -rf "$WORK"' EXIT
trap 'exit 130' INT TERM
out=${out:-$WORK/figures.json}
# Each stream takes two files in a proxy.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
[ "$(ulimit -n)" -ge 20000 ] || say "only $(ulimit -n) open files are allowed: 5,000 streams will not fit"

has() { [[ ",$targets," == *",$1,"* ]]; }
port=${BENCH_PORT:-18000}

# measure_memory TARGET_NAME URL KEY PID…: a fresh process, then 1,000 and 5,000 streams of one token a second.
measure_memory() {
  local name=$1 url=$2 key=$3 idle one five; shift 3
  idle=$(rss "$@")
  local pids; pids=$(IFS=,; echo "$*")
  for streams in 1000 5000; do
    # 20 tokens/s at 1,000 as in sse1000; at 5,000 the processor would be the limit, and it is memory that is asked.
    local itl=50 tokens=80 warm=6
    [ $streams = 1000 ] || { itl=1000 tokens=30 warm=14; }
    taskset -c 1 "$MESHBENCH" load --url "$url" --api-key "$key" --mode hold --conns $streams --ttft-ms 50 --itl-ms $itl \
      --tokens $tokens --warmup $warm --duration 8 --pid "$pids" >"$WORK/memory-$name-$streams.json" 2>"$WORK/memory.err" ||
      { cat "$WORK/memory.err" >&2; die "meshbench load failed"; }
  done
  echo "$name $idle" >>"$WORK/memory-idle"
  say "memory of $name is measured"
}

# launch TARGET PORT: starts one of ours; sets URL, KEY and TARGET_PIDS.
launch() {
  URL=http://127.0.0.1:$2
  case $1 in
    one) one_machine "one-$2" 0 "$2"; TARGET_PIDS=("$PID") ;;
    mesh) mesh "mesh-$2" 0 0 "$2"; TARGET_PIDS=("$ROUTER_PID" "$AGENT_PID") ;;
    mesh-own-core) mesh "own-$2" 0 "$agent_core" "$2"; TARGET_PIDS=("$ROUTER_PID" "$AGENT_PID") ;;
  esac
}

say "load average $(cut -d' ' -f1-3 /proc/loadavg) at the start; $cores cores; agent-core $agent_core"
if [ $table = yes ]; then
  backend 1 "127.0.0.1:$port"
  nginx_proxy 0 $((port + 1))
  specs=(--target "direct=$BACKEND" --target "nginx=http://127.0.0.1:$((port + 1)),pid=$PID")
  at=$((port + 10))
  for target in one mesh mesh-own-core; do
    has $target || continue
    launch $target $at
    spec="$target=$URL,model=mock,key=$KEY"
    for pid in "${TARGET_PIDS[@]}"; do spec+=",pid=$pid"; done
    specs+=(--target "$spec")
    at=$((at + 10))
  done
  say "everything answers; measuring"
  taskset -c 1 "$MESHBENCH" suite --cpu 1 --runs "$runs" --time "$time" --scenarios "$scenarios" --reference nginx \
    "${specs[@]}" --out "$WORK/suite.json" >"$WORK/suite.md" || die "meshbench suite failed"
  stop_all
fi
if [ $memory = yes ]; then
  for target in nginx one mesh; do
    [ $target = nginx ] || has $target || continue
    at=$((port + 50))
    backend 1 "127.0.0.1:$at"
    if [ $target = nginx ]; then
      nginx_proxy 0 $((at + 1))
      # The worker is a child of the process that was started.
      read -r worker _ </proc/"$PID"/task/"$PID"/children
      measure_memory nginx "http://127.0.0.1:$((at + 1))" none "$PID" "$worker"
    else
      launch $target $((at + 10))
      measure_memory $target "$URL" "$KEY" "${TARGET_PIDS[@]}"
    fi
    stop_all
  done
fi
say "load average $(cut -d' ' -f1-3 /proc/loadavg) at the end"
python3 "$here/request_path_table.py" "$WORK" "$out"
