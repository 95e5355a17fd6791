"""Makes the table of request_path.sh: our figure, nginx's, their ratio, the goal, and whether it is met.

    request_path_table.py FOLDER OUT.json

FOLDER has suite.json (of `meshbench suite`) and memory-*.json (of `meshbench load`), either of which may be missing.
A ratio is the median of the ratios of the runs: each run is divided by nginx's run of the same round, so that a machine
that is slow for a while is slow for both.
"""

import json
import pathlib
import statistics
import sys

# scenario, what, where it is in meshbench's report, how it is compared, goals by target ("" = printed only)
ROWS = [
    ("max64", "requests/s, 64 connections", "rps", "at least", {"one": 0.8, "mesh": 0.4}),
    ("max64", "CPU µs per request", "target_cpu_us_per_request", "at most", {"one": 1.5, "mesh": 3.0}),
    ("lat200", "added median µs at 200 req/s", "service/p50_us", "added at most", {"one": 1.45, "mesh": 2.5}),
    ("sse1000", "CPU µs per chunk, 1,000 streams", "target_cpu_us_per_chunk", "at most", {"one": 1.3, "mesh": 1.9}),
    ("sse1000", "chunk p99 µs, 1,000 streams", "chunk_oneway/p99_us", "at most", {"one": 1.0, "mesh-own-core": 1.5}),
    ("burst16", "chunks/s, tokens without delay", "chunks_per_s", "at least", {"one": 0.4, "mesh": 0.4}),
    ("body100k", "CPU µs per request, 100 KB body", "target_cpu_us_per_request", "at most", {"one": 2.0, "mesh": 5.0}),
]
TARGETS = {"one": "one machine", "mesh": "mesh, one core", "mesh-own-core": "mesh, agent on its own core"}
MEMORY_GOAL_MIB = {"one": 64, "mesh": 100}


def number(value):
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def pick(run, path):
    for part in path.split("/"):
        run = run.get(part) if isinstance(run, dict) else None
    return run


def row(results, target, scenario, path, how):
    """Ours, nginx's, the median ratio, and the ratios of all runs."""
    by_target = results.get(scenario, {})
    series = {name: [pick(run, path) for run in by_target.get(name, [])] for name in (target, "nginx", "direct")}
    if how.startswith("added"):
        for name in (target, "nginx"):
            pairs = zip(series[name], series["direct"])
            series[name] = [a - d if None not in (a, d) else None for a, d in pairs]
    ratios = [a / b for a, b in zip(series[target], series["nginx"]) if None not in (a, b) and b > 0]
    if not ratios:
        return None
    middle = [statistics.median(v for v in series[name] if v is not None) for name in (target, "nginx")]
    return *middle, statistics.median(ratios), ratios


def main(folder, out):
    verdicts = []
    suite = folder / "suite.json"
    results = json.loads(suite.read_text())["results"] if suite.exists() else {}
    if results:
        print("\n| path | what | ours | nginx | ours ÷ nginx | of the runs | goal | |\n|---|---|---|---|---|---|---|---|")
    for target, words in TARGETS.items():
        for scenario, what, path, how, goals in ROWS:
            found = row(results, target, scenario, path, how)
            if found is None:
                continue
            ours, nginx, ratio, ratios = found
            goal = goals.get(target)
            passed = None if goal is None else (ratio >= goal if how == "at least" else ratio <= goal)
            said = "printed" if goal is None else f"{'≥' if how == 'at least' else '≤'} {goal}"
            verdict = {None: "", True: "pass", False: "MISS"}[passed]
            spread = f"{number(min(ratios))}–{number(max(ratios))}"
            print(f"| {words} | {what} | {number(ours)} | {number(nginx)} | {number(ratio)} | {spread} | {said} | {verdict} |")
            verdicts.append(
                {"target": target, "scenario": scenario, "figure": path, "ours": ours, "nginx": nginx,
                 "ratio": ratio, "ratios": ratios, "goal": goal, "passed": passed}
            )  # fmt: skip

    # What makes a table worthless is said below it.
    doubts = []
    idle_file = folder / "memory-idle"
    memory = []
    for line in idle_file.read_text().splitlines() if idle_file.exists() else []:
        name, idle = line.split()
        entry = {"target": name, "idle_kib": int(idle)}
        for streams in (1000, 5000):
            run = json.loads((folder / f"memory-{name}-{streams}.json").read_text())
            entry[f"at_{streams}_kib"] = pick(run, "target/rss_max_kib")
            entry[f"live_at_{streams}"] = run.get("min_live")
            bad = sum(run.get(key) or 0 for key in ("error_total", "incomplete", "order_errors"))
            entry[f"bad_at_{streams}"] = bad
            if bad:
                doubts.append(f"memory at {streams}, {name}: {bad} bad, {run.get('errors')}")
        entry["per_stream_kib"] = (entry["at_5000_kib"] - entry["idle_kib"]) / 5000
        memory.append(entry)
    if memory:
        print("\n| resident memory, fresh process | idle MiB | 1,000 streams MiB | goal | | 5,000 streams MiB "
              "| KiB per stream | live at 5,000 | errors |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for entry in memory:
        goal = MEMORY_GOAL_MIB.get(entry["target"])
        at_1000 = entry["at_1000_kib"] / 1024
        verdict = "" if goal is None else ("pass" if at_1000 <= goal else "MISS")
        print(f"| {TARGETS.get(entry['target'], entry['target'])} | {entry['idle_kib'] / 1024:.1f} | {at_1000:.1f} "
              f"| {'-' if goal is None else f'≤ {goal}'} | {verdict} | {entry['at_5000_kib'] / 1024:.1f} "
              f"| {entry['per_stream_kib']:.1f} | {entry['live_at_5000']} | "
              f"{entry['bad_at_1000'] + entry['bad_at_5000']} |")  # fmt: skip

    for scenario, by_target in results.items():
        for target, runs in by_target.items():
            for key in ("error_total", "incomplete", "order_errors"):
                bad = sum(run.get(key) or 0 for run in runs)
                if bad:
                    kinds = sorted({kind for run in runs for kind in run.get("errors") or {}})
                    doubts.append(f"{scenario} {target}: {key} {bad} {' '.join(kinds)}".rstrip())
            busy = max((run.get("generator_cores") or 0 for run in runs), default=0)
            if busy > 0.95:
                doubts.append(f"{scenario} {target}: the generator was the limit ({busy:.2f} of its core)")
    print("".join(f"\n! {doubt}" for doubt in doubts) or "\nno errors, nothing incomplete, nothing out of order")
    out.write_text(json.dumps({"rows": verdicts, "memory": memory, "doubts": doubts, "suite": results}, indent=1))


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
