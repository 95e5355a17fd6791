"""Lets a model call tools through Ollama's Python SDK: whole, streamed, and what follows.

    ollama_tools.py BASE_URL API_KEY MODEL…

Each model says a word, calls `clock` and `weather` at once, and answers when it has their results.
"""

import sys

import ollama

BASE, KEY, MODELS = sys.argv[1].removesuffix("/v1"), sys.argv[2], sys.argv[3:]
QUESTION = {"role": "user", "content": "What time is it, and how cold?"}
SAID, ANSWER = "I look.", "It is noon in Zürich, 3 °C."
CALLED = [("clock", {"zone": "Europe/Zürich"}), ("weather", {"city": "Zürich", "days": 3})]


def clock(zone: str) -> str:
    """Tells the time.

    Args:
        zone: where
    """
    return f"12:00 in {zone}"


def weather(city: str, days: int) -> str:
    """Tells the weather.

    Args:
        city: where
        days: how many
    """
    return f"3 in {city} for {days}"


# The SDK makes schemas of functions.
TOOLS = [clock, weather]


def check(calls):
    assert [(call.function.name, call.function.arguments) for call in calls] == CALLED, calls


def goes_on(mesh, model, message):
    by_name = {tool.__name__: tool for tool in TOOLS}
    results = [
        {"role": "tool", "tool_name": call.function.name, "content": by_name[call.function.name](**call.function.arguments)}
        for call in message.tool_calls
    ]
    turns = [QUESTION, message, *results]
    whole = mesh.chat(model=model, messages=turns, tools=TOOLS)
    assert whole.message.content == ANSWER and not whole.message.tool_calls, whole
    lines = mesh.chat(model=model, messages=turns, tools=TOOLS, stream=True)
    assert "".join(line.message.content or "" for line in lines) == ANSWER


def main():
    mesh = ollama.Client(host=BASE, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    for model in MODELS:
        asked = {"model": model, "messages": [QUESTION], "tools": TOOLS, "options": {"num_predict": 100}}
        whole = mesh.chat(**asked)
        assert whole.done and whole.done_reason == "stop", whole
        assert whole.message.role == "assistant" and whole.message.content.strip() == SAID, whole
        check(whole.message.tool_calls)
        lines = list(mesh.chat(**asked, stream=True))
        assert "".join(line.message.content or "" for line in lines).strip() == SAID, lines
        check([call for line in lines for call in line.message.tool_calls or []])
        assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True], lines
        assert lines[-1].done_reason == "stop" and lines[-1].eval_count > 8, lines[-1]
        goes_on(mesh, model, whole.message)
    # Only the model whose engine tells of its template is known to call tools.
    assert "tools" in mesh.show(MODELS[0]).capabilities
    print("ollama tools passed")


main()
