"""Makes the table of soak.sh: how memory grew, what was answered, what is left.

    soak_table.py FOLDER KILLS OUT.json
"""

import json
import pathlib
import sys

# Memory is flat when it grows no more than this in an hour: below what samples of a busy process scatter.
FLAT_MIB_PER_HOUR = 10


def slope(points):
    """Least squares, of the second half only: caches fill first. KiB per second to MiB per hour."""
    points = points[len(points) // 2 :]
    n = len(points)
    if n < 3:
        return None
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread * 3600 / 1024 if spread else None


def main(folder, kills, out):
    samples = [[int(word) for word in line.split()] for line in (folder / "memory").read_text().splitlines()]
    samples = [sample for sample in samples if len(sample) == 4]
    memory = {}
    print("\n| process | first MiB | last MiB | most MiB | MiB per hour, second half | goal | |\n|---|---|---|---|---|---|---|")
    for column, name in enumerate(["router", "agent 0", "agent 1"], start=1):
        points = [(sample[0], sample[column]) for sample in samples]
        values = [kib / 1024 for _, kib in points]
        # An agent that was killed begins anew: its slope says nothing.
        judged = name == "router" or kills == 0
        growth = slope(points) if judged else None
        verdict = "" if growth is None else ("pass" if growth <= FLAT_MIB_PER_HOUR else "MISS")
        said = "-" if growth is None else f"{growth:+.1f}"
        goal = f"≤ {FLAT_MIB_PER_HOUR}" if judged else "printed"
        print(f"| {name} | {values[0]:.1f} | {values[-1]:.1f} | {max(values):.1f} | {said} | {goal} | {verdict} |")
        memory[name] = {"samples": points, "mib_per_hour": growth}
    runs = {}
    print("\n| requests | answered | errors | incomplete | out of order | TTFT p50 ms | p99 ms |\n|---|---|---|---|---|---|---|")
    for name in ("steady", "leaving"):
        run = runs[name] = json.loads((folder / f"{name}.json").read_text())
        print(f"| {name} | {run['ok']} | {run['error_total']} {run['errors'] or ''} | {run['incomplete']} | {run['order_errors']} "
              f"| {run['ttft']['p50_us'] / 1e3:.1f} | {run['ttft']['p99_us'] / 1e3:.1f} |")  # fmt: skip
    print(f"\n{kills} agents were killed\n\n| left at the end | | goal | |\n|---|---|---|---|")
    counters = [line.split() for line in (folder / "counters").read_text().splitlines()]
    for name, *value in counters:
        value = value[0] if value else "not told"
        print(f"| {name} | {value} | 0 | {'pass' if value == '0' else 'MISS'} |")
    out.write_text(json.dumps({"memory": memory, "runs": runs, "counters": counters, "kills": kills}, indent=1))


main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]))
