"""Drives a mesh with OpenAI's Python SDK: models, chat, streaming, completions, embeddings and errors.

    openai_sdk.py BASE_URL API_KEY
"""

import asyncio
import json
import sys

import openai

BASE, KEY = sys.argv[1], sys.argv[2]
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
# The same answer each time, whatever the engine remembers.
SAME = {"max_tokens": 16, "temperature": 0, "seed": 7, "extra_body": {"cache_prompt": False}}


def client(key=KEY):
    return openai.OpenAI(base_url=BASE, api_key=key, max_retries=0, timeout=60)


def models(mesh):
    names = [model.id for model in mesh.models.list()]
    for name in ("mesh/code", "mesh-code", "mesh/embed", "tiny-trained", "tiny-embed"):
        assert name in names, names
        assert mesh.models.retrieve(name).id == name
    assert mesh.models.retrieve("mesh/code").context_length == 2048


def chat(mesh):
    raw = mesh.chat.completions.with_raw_response.create(model="mesh/code", messages=QUESTION, **SAME)
    assert raw.headers["x-mesh-model"] == "tiny-trained", raw.headers
    assert raw.headers["x-mesh-mode"] == "code", raw.headers
    answer = raw.parse()
    assert answer.usage.completion_tokens == 16, answer
    assert answer.choices[0].finish_reason == "length", answer
    return answer.choices[0].message.content


def stream(mesh, whole):
    for options in ({}, {"stream_options": {"include_usage": True}}):
        parts, usage = [], None
        for chunk in mesh.chat.completions.create(
            model="mesh-code", messages=QUESTION, stream=True, **SAME, **options
        ):
            usage = chunk.usage or usage
            parts += [choice.delta.content or "" for choice in chunk.choices]
        assert "".join(parts) == whole, (parts, whole)
        assert len(parts) > 8, parts
        assert (usage is not None) == bool(options), usage
    assert usage.completion_tokens == 16, usage


async def at_once(whole):
    mesh = openai.AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=60)
    asked = [mesh.chat.completions.create(model="mesh/ask", messages=QUESTION, **SAME) for _ in range(4)]
    for answer in await asyncio.gather(*asked):
        assert answer.choices[0].message.content == whole
    await mesh.close()


def completions(mesh):
    answer = mesh.completions.create(model="mesh/autocomplete", prompt="def main(", max_tokens=8)
    assert answer.usage.completion_tokens == 8, answer


def middles(mesh):
    # llama.cpp ignores a suffix in its completions; that it counts as prompt shows that it was filled in.
    ask = {"model": "mesh/autocomplete", "prompt": "def add(a, b):\n    ", "max_tokens": 8, "temperature": 0}
    plain = mesh.completions.create(**ask)
    middle = mesh.completions.create(**ask, suffix="\n    return c\n")
    assert middle.object == "text_completion" and middle.usage.completion_tokens <= 8, middle
    assert middle.usage.prompt_tokens > plain.usage.prompt_tokens + 4, (middle, plain)
    for options in ({}, {"stream_options": {"include_usage": True}}):
        parts, usage = [], None
        for chunk in mesh.completions.create(**ask, suffix="\n    return c\n", stream=True, **options):
            usage = chunk.usage or usage
            parts += [choice.text for choice in chunk.choices]
        assert "".join(parts) == middle.choices[0].text, (parts, middle)
        assert (usage is not None) == bool(options), usage


def responses(mesh):
    ask = {"model": "mesh/code", "input": "Why is the sky blue?", "max_output_tokens": 8, "temperature": 0}
    whole = mesh.responses.create(**ask)
    assert whole.output_text and whole.usage.output_tokens == 8, whole
    kinds, text = [], ""
    for event in mesh.responses.create(**ask, stream=True):
        kinds.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert text, kinds


def tools(mesh):
    tool = {"name": "get_time", "parameters": {"type": "object", "properties": {"z": {"type": "string"}}}}
    # This model's template knows no tools: what counts is that they arrive and that nothing breaks.
    answer = mesh.chat.completions.create(
        model="mesh/code", messages=QUESTION, tools=[{"type": "function", "function": tool}], **SAME
    )
    assert answer.choices[0].finish_reason in ("length", "stop", "tool_calls"), answer
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answer = mesh.chat.completions.create(
        model="mesh/code", messages=QUESTION, max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content)["ok"], bool), answer


def embeddings(mesh):
    texts = ["a list", "zwölf Würfel 🎲"]
    # By default the SDK asks for base64 and decodes it.
    packed = mesh.embeddings.create(model="mesh/embed", input=texts)
    plain = mesh.embeddings.create(model="tiny-embed", input=texts, encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1], packed
    for one, other in zip(packed.data, plain.data):
        assert len(one.embedding) == len(other.embedding) > 16
        assert all(abs(a - b) < 1e-5 for a, b in zip(one.embedding, other.embedding))
    assert packed.data[0].embedding != packed.data[1].embedding


def errors(mesh):
    def fails(kind, code, ask):
        try:
            ask()
        except kind as error:
            assert error.code == code, error
            assert type(error) is kind, error
        else:
            raise AssertionError(f"no {kind.__name__}")

    def ask(mesh, **changes):
        return lambda: mesh.chat.completions.create(**{"model": "mesh/code", "messages": QUESTION, **changes})

    fails(openai.AuthenticationError, "invalid_api_key", ask(client("mk_nobody_nothing")))
    fails(openai.AuthenticationError, "invalid_api_key", client("mk_nobody_nothing").models.list)
    for streamed in (False, True):
        fails(openai.NotFoundError, "model_not_found", ask(mesh, model="mesh/cod", stream=streamed))
        long = [{"role": "user", "content": "a long story about many things " * 400}]
        fails(openai.BadRequestError, "context_length_exceeded", ask(mesh, messages=long, stream=streamed))
    fails(openai.NotFoundError, "model_not_found", lambda: mesh.models.retrieve("nobody"))
    fails(openai.BadRequestError, "invalid_request", ask(mesh, messages="no list"))


def main():
    mesh = client()
    models(mesh)
    whole = chat(mesh)
    stream(mesh, whole)
    asyncio.run(at_once(whole))
    completions(mesh)
    middles(mesh)
    responses(mesh)
    tools(mesh)
    embeddings(mesh)
    errors(mesh)
    print("openai", openai.__version__, "passed")


main()
