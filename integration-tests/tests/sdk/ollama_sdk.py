"""Drives a mesh with Ollama's Python SDK: models, chat, generate with and without a suffix, embeddings and errors.

    ollama_sdk.py BASE_URL API_KEY
"""

import json
import sys

import ollama

BASE, KEY = sys.argv[1].removesuffix("/v1"), sys.argv[2]
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
# A small num_ctx must neither load a model anew nor cut the prompt.
SHORT = {"num_predict": 8, "temperature": 0, "seed": 7, "num_ctx": 64}


def client(key=KEY):
    return ollama.Client(host=BASE, headers={"Authorization": f"Bearer {key}"}, timeout=60)


def models(mesh):
    names = [model.model for model in mesh.list().models]
    for name in ("mesh/code", "mesh-code", "tiny-trained", "tiny-embed"):
        assert name in names, names
    assert "mesh/code" in [model.model for model in mesh.ps().models]
    for name in ("mesh/code", "mesh/code:latest", "tiny-trained"):
        shown = mesh.show(name)
        # This model's template knows no tools, and so it is said.
        assert set(shown.capabilities) == {"completion", "insert"}, shown
        assert shown.modelinfo["mesh.context_length"] == 2048, shown
        assert ".Suffix" in shown.template, shown
    assert "embedding" in mesh.show("mesh/embed").capabilities


def chat(mesh):
    whole = mesh.chat(model="mesh/code:latest", messages=QUESTION, options=SHORT, keep_alive=0)
    assert whole.message.role == "assistant" and whole.message.content, whole
    assert whole.done and whole.done_reason == "length" and whole.eval_count == 8, whole
    assert whole.prompt_eval_count > 4 and whole.eval_duration > 0, whole
    lines = list(mesh.chat(model="mesh/code", messages=QUESTION, options=SHORT, stream=True))
    assert "".join(line.message.content for line in lines) == whole.message.content, (lines, whole)
    assert len(lines) > 3 and [line.done for line in lines] == [False] * (len(lines) - 1) + [True], lines
    assert lines[-1].eval_count == 8, lines[-1]
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    made = mesh.chat(model="mesh/code", messages=QUESTION, format=schema, options={"num_predict": 64})
    assert isinstance(json.loads(made.message.content)["ok"], bool), made


def generate(mesh):
    whole = mesh.generate(model="mesh/code", prompt="Why is the sky blue?", system="Be short.", options=SHORT)
    assert whole.response and whole.done_reason == "length", whole
    lines = list(mesh.generate(model="mesh/code", prompt="Why is", options=SHORT, stream=True))
    assert lines[-1].done and len(lines) > 3, lines
    raw = mesh.generate(model="mesh/code", prompt="Why is", raw=True, options=SHORT)
    assert raw.prompt_eval_count < whole.prompt_eval_count, (raw, whole)
    # An empty prompt is Ollama's way to load a model.
    assert mesh.generate(model="mesh/code").done_reason == "load"


def middles(mesh):
    ask = {"model": "mesh/autocomplete", "prompt": "def add(a, b):\n    ", "options": SHORT}
    middle = mesh.generate(**ask, suffix="\n    return c\n")
    assert middle.done and middle.eval_count <= 8, middle
    # With the suffix and the tokens around it.
    plain = mesh.generate(**ask, raw=True)
    assert middle.prompt_eval_count > plain.prompt_eval_count + 4, (middle, plain)
    lines = list(mesh.generate(**ask, suffix="\n    return c\n", stream=True))
    assert "".join(line.response for line in lines) == middle.response, (lines, middle)


def embeddings(mesh):
    several = mesh.embed(model="mesh/embed", input=["a list", "zwölf Würfel 🎲"])
    assert len(several.embeddings) == 2 and len(several.embeddings[0]) > 16, several
    old = mesh.embeddings(model="mesh/embed", prompt="a list")
    assert all(abs(a - b) < 1e-5 for a, b in zip(old.embedding, several.embeddings[0]))


def errors(mesh):
    def fails(status, ask):
        try:
            ask()
        except ollama.ResponseError as error:
            assert error.status_code == status, (error.status_code, error)
            assert error.error and not error.error.startswith("{"), error.error
        else:
            raise AssertionError("no error")

    fails(401, client("mk_nobody_nothing").list)
    fails(404, lambda: mesh.show("nobody"))
    for streamed in (False, True):
        long = [{"role": "user", "content": "a long story about many things " * 400}]
        for status, changes in ((404, {"model": "mesh/cod"}), (400, {"messages": long})):
            asked = {"model": "mesh/code", "messages": QUESTION, "stream": streamed, **changes}
            # A stream says nothing before it is read.
            fails(status, lambda: list(mesh.chat(**asked)))
    for ask in (lambda: mesh.pull("x"), lambda: mesh.delete("mesh/code"), lambda: mesh.copy("a", "b")):
        fails(403, ask)


def main():
    mesh = client()
    models(mesh)
    chat(mesh)
    generate(mesh)
    middles(mesh)
    embeddings(mesh)
    errors(mesh)
    print("ollama passed")


main()
