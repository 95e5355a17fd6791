"""Drives a mesh with Anthropic's Python SDK: messages, streams, tokens and errors.

    anthropic_sdk.py BASE_URL API_KEY
"""

import sys

import anthropic

BASE, KEY = sys.argv[1].removesuffix("/v1"), sys.argv[2]
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
# The SDK of this version has no parameter for it.
SAME = {"temperature": 0}


def client(**how):
    return anthropic.Anthropic(base_url=BASE, max_retries=0, timeout=60, **how)


def messages(mesh):
    answer = mesh.messages.create(
        model="mesh/code", max_tokens=8, messages=QUESTION, system="Be short.", extra_body=SAME
    )
    assert answer.type == "message" and answer.role == "assistant", answer
    assert answer.content[0].type == "text" and answer.content[0].text, answer
    assert answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 8, answer
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    assert mesh.messages.create(model="mesh-code", max_tokens=2, messages=blocks).content


def stream(mesh):
    with mesh.messages.stream(model="mesh/code", max_tokens=8, messages=QUESTION, extra_body=SAME) as events:
        parts = list(events.text_stream)
        final = events.get_final_message()
    assert len(parts) > 2 and "".join(parts) == final.content[0].text, (parts, final)
    assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 8, final


def tokens(mesh):
    short = mesh.messages.count_tokens(model="mesh/code", messages=QUESTION).input_tokens
    long = [{"role": "user", "content": QUESTION[0]["content"] * 20}]
    assert 4 < short < mesh.messages.count_tokens(model="mesh/code", messages=long).input_tokens


def errors(mesh):
    def fails(kind, name, ask):
        try:
            ask()
        except kind as error:
            assert type(error) is kind, error
            assert error.body["type"] == "error" and error.body["error"]["type"] == name, error.body
            assert error.body["request_id"].startswith("req-"), error.body
            assert error.request_id == error.body["request_id"], error.request_id
        else:
            raise AssertionError(f"no {kind.__name__}")

    def ask(mesh, **changes):
        asked = {"model": "mesh/code", "max_tokens": 2, "messages": QUESTION, **changes}
        return lambda: mesh.messages.create(**asked)

    fails(anthropic.AuthenticationError, "authentication_error", ask(client(api_key="mk_nobody_nothing")))
    for streamed in (False, True):
        fails(anthropic.NotFoundError, "not_found_error", ask(mesh, model="mesh/cod", stream=streamed))
        long = [{"role": "user", "content": "a long story about many things " * 400}]
        fails(anthropic.BadRequestError, "invalid_request_error", ask(mesh, messages=long, stream=streamed))


def main():
    for how in ({"api_key": KEY}, {"auth_token": KEY}):
        messages(client(**how))
    mesh = client(api_key=KEY)
    stream(mesh)
    tokens(mesh)
    errors(mesh)
    print("anthropic", anthropic.__version__, "passed")


main()
