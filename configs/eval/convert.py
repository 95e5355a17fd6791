#!/usr/bin/env python3
"""Makes items for `meshctl eval run` of the public datasets' files.

    convert.py mmlu       test-00000-of-00001.parquet > mmlu.jsonl
    convert.py mmlu       dev-00000-of-00001.parquet  > mmlu-dev.jsonl      (the examples)
    convert.py hellaswag  hellaswag_val.jsonl         > hellaswag.jsonl
    convert.py gsm8k      test.jsonl                  > gsm8k.jsonl
    convert.py perplexity wikitext-2-raw.parquet      > perplexity.jsonl
    convert.py mmlu       test.parquet --sample 200   > mmlu-200.jsonl

Reads .parquet (needs pyarrow) and .jsonl; fetches nothing. Columns are kept as they are, others are dropped, and each
item gets an id of its file and row, so that two samples of one file can be compared. `--sample N` takes N rows spread
evenly over the file: MMLU is sorted by subject, and its first 200 rows are two subjects.
"""

import argparse
import json
import sys
from pathlib import Path

COLUMNS = {
    "mmlu": ["question", "subject", "choices", "answer"],
    "hellaswag": ["activity_label", "ctx_a", "ctx_b", "endings", "label"],
    "gsm8k": ["question", "answer"],
    "perplexity": ["page"],
}


def rows(path):
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError:
            sys.exit(f"{path}: parquet needs pyarrow (pip install pyarrow), or take the dataset's JSONL")
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
        return
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    sys.exit(f"{path}:{number}: {error}")


def pages(lines):
    """WikiText as lines becomes pages: one begins at each heading of the first level, ` = Title = `."""
    page = []
    for row in lines:
        line = row["text"]
        words = line.split()
        if len(words) > 2 and words[0] == words[-1] == "=" and words[1] != "=" and words[-2] != "=":
            if "".join(page).strip():
                yield {"page": "".join(page)}
            page = []
        page.append(line if line.endswith("\n") else line + "\n")
    if "".join(page).strip():
        yield {"page": "".join(page)}


def items(suite, path):
    found = rows(path)
    first = next(found, None)
    if first is None:
        sys.exit(f"{path}: no rows")

    def every():
        yield first
        yield from found

    source = every()
    # Salesforce/wikitext has a row for each line, EleutherAI/wikitext_document_level one for each page.
    if suite == "perplexity" and "page" not in first and "text" in first:
        source = pages(source)
    for number, row in enumerate(source):
        missing = [column for column in COLUMNS[suite] if column not in row]
        if missing:
            sys.exit(f"{path}: row {number} lacks {', '.join(missing)}; it has {', '.join(row)}")
        if suite == "hellaswag" and str(row["label"]) == "":
            sys.exit(f"{path}: row {number} has no label: the test split is not public, take the validation split")
        yield {"id": f"{suite}/{path.stem}/{number}", **{column: row[column] for column in COLUMNS[suite]}}


def main(arguments=None, out=sys.stdout):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("suite", choices=COLUMNS)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--sample", type=int, metavar="N", help="N rows of each file, spread evenly")
    options = parser.parse_args(arguments)
    for path in options.files:
        found = list(items(options.suite, path))
        n = min(options.sample or len(found), len(found))
        for at in range(n):
            out.write(json.dumps(found[at * len(found) // n], ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
