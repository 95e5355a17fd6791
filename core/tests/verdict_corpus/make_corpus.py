"""Makes the machine-made parts of the corpus beside the texts by hand: answers.jsonl, made.jsonl, broken.jsonl.

    make_corpus.py ANSWERS_RAW

ANSWERS_RAW comes of make_answers.py. Everything else is drawn with fixed seeds from the .txt files here and from
the repository's own sources, so that the same files come out again. Labels of models' answers were given by
reading them: see LOOPS, UNCLEAR and `answer_label`. Needs Python 3.9 and nothing else.
"""

import base64
import collections
import json
import pathlib
import random
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def texts(name):
    found = re.split(r"^%%% (.*)\n", (HERE / name).read_text(encoding="utf-8"), flags=re.M)
    return [(kind, text.rstrip("\n")) for kind, text in zip(found[1::2], found[2::2])]


HUMAN = [pair for name in ("human-latin.txt", "human-other.txt", "human-mixed.txt") for pair in texts(name)]
CODE, SHAPES = texts("code.txt"), texts("shapes.txt")


def line(label, kind, text, **more):
    return {"label": label, "kind": kind, **more, "text": text}


def write(name, lines):
    with open(HERE / name, "w", encoding="utf-8") as file:
        for entry in lines:
            file.write(json.dumps(entry, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n")
    print(name, len(lines), dict(collections.Counter(entry["label"] for entry in lines)))


# ── answers of models ────────────────────────────────────────────────────────────────────────────────────

# Beginnings that end in circles although they stopped by themselves, or at a temperature where most do not.
LOOPS = {("trained:T=0.2", 0), ("damaged-pages-0.1:T=0.7", 2)}
# What a reader cannot call text or noise with a good conscience: English-like words that say nothing at a
# temperature of 1.5, glued pieces of words, two answers that begin to turn, answers of two tokens.
TURNING = {("trained:T=0.2", 10), ("trained:T=0.2", 11)}
UNCLEAR = {"trained:T=1.5:pure", "damaged-pages-0.1:T=0", "damaged-pages-0.1:T=0.7"}
TOO_SHORT = 16


def answer_label(kind, number, entry):
    if (kind, number) in LOOPS:
        return "repeated"
    if kind in UNCLEAR or (kind, number) in TURNING or (kind.startswith(("random", "damaged")) and entry["tokens"] < TOO_SHORT):
        return "unclear"
    if kind.startswith("damaged-bytes"):
        return "repeated"
    if kind.startswith(("random", "damaged")):
        return "noise"
    if kind == "trained:no-end":
        return "endless"
    if kind == "trained:T=0" and entry["finish"] == "length":
        return "repeated"
    return "good"


def answers(path):
    seen, lines = collections.Counter(), []
    for raw in open(path, encoding="utf-8"):
        entry = json.loads(raw)
        kind = entry["kind"].removeprefix("model:")
        label = answer_label(kind, seen[kind], entry)
        seen[kind] += 1
        more = {"finish": entry["finish"], "tokens": entry["tokens"]}
        if label == "endless":
            more["most_tokens"] = 120
        lines.append(line(label, entry["kind"], entry["text"], **more))
    return lines


# ── good texts that programs make ────────────────────────────────────────────────────────────────────────

def rust_of_this_repository(dice):
    files = sorted(path for path in ROOT.glob("*/src/**/*.rs") if "gen" not in path.parts)
    lines = []
    for path in dice.sample(files, 60):
        source = path.read_text(encoding="utf-8").splitlines()
        at = dice.randrange(max(1, len(source) - 20))
        excerpt = "\n".join(source[at : at + dice.randrange(8, 40)]).strip("\n")
        if len(excerpt) > 120:
            lines.append(line("good", "code:rust", excerpt, source=str(path.relative_to(ROOT))))
    return lines


def made_shapes(dice):
    cities = "Bonn Oslo Lima Pune Accra Kyoto Porto Quito Turku Ghent".split()
    status = ["ok", "ok", "ok", "ok", "late", "failed"]
    number = lambda low, high: dice.randint(low, high)
    lines = []

    def add(kind, text):
        lines.append(line("good", kind, text))

    for rows in (6, 20, 60):
        add("made:csv", "day,city,low,high\n" + "".join(
            f"2026-01-{n % 28 + 1:02},{dice.choice(cities)},{number(-90, 90) / 10},{number(100, 300) / 10}\n" for n in range(rows)))
        add("made:csv of states", "job,state,seconds\n" + "".join(
            f"{n},{dice.choice(status)},{number(1, 90)}\n" for n in range(rows)))
        add("made:csv with holes", "a,b,c,d,e,f\n" + "".join(
            ",".join(str(number(0, 9)) if dice.random() < 0.3 else "" for _ in range(6)) + "\n" for _ in range(rows)))
        add("made:markdown table", "| City | Jan | Feb | Mar |\n|---|---|---|---|\n" + "".join(
            f"| {dice.choice(cities)} | {number(0, 99)} | {number(0, 99)} | {number(0, 99)} |\n" for _ in range(rows)))
        add("made:json", json.dumps([
            {"id": n, "city": dice.choice(cities), "ok": dice.random() < 0.9, "load": number(0, 100) / 100} for n in range(rows)]))
        add("made:json pretty", json.dumps([
            {"id": n, "city": dice.choice(cities), "tags": dice.sample(cities, 2)} for n in range(rows)], indent=2))
        add("made:json numbers", json.dumps([[number(-99, 99) / 10 for _ in range(4)] for _ in range(rows)]))
        add("made:yaml", "".join(
            f"- name: {dice.choice(cities).lower()}-{n}\n  port: {number(1024, 9999)}\n  enabled: {dice.choice(['true', 'false'])}\n" for n in range(rows)))
        add("made:log", "".join(
            f"2026-03-01T10:{n % 60:02}:{number(10, 59)}Z {dice.choice(['INFO', 'INFO', 'WARN'])} request id={number(10**5, 10**6)} ms={number(3, 900)} status={dice.choice([200, 200, 200, 404, 503])}\n" for n in range(rows)))
        add("made:hex dump", "".join(
            f"{16 * n:08x}  " + " ".join(f"{number(0, 255):02x}" for _ in range(16)) + "\n" for n in range(rows)))
        add("made:bytes in c", "static const unsigned char table[] = {\n" + "".join(
            "    " + ", ".join(f"0x{number(0, 255):02x}" for _ in range(8)) + ",\n" for _ in range(rows)) + "};\n")
        add("made:bytes, many the same", "uint8_t map[] = {\n" + "".join(
            "    " + ", ".join("0x%02x" % (number(0, 255) if dice.random() < 0.3 else 128) for _ in range(8)) + ",\n" for _ in range(rows)) + "};\n")
        add("made:base64", "The file, encoded:\n\n```\n" + "\n".join(
            base64.b64encode(dice.randbytes(48)).decode() for _ in range(rows)) + "\n```\n")
        add("made:hashes", "".join(f"{dice.randbytes(32).hex()}  part-{n:03}.bin\n" for n in range(rows)))
        add("made:vectors", "\n".join(" ".join(f"{dice.gauss(0, 1):+.4f}" for _ in range(6)) for _ in range(rows)))
        add("made:sql", "INSERT INTO load (id, city, value) VALUES\n" + ",\n".join(
            f"({n}, '{dice.choice(cities)}', {number(0, 100)})" for n in range(rows)) + ";")
        add("made:map", "\n".join("".join(dice.choice(".....##~~T") for _ in range(24)) for _ in range(rows)))
        add("made:xml", "<jobs>\n" + "".join(
            f'  <job id="{n}" state="{dice.choice(status)}"><city>{dice.choice(cities)}</city></job>\n' for n in range(rows)) + "</jobs>")
        add("made:assembly", "".join(
            f"  {0x401000 + 4 * n:x}:\t{dice.choice(['mov', 'add', 'sub', 'xor', 'ldr', 'str'])}\tr{number(0, 12)}, r{number(0, 12)}, #{number(0, 64)}\n" for n in range(rows)))
        add("made:list", "\n".join(f"{n + 1}. {dice.choice(cities)} has {number(2, 90)} bridges and {number(1, 20)} harbours." for n in range(rows)))
    return lines


def long_answers(dice):
    """Texts of one kind one after the other, as a long answer with several parts has."""
    by_kind = collections.defaultdict(list)
    for kind, text in HUMAN + CODE:
        by_kind[kind.split(":")[0] if kind.startswith("mixed") else kind].append(text)
    lines = []
    for kind, group in sorted(by_kind.items()):
        if len(group) >= 3 and not kind.startswith("code"):
            parts = dice.sample(group, min(len(group), 6))
            lines.append(line("good", f"long:{kind}", "\n\n".join(parts)))
    for number in range(12):
        parts = [f"### {kind.removeprefix('code:')}\n\n```\n{text}\n```" for kind, text in dice.sample(CODE, 4)]
        lines.append(line("good", "long:code", "Here is the same in four notations.\n\n" + "\n\n".join(parts)))
    return lines


# ── what broken weights, templates and kernels answer ────────────────────────────────────────────────────

def vocabulary(merges):
    """Byte-level BPE over the texts by hand: pieces of words of every script and of code, with their spaces and
    with characters cut apart, as the vocabularies of real models have them."""
    words = collections.Counter()
    for _, text in HUMAN + CODE + SHAPES:
        words.update(re.findall(r" ?[^\W\d_]+| ?\d{1,3}| ?[^\s\w]+|\s+", text))
    split = {word: [bytes([b]) for b in word.encode()] for word in words}
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for word, parts in split.items():
        for pair in zip(parts, parts[1:]):
            pairs[pair] += words[word]
            where[pair].add(word)
    tokens = []
    for _ in range(merges):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 2:
            break
        tokens.append(best[0] + best[1])
        for word in list(where[best]):
            parts, merged, at = split[word], [], 0
            for pair in zip(parts, parts[1:]):
                pairs[pair] -= words[word]
                where[pair].discard(word)
            while at < len(parts):
                joined = at + 1 < len(parts) and (parts[at], parts[at + 1]) == best
                merged.append(parts[at] + parts[at + 1] if joined else parts[at])
                at += 2 if joined else 1
            split[word] = merged
            for pair in zip(merged, merged[1:]):
                pairs[pair] += words[word]
                where[pair].add(word)
        pairs.pop(best, None)
    return tokens


def is_whole(token):
    try:
        token.decode()
        return True
    except UnicodeDecodeError:
        return False


def decode(tokens):
    return b"".join(tokens).decode(errors="replace")


def soups(dice, tokens):
    whole = [token for token in tokens if is_whole(token) and token.strip()]
    other = [token for token in whole if not token.isascii()]
    ascii_ = [token for token in whole if token.isascii()]
    # Older vocabularies have no other scripts than these.
    neighbours = [token for token in other if re.fullmatch(r"[ \w\u00c0-\u024f\u0400-\u04ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]+", token.decode())
                  and re.search(r"[\u00c0-\u024f\u0400-\u04ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]", token.decode())
                  and not re.search(r"[^\x00-\u024f\u0400-\u04ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]", token.decode())]
    lines = []
    for length in (24, 64, 200):
        for _ in range(8):
            lines.append(line("gibberish", f"soup:every token:{length}", decode(dice.choices(tokens, k=length))))
            lines.append(line("gibberish", f"soup:whole characters:{length}", decode(dice.choices(whole, k=length))))
            half = [dice.choice(other if dice.random() < 0.35 else ascii_) for _ in range(length)]
            lines.append(line("gibberish", f"soup:mostly ascii:{length}", decode(half)))
            near = [dice.choice(neighbours if dice.random() < 0.25 else ascii_) for _ in range(length)]
            lines.append(line("gibberish" if length > 24 else "unclear", f"soup:few scripts:{length}", decode(near)))
            few = dice.sample(whole, 40)
            weights = [1 / (n + 1) for n in range(40)]
            lines.append(line("noise", f"soup:peaked:{length}", decode(dice.choices(few, weights, k=length))))
    # Pieces of words of one script: text to every rule that knows no language. Measured, not counted.
    for length in (64, 200):
        for _ in range(6):
            lines.append(line("unclear", f"soup:ascii only:{length}", decode(dice.choices(ascii_, k=length))))
    words = re.findall(r"\b[a-z]+\b", " ".join(text for kind, text in HUMAN if kind == "english"))
    for _ in range(6):
        lines.append(line("unclear", "soup:words of english", " ".join(dice.choices(words, k=60))))
    return lines


def noises(dice):
    lines = []

    def add(kind, text, **more):
        lines.append(line("gibberish", kind, text, **more))

    printable = [chr(c) for c in range(33, 127)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    scripts = [(0x21, 0x7E), (0xC0, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA), (0x627, 0x64A), (0x905, 0x939),
               (0xE01, 0xE2E), (0x3041, 0x3093), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x10D0, 0x10F0), (0x561, 0x586)]
    for length in (60, 160, 500):
        for _ in range(6):
            add("noise:bytes", dice.randbytes(length).decode(errors="replace"))
            add("noise:replacement runs", "".join(
                dice.choice(["\ufffd" * dice.randint(1, 9), dice.choice(letters) * 2, " "]) for _ in range(length // 3)))
            add("noise:control characters", "".join(dice.choice(letters + " " + "".join(map(chr, range(1, 9)))) for _ in range(length)))
            add("noise:characters of every script", "".join(chr(dice.randint(*dice.choice(scripts))) + dice.choice(["", "", " "]) for _ in range(length)))
            add("noise:code points", "".join(chr(dice.randint(0x20, 0xD7FF)) for _ in range(length)))
            if length > 60:
                add("noise:printable ascii", "".join(dice.choices(printable, k=length)))
                add("noise:printable ascii with spaces", "".join(dice.choices(printable + [" "] * 12, k=length)))
                add("noise:letters with spaces", "".join(dice.choices(letters + "     ", k=length)))
                # A regular expression where any text would do, noise where a sentence is due.
                add("noise:symbols", "".join(dice.choices("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ", k=length)), expect="sentence")
    speech = [text for kind, text in HUMAN if len(text) > 120]
    foreign = [text for kind, text in texts("human-other.txt") if len(text) > 100]
    names = {9: "ĉ", 10: "Ċ", 13: "č", 32: "Ġ"}
    printed = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    spelled = {b: chr(b) for b in printed} | {b: chr(256 + n) for n, b in enumerate(x for x in range(256) if x not in printed)}
    spelled |= names
    for text in dice.sample(speech, 10):
        # A detokeniser that was left out: the names of bytes in the vocabulary are shown.
        add("leak:byte names", "".join(spelled[b] for b in text[:300].encode()))
        add("leak:spaces as blocks", "▁" + text[:300].replace(" ", "▁").replace("\n", "<0x0A>"))
    for text in dice.sample(foreign, 10):
        add("leak:bytes in brackets", "".join(c if c.isascii() else "".join(f"<0x{b:02X}>" for b in c.encode()) for c in text[:80]))
        add("leak:bytes read as latin", text[:200].encode().decode("cp1252", errors="replace"))
        add("leak:bytes read as latin", text[:200].encode().decode("latin-1"))
    for text in dice.sample([text for kind, text in texts("human-latin.txt") if len(text) > 120 and len(text.encode()) > len(text) + 6], 8):
        add("leak:bytes read as latin", text[:250].encode().decode("cp1252", errors="replace"))
    return lines


def loops(dice, tokens):
    whole = [token.decode() for token in tokens if is_whole(token) and token.strip()]
    lines = []

    def add(kind, text, **more):
        label = "noise" if kind in ("loop:turns", "loop:stutter") else "repeated"
        lines.append(line(label, kind, text, finish="length", **more))

    for _ in range(30):
        add("loop:one token", dice.choice(whole) * dice.choice([40, 100, 256]))
    for character in "G!?@0的.\u2581ๆ-":
        add("loop:one character", character * dice.choice([24, 64, 300]))
    for period in (2, 3, 5, 8, 13, 21):
        for _ in range(4):
            piece = "".join(dice.choices(whole, k=period))
            if len(set(piece)) > 1:
                add(f"loop:period {period}", piece * (200 // period))
    sentences = [(kind, text) for kind, text in HUMAN if 40 < len(text) < 400 and not kind.startswith(("chess", "dna"))]
    for kind, text in dice.sample(sentences, 40):
        add(f"loop:sentence:{kind}", " ".join([text] * 7))
    for kind, text in dice.sample(sentences, 40):
        # It speaks, then it does not get out of its last words any more.
        words = text.split()
        tail = " ".join(words[-4:]) if len(words) > 8 else text[-12:]
        add(f"loop:tail:{kind}", text + (" " + tail) * 14)
    for kind, text in dice.sample(CODE, 20):
        rows = [row for row in text.splitlines() if len(row.strip()) > 12]
        add(f"loop:line of {kind}", text + "\n" + (rows[-1] + "\n") * 40)
    for kind, text in dice.sample(CODE, 8):
        add(f"loop:whole {kind}", (text + "\n\n") * 6)
    for _ in range(12):
        # Phrases take turns in no fixed order.
        phrases = ["".join(dice.choices(whole, k=6)) for _ in range(3)]
        add("loop:turns", " ".join(dice.choices(phrases, k=40)))
    for _ in range(12):
        # It stutters: a run of one piece, then of another.
        add("loop:stutter", "".join(dice.choice(whole) * dice.randint(8, 30) for _ in range(6)))
    for kind, text in dice.sample(sentences, 8):
        add("loop:table row", "| a | b |\n|---|---|\n" + f"| {text[:20].replace(chr(10), ' ')} | 1 |\n" * 30)
    for _ in range(6):
        row = json.dumps({"id": dice.randint(1, 9), "name": dice.choice(whole).strip(), "ok": True})
        add("loop:json row", "[" + ", ".join([row] * 20) + ", ")
    return lines


def ends(dice):
    lines = []
    blanks = ["", " ", "\n", "\n\n\n\n\n\n\n\n", "\t \n", "\u200b", "\ufeff", "\u3000", "\u00a0 ", "<|im_end|>", "</s>", "<s></s>", "<|endoftext|>" * 20,
              "<|eot_id|>\n", "<｜end▁of▁sentence｜>", "<pad>" * 60, "[PAD] [PAD] [PAD]", "<unk><unk><unk>", "<|im_start|>", " \n" * 100, "<end_of_turn>\n",
              "\u2060", "\u200c\u200d", "<eos>", "<bos> \n"]
    lines += [line("empty", "empty", text, finish="stop") for text in blanks]
    long = [(kind, text) for kind, text in HUMAN if len(text) > 120]
    for kind, text in dice.sample(long, 40):
        lines.append(line("cut", f"cut:{kind}", text[: len(text) * 2 // 3], finish="length", expect="whole"))
    questions = ["What is the weather like?", "Tell me a joke.", "И ещё один вопрос?", "谢谢，还有呢？", "How many legs has a spider?"]
    turns = [
        "<|im_end|>\n<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n",
        "\n<|im_start|>user\n{q}\n<|im_start|>assistant\n",
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{q}",
        "<end_of_turn>\n<start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n",
        "</s>[INST] {q} [/INST] ",
        "\n[INST] {q} [/INST] ",
        "<｜end▁of▁sentence｜><｜User｜>{q}<｜Assistant｜>",
        "\n<|user|>\n{q}\n<|assistant|>\n",
    ]
    plain = ["\nUser: {q}\nAssistant: ", "\n\nHuman: {q}\n\nAssistant: ", "\n\n### Instruction:\n{q}\n\n### Response:\n", "\nuser\n{q}\nassistant\n",
             "\n\nQ: {q}\nA: ", "\n### User: {q}\n### Assistant: "]
    for kind, text in dice.sample([pair for pair in long if len(pair[1]) < 300], 24):
        turn = dice.choice(turns).format(q=dice.choice(questions))
        lines.append(line("endless", "endless:special tokens", text + turn + dice.choice(long)[1][:60], finish="length"))
    for kind, text in dice.sample([pair for pair in long if len(pair[1]) < 300 and ":" not in pair[0]], 24):
        turn = dice.choice(plain).format(q=dice.choice(questions))
        lines.append(line("endless", "endless:names of roles", text + turn + dice.choice(long)[1][:60], finish="length", most_tokens=400))
    for kind, text in dice.sample(long, 10):
        lines.append(line("endless", "endless:tokens", text, finish="length", tokens=512, most_tokens=100))
    for kind, text in dice.sample(long, 12):
        lines.append(line("good", "ended:long but by itself", text, finish="stop", tokens=512, most_tokens=100))
    for kind, text in dice.sample(long, 12):
        lines.append(line("good", "cut:few were asked for", text[:60], finish="length", tokens=24, most_tokens=100))
    return lines


def main():
    write("answers.jsonl", answers(sys.argv[1]))
    dice = random.Random(6)
    write("made.jsonl", rust_of_this_repository(dice) + made_shapes(dice) + long_answers(dice))
    tokens = vocabulary(6000)
    dice = random.Random(7)
    write("broken.jsonl", soups(dice, tokens) + noises(dice) + loops(dice, tokens) + ends(dice))
    print("vocabulary", len(tokens), "whole", sum(map(is_whole, tokens)))


main()
