"""Writes the golden files beside this script with the real lm-evaluation-harness.

    python3 -m venv venv && venv/bin/pip install lm-eval==0.4.13 scipy==1.17.1
    venv/bin/python core/tests/exam/oracle.py

Only data is taken from it: prompts, targets, what its filters extract and how it scores. The items are the smoke items
of configs/eval and the odd ones below, written for this file. `python3 oracle.py` twice gives the same bytes.
"""

import json
import logging
import math
import random
import re
import sys
from pathlib import Path

import datasets
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import bits_per_byte, mean, weighted_perplexity
from lm_eval.api.registry import get_metric
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.tasks._yaml_loader import load_yaml
from scipy import stats

logging.disable(logging.CRITICAL)
HERE = Path(__file__).parent
SMOKE = HERE.parents[2] / "configs" / "eval" / "smoke"
TASKS = Path(lm_eval.__file__).parent / "tasks"
DICE = random.Random(20240607)


def smoke(name):
    rows = [json.loads(line) for line in (SMOKE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "id"} for row in rows]


def write(name, rows):
    with open(HERE / name, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(name, len(rows), file=sys.stderr)


def task(path, splits, **changes):
    config = load_yaml(TASKS / path)
    config["custom_dataset"] = lambda **_: {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
    config.update(changes)
    return ConfigurableTask(config=config)


# ── odd items ────────────────────────────────────────────────────────────────────────────────────────────

def mmlu(question, choices, answer, subject="high_school_us_history"):
    return {"question": question, "subject": subject, "choices": choices, "answer": answer}


ODD_MMLU = [
    mmlu("  Spaces around me?  \n", ["yes", "no", " maybe", "never "], 0),
    mmlu("Two\nlines\n\nand a blank one", ["a\nb", "", "{{ choices }}", "{% raw %}"], 3),
    mmlu("\u00a0no-break\u2003", ["ä", "ß", "日本", "👍🏽"], 2),
    mmlu("\x1cseparators\x1f", ["A", "B", "C", "D"], 1),
    mmlu("tab\tinside\t", ["1", "2", "3", "4"], 3),
    mmlu("Answer:", ["Answer:", "Question:", "</s>", "#### 4"], 1),
]


def swag(label, a, b, endings, gold, activity="Odd"):
    return {"activity_label": activity, "ctx_a": a, "ctx_b": b, "ctx": f"{a} {b}", "endings": endings, "label": gold}


FOUR = ["one way.", "another way [title] here.", "[substeps] a third  way.", "a fourth [x] way"]
ODD_HELLASWAG = [
    swag("0", "He SHOUTS.", "the MAN then Runs Away TO BERLIN", FOUR, "0"),
    swag("1", "", "", FOUR, "1"),
    swag("2", "A  double  space   three    four", "", FOUR, "2"),
    swag("3", "[header] One [title] Two [title][step] Three", "[sub] x", FOUR, "3"),
    swag("4", "an open [ bracket", "and ] a close", ["[", "]", "[]", "[]]"], "1"),
    swag("5", "line [a\nb] end", "x", ["[a\nb]", "[c]\n[d]", " [title]", "[title] x"], "0"),
    swag("6", " padded ", " padded too ", [" x ", "\u3000y\u3000", "z\x1f", "\nw\n"], "2"),
    swag("7", "Σίσυφος", "ΟΔΟΣ ΑΣ ΣΑΣ.", ["ßa", "ǆ", "ﬁn", "İI"], "3"),
    swag("8", "German", "ßSS Straẞe", FOUR, "0"),
    swag("9", "Digraph", "ǆUNGLA", FOUR, "1"),
    swag("10", "Ligature", "ﬁSH", FOUR, "2"),
    swag("11", "Turkish", "İSTANBUL", FOUR, "3"),
    swag("12", "Georgian", "ᲐბᲒ", FOUR, "0"),
    swag("13", "Greek", "ᾳᾼ", FOUR, "1"),
    swag("14", "Number", "3 MEN", FOUR, "2", "  Label [x] "),
    swag("15", "[title] first", "[ ] [  ] x", ["a [b [c] d] e", "[[x]]", "]x[", "a   b"], "1"),
]

# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────────


def messages_of(built, doc, shots):
    seen = []
    built.fewshot_context(doc, shots, apply_chat_template=True, chat_template=lambda turns, **_: seen.append(turns) or "")
    return seen[-1]


def prompt_rows(suite, variant, built, items, docs, dev, shots):
    rows = []
    # Examples are the same for every item: the last few are enough.
    several = list(zip(items, docs, strict=True))[-6 if shots else 0 :]
    for item, doc in several:
        context = built.fewshot_context(doc, shots)
        requests = built.construct_requests(doc, context, apply_chat_template=False)
        row = {"suite": suite, "variant": variant, "item": item, "dev": dev, "shots": shots, "context": context}
        if variant == "loglikelihood":
            row["continuations"] = [request.args[1] for request in requests]
        else:
            row["stop"] = requests.args[1]["until"]
            row["messages"] = messages_of(built, doc, shots)
        rows.append(row)
    return rows


def mmlu_task(folder, subject, items, dev):
    yaml = f"mmlu/{folder}/mmlu_high_school_us_history.yaml"
    described = load_yaml(TASKS / yaml)["description"]
    words = subject.replace("_", " ")
    assert "high school us history" in described
    description = described.replace("high school us history", words)
    return task(yaml, {"test": items, "dev": dev}, description=description)


def prompts():
    rows = []
    for folder, variant in [("default", "loglikelihood"), ("generative", "generative")]:
        every = smoke("mmlu") + ODD_MMLU
        pool = smoke("mmlu-dev") + [{**item, "question": item["question"] + "again\n"} for item in ODD_MMLU[:2]]
        for subject in sorted({item["subject"] for item in every}):
            items = [item for item in every if item["subject"] == subject]
            dev = [item for item in pool if item["subject"] == subject]
            for shots in sorted({0, 1, len(dev)}):
                built = mmlu_task(folder, subject, items, dev)
                rows += prompt_rows("mmlu", variant, built, items, list(built.eval_docs), dev[:shots], shots)
    items, dev = smoke("hellaswag") + ODD_HELLASWAG, smoke("hellaswag-dev")
    for shots in [0, 3]:
        built = task("hellaswag/hellaswag.yaml", {"validation": items, "train": dev}, fewshot_config={"sampler": "first_n"})
        rows += prompt_rows("hellaswag", "loglikelihood", built, items, list(built.eval_docs), dev[:shots], shots)
    items, dev = smoke("gsm8k"), smoke("gsm8k-dev")
    items += [{"question": "  odd \n", "answer": "#### 1"}, {"question": "Question: {{answer}}?", "answer": "x\n#### $1,5"}]
    for shots in [0, 5]:
        built = task("gsm8k/gsm8k.yaml", {"test": items, "train": dev}, fewshot_config={"sampler": "first_n"})
        rows += prompt_rows("gsm8k", "generative", built, items, list(built.eval_docs), dev[:shots], shots)
    write("prompts.jsonl", rows)


# ── scores of choices ────────────────────────────────────────────────────────────────────────────────────


def choices():
    rows, accs = [], {"mmlu": [], "hellaswag": []}
    every = smoke("mmlu") + ODD_MMLU
    built_mmlu = task("mmlu/default/mmlu_high_school_us_history.yaml", {"test": every, "dev": every})
    swags = smoke("hellaswag") + ODD_HELLASWAG
    built_swag = task("hellaswag/hellaswag.yaml", {"validation": swags, "train": swags})
    for suite, built, items in [("mmlu", built_mmlu, every), ("hellaswag", built_swag, swags)]:
        docs = list(built.eval_docs)
        for round_ in range(6):
            for item, doc in zip(items, docs, strict=True):
                # Few different values, so that ties happen.
                lls = [-DICE.choice([1.0, 2.0, 5.5, 20.25, 20.25, 31.0, DICE.uniform(0.1, 60.0)]) for _ in range(4)]
                if round_ == 5:
                    # The same for each character; an ending that is empty has none of its own.
                    lls = [-float(max(len(choice), 1)) for choice in built.doc_to_choice(doc)]
                result = built.process_results(doc, [(ll, False) for ll in lls])
                accs[suite].append(result)
                rows.append({"suite": suite, "item": item, "lls": lls, **result})
    write("choices.jsonl", rows)
    return {
        "mmlu acc": mean([row["acc"] for row in accs["mmlu"]]),
        "hellaswag acc": mean([row["acc"] for row in accs["hellaswag"]]),
        "hellaswag acc_norm": mean([row["acc_norm"] for row in accs["hellaswag"]]),
    }


# ── what is extracted from generated text ────────────────────────────────────────────────────────────────

GOLDS = ["x\n#### 42", "#### 1,234", "a #### 3 b\n#### -7.", "#### $18", "no marks 5", "#### 3.50\n", "5.", "#### [invalid]", "#### 1\0",
         "#### 7.\n", "#### 7.\n\n", "$$#### ,,5,.", "####  8", "#### 0.5"]
TEXTS = [
    "", " ", "\n", "42", "The answer is 42.", "#### 42", "####42", "####  42", "### 42", "##### 42", "#### 42.", "#### 42.\n", "#### $42", "#### -42",
    "#### - 42", "#### --42", "#### .", "#### ,", "#### .,.,", "#### 4,2", "#### 1,234", "#### 1234", "#### 1.234,5", "#### forty", "#### 42 #### 43",
    "#### 1\n#### 2", "a\n#### 42\nb", "x = -7", "x = - 7", "-7.", "-$7", "$-7", "--7", "$", "$$", "$.", "-", "-.", "-..", "..", ".", ",", ",,", "...5",
    "5...", "5", "-5", "a5b", "5 6", "5,6", "5, 6", "5 , 6", "1.2.3", "1-2", "1--2", "12-", "-$", "-$$", "-,5", "0", "00", "007", "3.50", "$3.50.", "(18)",
    "$18", "18$", "18%", "18 dollars", "18.0", "18.00", "1e5", "0x1F", "½", "٣", "３", "４２", "²", "Ⅳ", "answer: **42**", "answer: \\boxed{42}", "42\0", "\x0042",
    "4\u00a02", "\u00a042\u00a0", "#### 42\u2028", "\u2212 42", "\u221242", "- 42", "42!", "42?", "€42", "42€", "first 1, then 2, then 3.", "I have no idea.",
    "1,000,000", "1 000 000", "$1,000,000.00", "#### $1,000", "#### 1,000.", "Question: 7", "8 Question: 7", "8</s>9", "8<|im_end|>9", "8\n\nQuestion: 9 #### 10",
    "<think>1</think>\n#### 42", "#### -", "#### -.", "#### -1-2", "####\t42", "#### \t42", "#### 42#### 41", "######## 42", "#### #### 42", "#### 3\n#### ", "3 ####",
    "[invalid]", "invalid", "#### 7.\n.", "$.5", "-.5", ".5.", "5.-", "1..2", "a.b,c$d", "Dr. No. 5", "e.g. 5, i.e. 6", "5 e.g.", "5 ...", "5 $", "5 ,.", "5 -",
    "5 --", "5 -.", "5-.", "-5-", "a-5", "5a", "5\u00b0", "Step 1: 6*7=42\nStep 2: done", "6*7 = 42, so 42", "Ends with money $", "Ends with dots 12....", "Ends with 12, ",
]


def generations():
    rows, figures = [], {}
    built = task("gsm8k/gsm8k.yaml", {"test": [{"question": "q", "answer": gold} for gold in GOLDS], "train": smoke("gsm8k-dev")})
    docs = list(built.eval_docs)
    pairs = [(doc, text) for number, text in enumerate(TEXTS) for doc in [docs[number % len(docs)], docs[0]]]
    pairs += [(doc, doc["answer"]) for doc in docs]
    alphabet = list("0123456789.,$- #") * 3 + ["#### ", "\n", "a", "\0", "é"]
    for _ in range(400):
        pairs.append((DICE.choice(docs), "".join(DICE.choice(alphabet) for _ in range(DICE.randint(1, 14)))))
    until = built.config.generation_kwargs["until"]
    rows += filtered("gsm8k", built, pairs, until)
    smoke_items = smoke("gsm8k")
    built = task("gsm8k/gsm8k.yaml", {"test": smoke_items, "train": smoke("gsm8k-dev")})
    pairs = []
    for doc in built.eval_docs:
        number = doc["answer"].split("#### ")[1]
        pairs += [(doc, f" So it is {number}.\n#### {number}"), (doc, f"It is {number}."), (doc, f"#### {number}0")]
    own = filtered("gsm8k", built, pairs, until)
    rows += own
    for name in ["strict-match", "flexible-extract"]:
        figures[f"gsm8k {name}"] = mean([row["filters"][name][1] for row in own])
    items = smoke("mmlu")
    built = task("mmlu/generative/mmlu_high_school_us_history.yaml", {"test": items, "dev": items})
    until = built.config.generation_kwargs["until"]
    pairs = []
    for number, doc in enumerate(built.eval_docs):
        letter = "ABCD"[doc["answer"]]
        pairs += [(doc, f" {letter}"), (doc, f"{letter}. it is"), (doc, letter.lower())]
        odd = ["", " ", "\nA", "(A)", "A.", "**A**", "A\n\nB", "A</s>B", "\x1fA\x1f", "\u00a0A", "AB", "[invalid]", "!A?", "A\r", "\u2014A", "A\0", "-", "a b", "Ａ", "<A>"]
        pairs += [(doc, odd[number]), (doc, odd[(number + 1) % 20])]
    own = filtered("mmlu", built, pairs, until)
    figures["mmlu get_response"] = mean([row["filters"]["get_response"][1] for row in own])
    rows += own
    write("generations.jsonl", rows)
    return figures


def filtered(suite, built, pairs, until):
    """As an engine that ignores stop words would have answered: cut, filtered and scored by the harness."""
    rows = []
    for doc, text in pairs:
        instance = Instance(request_type="generate_until", doc=doc, arguments=("", {}), idx=0, metadata=("t", 0, 1))
        instance.resps = [postprocess_generated_text(text, until, None)]
        for ensemble in built._filters:
            ensemble.apply([instance])
        filters = {}
        for name, found in instance.filtered_resps.items():
            score = built.process_results(doc, [found])["exact_match"]
            filters[name] = [found, float(score)]
        item = {key: doc[key] for key in ("question", "answer")}
        if suite == "mmlu":
            item = dict(doc)
        rows.append({"suite": suite, "item": item, "text": text, "filters": filters})
    return rows


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────

PAGES = [
    " = A Title = \n \n This is a sentence , with a comma . And another one ; and a third : done . \n",
    " = = Heading = = \n = = = Sub = = = \n = = = = Deep = = = = \n",
    "It cost 1 @,@ 000 @.@ 50 , a well @-@ known sum . \n", "( a ) (  b  ) ( c", "[ a ] [b ] { c } {d }", "\" quoted \" and \" again \" and \" open", "' single ' don't ' x '",
    "the dogs ' bones ' and the 's s '", "20 ° C and 5 °F", "N = 5 , N N N x", "a \n b\n c \n\n d", "say ! why ? no . yes", "/' 5/ x", "nested ( a ( b ) c ) d", "( ) [ ] { }", "(\n x \n)",
    "\"\"", "'\"'\"", "( \" a ' b ' \" )", "", " ", "x", "naïve café — “ quotes ” …", "日本 。 語", "( \u00a0x\u00a0 )", "a\x1cb\x1fc", "\t\ttabs\t", "= = = = = = =", " : ; . ! ? ,", "' ' ' ' '",
    "''''", "' a \" b ' c \"", "{ [ ( x ) ] }", ") ( ] [ } {", "( a ] b )", "He said : \" It 's 5 @-@ 6 , no ? \" ( Smith ' s ) . \n = = Next = = \n",
]


def pages():
    built = task("wikitext/wikitext.yaml", {"test": [{"page": "x"}], "validation": [{"page": "x"}], "train": [{"page": "x"}]})
    alphabet = list("ab ()[]{}\"'=.,;:!?@-N5°/s\n") + [" 's", " @-@ ", "= = ", " = ", "  "]
    texts = PAGES + ["".join(DICE.choice(alphabet) for _ in range(DICE.randint(1, 60))) for _ in range(300)]
    rows, results = [], []
    for text in texts:
        doc = {"page": text}
        ll = -DICE.uniform(0.0, 3.0) * len(text.encode())
        result = built.process_results(doc, (ll,))
        results.append(result)
        rows.append({"page": text, "target": built.doc_to_target(doc), "words": result["word_perplexity"][1], "bytes": result["byte_perplexity"][1], "ll": ll})
    write("pages.jsonl", rows)
    plain = [json.loads(json.dumps(row)) for row in smoke("perplexity")]
    assert all(built.count_words(row["text"]) == len(re.split(r"\s+", row["text"])) for row in plain)
    useful = [result for result in results if result["byte_perplexity"][1] > 0]
    return {
        "word_perplexity": weighted_perplexity([result["word_perplexity"] for result in useful]),
        "byte_perplexity": weighted_perplexity([result["byte_perplexity"] for result in useful]),
        "bits_per_byte": bits_per_byte([result["bits_per_byte"] for result in useful]),
    }


# ── Python's own text functions ──────────────────────────────────────────────────────────────────────────


def python_text():
    texts = [chr(point) + tail for point in [0xDF, 0x149, 0x1F0, 0x390, 0x3B0, 0x587, *range(0x1C4, 0x1CD), 0x1F1, 0x1F2, 0x1F3, *range(0x10D0, 0x10FB), *range(0x10FD, 0x1100),
             *range(0x1E96, 0x1E9B), *range(0x1F50, 0x1F58), *range(0x1F80, 0x1FB8), 0x1FBC, *range(0x1FC2, 0x1FC8), 0x1FCC, *range(0x1FD2, 0x1FD8), *range(0x1FE2, 0x1FE8),
             *range(0x1FF2, 0x1FF8), 0x1FFC, *range(0xFB00, 0xFB07), *range(0xFB13, 0xFB18)] for tail in ["", "AΣ"]]
    texts += ["", "a", "A", "ΑΣ", "ΣΑΣ", "Σ", "ΑΣ.", "ΑΣ Β", "İ", "İİ", "ΟΔΥΣΣΕΥΣ", "1A", " A", "'N", "ŉA", "I", "ı", "ÄÖ", "hELLO wORLD", "\U00010428\U00010400"]
    spaces = [chr(point) for point in range(0x3001) if chr(point).isspace()] + ["\u200b", "\ufeff", "\u180e", "\0", "\x1b"]
    texts += [space + "x" + space + "y" + space for space in spaces]
    rows = [{"text": text, "strip": text.strip(), "capitalize": text.capitalize(), "split": len(re.split(r"\s+", text))} for text in texts]
    write("python_text.jsonl", rows)


# ── statistics ───────────────────────────────────────────────────────────────────────────────────────────


def statistics():
    rows = []
    for n, k in [(1, 0), (1, 1), (2, 1), (10, 0), (10, 10), (10, 7), (20, 13), (100, 70), (100, 99), (1319, 812), (14042, 9001), (100000, 3)]:
        found = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        rows.append({"what": "wilson", "args": [k, n], "value": [found.low, found.high]})
    for b, c in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 5), (0, 6), (3, 9), (10, 25), (40, 40), (40, 41), (100, 150), (1000, 1100), (5000, 5400), (0, 200), (3, 2000)]:
        rows.append({"what": "mcnemar", "args": [b, c], "value": [stats.binomtest(b, b + c).pvalue if b + c else 1.0]})
    for t, df in [(0.0, 1), (1.0, 1), (-1.0, 1), (2.5, 2), (1.96, 30), (-3.3, 19), (12.0, 5), (0.001, 7), (2.0, 1000), (5.0, 61), (40.0, 3), (1.5, 100000)]:
        rows.append({"what": "t two-sided", "args": [t, df], "value": [2 * stats.t.sf(abs(t), df)]})
    for df in [1, 2, 3, 4, 5, 9, 19, 30, 61, 100, 1000, 100000]:
        rows.append({"what": "t quantile", "args": [df], "value": [stats.t.ppf(0.975, df)]})
    write("statistics.jsonl", rows)


def main():
    figures = {}
    prompts()
    figures |= choices()
    figures |= generations()
    figures |= pages()
    python_text()
    statistics()
    assert all(math.isfinite(value) for value in figures.values())
    write("figures.jsonl", [{"metric": name, "value": float(value)} for name, value in figures.items()])
    assert get_metric("exact_match") is not None


if __name__ == "__main__":
    main()
