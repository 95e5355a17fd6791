"""Asks three tiny models, whole and damaged, at several temperatures; writes the answers as JSON lines.

    make_answers.py MODELS ENGINE_PYTHON > answers-raw.jsonl

MODELS is the folder with the three tiny GGUF files, ENGINE_PYTHON a Python that has the `xllamacpp` wheel. The
engine is started by `node-agent/assets/bundled_engine.py`, as the agent starts it. Labels are given afterwards by
make_corpus.py, by rules and by reading; this program only asks. Two minutes on two cores.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile
import urllib.request

ENGINE = pathlib.Path(__file__).resolve().parents[3] / "node-agent/assets/bundled_engine.py"

PROMPTS = [
    "What does the open function return?",
    "How do I read a file line by line?",
    "Explain the difference between a list and a tuple.",
    "Write a short poem about the sea.",
    "What is the capital of France? Answer in one sentence.",
    "How can I raise an error with a message?",
    "Describe the module for regular expressions.",
    "What happens when a stream ends?",
    "Say hello in one short sentence.",
    "Why is the sky blue?",
    "Which method removes an item from a set?",
    "Give three reasons to write tests.",
]

# The whole vocabulary, then the engine's own defaults, which most requests get.
PURE = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def damaged(source, how, share, folder):
    """A copy with this share of its weights overwritten: single `bytes` at random (scales become NaN), or whole
    `pages` of zeros, as a download leaves that was cut and resumed wrongly. The header, some 60 KB with the
    vocabulary, stays."""
    data = bytearray(source.read_bytes())
    dice = random.Random(int(share * 1000))
    start, page = 90_000, 4096
    if how == "bytes":
        for _ in range(int((len(data) - start) * share)):
            data[dice.randrange(start, len(data))] = dice.randrange(256)
    else:
        for at in range(start, len(data) - page, page):
            if dice.random() < share:
                data[at : at + page] = bytes(page)
    path = pathlib.Path(folder) / f"damaged-{how}-{share}.gguf"
    path.write_bytes(data)
    return path


def ask(address, body):
    request = urllib.request.Request(
        address + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def answers(python, model, name, plan):
    engine = subprocess.Popen(
        [python, str(ENGINE), str(model), "--alias", "m", "--context", "1024"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = None
        for line in engine.stdout:
            if line.startswith("LISTENING"):
                address = line.split()[1]
                break
        if address is None:
            print(f"{name}: the engine did not start", file=sys.stderr)
            return
        for way, options, prompts in plan:
            for number, prompt in enumerate(prompts):
                body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "seed": 1 + number, **options}
                try:
                    reply = ask(address, body)
                except OSError as error:
                    print(f"{name} {way}: {error}", file=sys.stderr)
                    continue
                choice = reply["choices"][0]
                print(json.dumps({
                    "kind": f"model:{name}:{way}",
                    "finish": choice["finish_reason"],
                    "tokens": reply["usage"]["completion_tokens"],
                    "text": choice["message"].get("content") or "",
                }, ensure_ascii=True), flush=True)
    finally:
        engine.stdin.close()
        engine.wait()


def main():
    folder, python = pathlib.Path(sys.argv[1]), sys.argv[2]
    trained = folder / "tiny-trained-1.4M-q8_0.gguf"
    def at(temperature, tokens, **more):
        return {"temperature": temperature, "max_tokens": tokens, **more}
    few = PROMPTS[:8]
    speaks = [("T=0", at(0, 160), PROMPTS)]
    speaks += [(f"T={t}", at(t, 96), PROMPTS) for t in (0.2, 0.7, 1.0)]
    speaks += [(f"T={t}:pure", at(t, 96, **PURE), PROMPTS) for t in (0.7, 1.0, 1.5)]
    speaks += [("no-end", at(0.7, 200, ignore_eos=True), PROMPTS)]
    answers(python, trained, "trained", speaks)
    noise = [("T=0", at(0, 96), few)]
    noise += [(f"T={t}:pure", at(t, 64, **PURE), few) for t in (0.2, 0.7, 1.0, 1.5)]
    noise += [("T=1.0", at(1.0, 24), few)]
    answers(python, folder / "tiny-random-1.4M-q8_0.gguf", "random", noise)
    answers(python, folder / "tiny-random-0.2M-f16.gguf", "random-small", noise)
    with tempfile.TemporaryDirectory() as scratch:
        for how, share, prompts in (("bytes", 0.01, few[:4]), ("pages", 0.1, few), ("pages", 0.3, few), ("pages", 0.6, few)):
            model = damaged(trained, how, share, scratch)
            plan = [("T=0", at(0, 96), prompts), ("T=0.7", at(0.7, 96), prompts)]
            answers(python, model, f"damaged-{how}-{share}", plan)


main()
