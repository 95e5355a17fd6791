#!/usr/bin/env bash
# Do the figures of `meshctl ladder` agree with those of another measuring program? One engine whose times are known (the
# mock backend: first token after 40 ms, then one each 10 ms), measured in turns by the ladder and by meshbench.
#
#   integration-tests/benches/ladder_agreement.sh [options]
#     --bin DIR      the project's programs [target/release]
#     --rounds N     how often in turns     [3]
#
# Needs curl, python3, taskset, two cores, and meshbench (see request_path.sh).
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$here/mesh_processes.sh"
. "$here/bench_tools.sh"

BIN=$root/target/release rounds=3
while [ $# -gt 0 ]; do
  case $1 in
    --bin) BIN=$(cd "$2" && pwd) || exit 1; shift ;;
    --rounds) rounds=$2; shift ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
for program in modemesh meshctl; do
  [ -x "$BIN/$program" ] || die "$BIN/$program is missing: cargo build --release --workspace, or --bin DIR"
done
MESHBENCH=$(bench_tool meshbench "${MESHBENCH:-}") || exit 1
WORK=$(mktemp -d "${TMPDIR:-/tmp}/ladder-agreement.XXXXXX")
trap 'stop_all; rm -rf "$WORK"' EXIT
trap 'exit 130' INT TERM
last_core=$(($(nproc) - 1))
port=${BENCH_PORT:-18950}

BACKEND=http://127.0.0.1:$((port + 5))
started backend taskset -c $last_core "$MESHBENCH" backend --listen "127.0.0.1:$((port + 5))" --model mock \
  --ttft-ms 40 --itl-ms 10 --tokens 64
until_true 10 "the backend's start" curl -sf --noproxy '*' "$BACKEND/v1/models"
one_machine up 0 "$port"

for streams in 1 4; do
  for round in $(seq "$rounds"); do
    "$BIN/meshctl" --data "$WORK/up" --json ladder run --node "$("$BIN/meshctl" --data "$WORK/up" --json status |
      python3 -c 'import json, sys; print(json.load(sys.stdin)["nodes"][0]["name"])')" \
      --models mock --matrix 64:64 --streams "$streams" --repetitions 10 --success 0 --yes \
      >"$WORK/ladder-$streams-$round.json" 2>"$WORK/ladder.err" || { cat "$WORK/ladder.err" >&2; die "the climb failed"; }
    taskset -c 0 "$MESHBENCH" load --url "$BACKEND" --mode closed --stream --conns "$streams" --duration 5 --warmup 1 \
      --ttft-ms 40 --itl-ms 10 --tokens 64 --prompt-bytes 256 >"$WORK/bench-$streams-$round.json" || die "meshbench failed"
  done
done

python3 - "$WORK" "$rounds" <<'PY'
import json, statistics, sys

work, rounds = sys.argv[1], int(sys.argv[2])
worst = 0.0
print("| streams | figure | ladder | meshbench | apart by |")
print("|---|---|---|---|---|")
for streams in (1, 4):
    ours, theirs = {"TTFT": [], "TPOT": []}, {"TTFT": [], "TPOT": []}
    for round in range(1, rounds + 1):
        record = json.load(open(f"{work}/ladder-{streams}-{round}.json"))
        runs = [run for cell in record["rungs"][0]["cells"] for run in cell["runs"] if not run["warm_up"]]
        assert len(runs) >= 10 * streams and not any(run["error"] for run in runs), record["rungs"][0]["outcome"]
        ours["TTFT"] += [run["ttft_s"] * 1000 for run in runs]
        ours["TPOT"] += [(run["total_s"] - run["ttft_s"]) * 1000 / (run["output_tokens"] - 1) for run in runs]
        bench = json.load(open(f"{work}/bench-{streams}-{round}.json"))
        assert not bench["errors"] and not bench["incomplete"], bench
        theirs["TTFT"].append(bench["ttft"]["p50_us"] / 1000)
        theirs["TPOT"].append(bench["chunk_gap"]["p50_us"] / 1000)
    for figure in ("TTFT", "TPOT"):
        here, there = statistics.median(ours[figure]), statistics.median(theirs[figure])
        apart = here / there - 1
        worst = max(worst, abs(apart))
        print(f"| {streams} | {figure} | {here:.2f} ms | {there:.2f} ms | {apart:+.1%} |")
print(f"\nworst {worst:.1%}; the goal is 5 %")
sys.exit(worst > 0.05)
PY
