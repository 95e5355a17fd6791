"""Makes the tables of lossy_link.sh out of the reports of `meshbench load`.

    lossy_link_table.py FOLDER OUT.json
"""

import json
import pathlib
import statistics
import sys

# chunk p99 of QUIC as a share of that of HTTP/2 over TLS, by profile
GOALS = {"wifi": 0.9, "wan": 0.6}
# What a stream may stand still longer than its machine had no address, ms
STALL_MS = 100


def bad(report):
    return sum(report.get(key) or 0 for key in ("error_total", "incomplete", "order_errors", "dropped"))


def word(passed):
    return "" if passed is None else ("pass" if passed else "MISS")


def main(folder, out):
    figures = {"links": {}, "roaming": [], "mtu": []}
    for file in sorted(folder.glob("link-*.json")):
        _, profile, link, _ = file.stem.split("-")
        figures["links"].setdefault(profile, {}).setdefault(link, []).append(json.loads(file.read_text()))

    print("\n| link | path | TTFT p99 ms | chunk p50 ms | p90 ms | chunk p99 ms, median of the runs | of the runs | max ms | errors |")
    print("|---|---|---|---|---|---|---|---|---|")
    for profile, by_link in figures["links"].items():
        for link, runs in by_link.items():
            middle = lambda kind, which: statistics.median(run[kind][which] for run in runs) / 1e3
            p99 = [run["chunk_oneway"]["p99_us"] / 1e3 for run in runs]
            worst = max(run["chunk_oneway"]["max_us"] for run in runs) / 1e3
            print(f"| {profile} | {link} | {middle('ttft', 'p99_us'):.1f} | {middle('chunk_oneway', 'p50_us'):.1f} "
                  f"| {middle('chunk_oneway', 'p90_us'):.1f} | {statistics.median(p99):.1f} | {min(p99):.1f}–{max(p99):.1f} | {worst:.0f} "
                  f"| {sum(map(bad, runs))} |")  # fmt: skip
    for profile, by_link in figures["links"].items():
        if "h2" not in by_link:
            print(f"\n{profile}: no figures over HTTP/2, so nothing to compare with")
            continue
        for link, runs in by_link.items():
            if link == "h2":
                continue
            pairs = [
                ours["chunk_oneway"]["p99_us"] / theirs["chunk_oneway"]["p99_us"]
                for ours, theirs in zip(runs, by_link["h2"])
            ]
            ratio, goal = statistics.median(pairs), GOALS.get(profile)
            told = "printed" if goal is None else f"goal ≤ {goal}: {word(ratio <= goal)}"
            print(f"\n{profile}: chunk p99 of {link} ÷ h2 = {ratio:.2f} ({min(pairs):.2f}–{max(pairs):.2f}), {told}")

    for file in sorted(folder.glob("roam-*.json")):
        report = json.loads(file.read_text())
        outage = int((folder / f"{file.stem}.outage").read_text()) / 1e3
        stall = report["chunk_oneway"]["max_us"] / 1e3
        expected = report["config"]["conns"] * 20 * report["measured_s"]
        entry = {"link": file.stem[5:], "outage_ms": outage, "stall_ms": stall, "bad": bad(report),
                 "errors": report["errors"], "arrived": report["chunks"] / expected}  # fmt: skip
        entry["passed"] = entry["bad"] == 0 and stall <= outage + STALL_MS and entry["arrived"] > 0.9
        figures["roaming"].append(entry)
    if figures["roaming"]:
        print("\n| change of address | outage ms | worst token ms | tokens that arrived | lost, out of order, errors | goal | |")
        print("|---|---|---|---|---|---|---|")
    for entry in figures["roaming"]:
        print(f"| {entry['link']} | {entry['outage_ms']:.0f} | {entry['stall_ms']:.0f} | {entry['arrived']:.0%} "
              f"| {entry['bad']} {entry['errors'] or ''} | 0, ≤ outage + {STALL_MS} ms | {word(entry['passed'])} |")  # fmt: skip

    for file in sorted(folder.glob("mtu-streams-*.json")):
        link = file.stem[len("mtu-streams-") :]
        streams = json.loads(file.read_text())
        bodies = json.loads((folder / f"mtu-bodies-{link}.json").read_text())
        entry = {"link": link, "chunk_p99_ms": streams["chunk_oneway"]["p99_us"] / 1e3, "bodies": bodies["ok"],
                 "bad": bad(streams) + bad(bodies)}  # fmt: skip
        entry["passed"] = entry["bad"] == 0 and bodies["ok"] > 0 and streams["chunks"] > 0
        figures["mtu"].append(entry)
    if figures["mtu"]:
        print("\n| MTU 1280 | chunk p99 ms | bodies of 100 KB that were answered | errors | goal | |\n|---|---|---|---|---|---|")
    for entry in figures["mtu"]:
        print(f"| {entry['link']} | {entry['chunk_p99_ms']:.1f} | {entry['bodies']} | {entry['bad']} | no error "
              f"| {word(entry['passed'])} |")  # fmt: skip
    out.write_text(json.dumps(figures, indent=1))


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
