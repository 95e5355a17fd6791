"""Tests of convert.py: `python3 -m unittest convert_test` in this folder."""

import io
import json
import tempfile
import unittest
from pathlib import Path

import convert


class Conversion(unittest.TestCase):
    def converted(self, suite, rows, *options, name="rows.jsonl"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            if name.endswith(".parquet"):
                import pyarrow
                import pyarrow.parquet

                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            out = io.StringIO()
            convert.main([suite, str(path), *options], out)
        return [json.loads(line) for line in out.getvalue().splitlines()]

    def test_columns_are_kept_and_others_dropped(self):
        row = {"ind": 3, "activity_label": "a", "ctx_a": "b", "ctx_b": "", "ctx": "b", "endings": ["1", "2", "3", "4"], "label": "2"}
        found = self.converted("hellaswag", [row])
        self.assertEqual(found, [{"id": "hellaswag/rows/0", "activity_label": "a", "ctx_a": "b", "ctx_b": "", "endings": ["1", "2", "3", "4"], "label": "2"}])

    def test_parquet_says_the_same_as_jsonl(self):
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            self.skipTest("no pyarrow")
        rows = [{"question": f"q{at}", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": at % 4} for at in range(9)]
        self.assertEqual(self.converted("mmlu", rows), self.converted("mmlu", rows, name="rows.parquet"))

    def test_a_sample_is_spread_over_the_file(self):
        rows = [{"question": str(at), "answer": "#### 1"} for at in range(10)]
        found = self.converted("gsm8k", rows, "--sample", "3")
        self.assertEqual([row["id"] for row in found], ["gsm8k/rows/0", "gsm8k/rows/3", "gsm8k/rows/6"])
        self.assertEqual(len(self.converted("gsm8k", rows, "--sample", "99")), 10)

    def test_lines_become_pages(self):
        lines = ["", " = One = \n", "", " text . \n", " = = Part = = \n", " more \n", " = Two = \n", " x = y \n"]
        found = self.converted("perplexity", [{"text": line} for line in lines])
        self.assertEqual([row["page"].split("\n")[0] for row in found], [" = One = ", " = Two = "])
        self.assertIn(" = = Part = = \n", found[0]["page"])
        self.assertEqual(self.converted("perplexity", [{"page": "p"}]), [{"id": "perplexity/rows/0", "page": "p"}])

    def test_what_is_missing_is_said(self):
        for suite, row in [("mmlu", {"question": "q"}), ("hellaswag", {"activity_label": "a", "ctx_a": "", "ctx_b": "", "endings": [], "label": ""})]:
            with self.assertRaises(SystemExit) as ended:
                self.converted(suite, [row])
            self.assertIn("row 0", str(ended.exception))


if __name__ == "__main__":
    unittest.main()
