"""The same items, asked through the router by lm-evaluation-harness and by `meshctl eval run`, beside each other.

    python3 -m venv venv && venv/bin/pip install "lm-eval[api]==0.4.13"
    meshctl eval run --suite gsm8k --items DIR --variant completion
    meshctl eval show --json > ours.json
    venv/bin/python beside_lm_eval.py ours.json --items DIR --url http://127.0.0.1:7400/v1 --key KEY

The harness's own task files are used, with their data taken from DIR. Only what an API tells can be compared: written
answers (gsm8k; mmlu asked as completion or chat). Examples are the first of the file, as here.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

TASKS = pathlib.Path(lm_eval.__file__).parent / "tasks"


class Loose(yaml.SafeLoader):
    """Task files have tags of their own, none of which matters here."""


Loose.add_multi_constructor("!", lambda loader, suffix, node: None)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write(folder, name, lines):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def letter(row):
    answer = row["answer"]
    return {**row, "answer": answer if isinstance(answer, int) else "ABCD".index(answer)}


def tasks(suite, asked, examples, shots, folder):
    """Task files in `folder`, one for each subject; gives their names with the ids of their items, in order."""
    template = "gsm8k/gsm8k.yaml" if suite == "gsm8k" else "mmlu/generative/_default_template_yaml"
    base = yaml.load((TASKS / template).read_text(encoding="utf-8"), Loose)
    base.pop("tag", None)
    base.pop("dataset_name", None)
    subjects = sorted({row.get("subject", "") for row in asked}) if suite == "mmlu" else [""]
    names = {}
    for number, subject in enumerate(subjects):
        of_it = [row for row in asked if not subject or row["subject"] == subject]
        before = [row for row in examples if not subject or row["subject"] == subject]
        if suite == "mmlu":
            of_it, before = [letter(row) for row in of_it], [letter(row) for row in before]
        name = f"beside_{suite}_{number}"
        files = {"test": write(folder, f"{name}-test", of_it)}
        task = {**base, "task": name, "dataset_path": "json", "test_split": "test", "num_fewshot": shots}
        if shots:
            files["dev"] = write(folder, f"{name}-dev", before)
            task |= {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}}
        else:
            task.pop("fewshot_split", None)
        task.pop("training_split", None)
        task["dataset_kwargs"] = {"data_files": files}
        if subject:
            words = subject.replace("_", " ")
            task["description"] = (
                f"The following are multiple choice questions (with answers) about {words}.\n\n"
            )
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        names[name] = [row["id"] for row in of_it]
    return names


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("ours", type=pathlib.Path, help="what `meshctl eval show --json` printed")
    parse.add_argument("--items", type=pathlib.Path, required=True, help="the folder that it was asked with")
    parse.add_argument("--url", required=True, help="the router's base URL, with /v1")
    parse.add_argument("--key", required=True, help="an API key")
    typed = parse.parse_args()

    os.environ["OPENAI_API_KEY"] = typed.key  # where the harness looks
    record = json.loads(typed.ours.read_text(encoding="utf-8"))["record"]
    different = 0
    print("| suite | asked as | examples | metric | n | here | lm-evaluation-harness | same answers |")
    print("|---|---|---|---|---|---|---|---|")
    for sitting in record["sittings"]:
        run = sitting["run"]
        suite, variant = run["suite"], run["variant"]
        if suite not in ("gsm8k", "mmlu") or variant == "loglikelihood":
            print(f"{suite} as {variant}: the harness cannot be asked that over an API", file=sys.stderr)
            continue
        asked = [row for row in rows(typed.items / f"{suite}.jsonl") if row.get("id") in run["items"]]
        dev = typed.items / f"{suite}-dev.jsonl"
        examples = rows(dev) if dev.exists() else []
        with tempfile.TemporaryDirectory() as folder:
            names = tasks(suite, asked, examples, run["shots"], pathlib.Path(folder))
            is_chat = variant == "chat"
            path = "/chat/completions" if is_chat else "/completions"
            found = lm_eval.simple_evaluate(
                model="local-chat-completions" if is_chat else "local-completions",
                model_args={
                    "model": record["model"],
                    "base_url": typed.url.rstrip("/") + path,
                    "tokenizer_backend": None,
                    "num_concurrent": 1,
                    "max_gen_toks": 256,
                },
                tasks=list(names),
                task_manager=TaskManager(include_path=folder),
                apply_chat_template=is_chat,
                fewshot_as_multiturn=False,
                log_samples=True,
                bootstrap_iters=0,
                verbosity="ERROR",
            )
        theirs, answers = {}, {}
        for name, ids in names.items():
            for sample in found["samples"][name]:
                item = ids[sample["doc_id"]]
                answers[item] = sample["resps"][0][0]
                metric = f"exact_match,{sample['filter']}"
                theirs.setdefault(metric, {})[item] = bool(sample["exact_match"])
        same = sum(answers[item][:1500] == sitting["answers"].get(item, "")[:1500] for item in answers)
        for metric, marks in sorted(theirs.items()):
            ours = {
                item: result["outcome"]["scored"]["marks"]["right"][metric]
                for item, result in run["items"].items()
                if "scored" in result["outcome"]
            }
            different += sum(ours.get(item) != mark for item, mark in marks.items())
            share = lambda of: f"{sum(of.values()) / len(of):.1%}" if of else "-"
            print(
                f"| {suite} | {variant} | {run['shots']} | `{metric}` | {len(marks)} | {share(ours)} |"
                f" {share(marks)} | {same} of {len(answers)} |"
            )
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
