"""Lets a model call tools through Anthropic's Python SDK: whole, streamed, and what follows.

    anthropic_tools.py BASE_URL API_KEY MODEL…

Each model says a word, calls `clock` and `weather` at once, and answers when it has their results.
"""

import sys

import anthropic

BASE, KEY, MODELS = sys.argv[1].removesuffix("/v1"), sys.argv[2], sys.argv[3:]
QUESTION = {"role": "user", "content": "What time is it, and how cold?"}
SAID, ANSWER = "I look.", "It is noon in Zürich, 3 °C."
CALLED = [("clock", {"zone": "Europe/Zürich"}), ("weather", {"city": "Zürich", "days": 3})]


def tool(name, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": f"Tells the {name}.", "input_schema": schema}


TOOLS = [
    tool("clock", zone={"type": "string"}),
    tool("weather", city={"type": "string"}, days={"type": "integer"}),
]
CHOICES = ({}, {"tool_choice": {"type": "auto"}}, {"tool_choice": {"type": "any"}})


def check(answer):
    assert answer.type == "message" and answer.role == "assistant", answer
    assert answer.stop_reason == "tool_use", answer
    assert [block.type for block in answer.content] == ["text", "tool_use", "tool_use"], answer
    text, *calls = answer.content
    assert text.text.strip() == SAID, answer
    assert [(call.name, call.input) for call in calls] == CALLED, answer
    assert len({call.id for call in calls}) == 2 and all(len(call.id) > 4 for call in calls), answer
    return calls


def streamed(mesh, ask):
    starts, partial, stops = {}, {}, []
    with mesh.messages.stream(**ask) as events:
        for event in events:
            if event.type == "content_block_start":
                starts[event.index] = event.content_block
            elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                partial.setdefault(event.index, []).append(event.delta.partial_json)
            elif event.type == "content_block_stop":
                stops.append(event.index)
        final = events.get_final_message()
    check(final)
    assert stops == [0, 1, 2] and sorted(starts) == [0, 1, 2], (starts, stops)
    assert [starts[at].name for at in (1, 2)] == ["clock", "weather"], starts
    assert sorted(partial) == [1, 2] and all(len(parts) > 1 for parts in partial.values()), partial
    # The same, by hand.
    events = list(mesh.messages.create(**ask, stream=True))
    assert events[0].type == "message_start" and events[-1].type == "message_stop", events
    [delta] = [event for event in events if event.type == "message_delta"]
    assert delta.delta.stop_reason == "tool_use" and delta.usage.output_tokens > 8, delta


def goes_on(mesh, model, answer):
    calls = check(answer)
    results = [
        {"type": "tool_result", "tool_use_id": calls[0].id, "content": "12:00"},
        {"type": "tool_result", "tool_use_id": calls[1].id, "content": [{"type": "text", "text": "3"}]},
    ]
    turns = [
        QUESTION,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]},
        {"role": "user", "content": results},
    ]
    ask = {"model": model, "messages": turns, "tools": TOOLS, "max_tokens": 100}
    end = mesh.messages.create(**ask)
    assert [block.type for block in end.content] == ["text"] and end.content[0].text == ANSWER, end
    assert end.stop_reason == "end_turn", end
    with mesh.messages.stream(**ask) as events:
        assert "".join(events.text_stream) == ANSWER


def instructed(mesh, model):
    """Instructions in the midst of the messages, as Claude Code gives them; this model's template refuses them there."""
    turns = [QUESTION, {"role": "system", "content": [{"type": "text", "text": "The folder is empty."}]}]
    later = [*turns, {"role": "assistant", "content": "Noon."}, {"role": "system", "content": "Be short."}]
    for messages in (turns, later):
        answer = mesh.messages.create(model=model, system="Be kind.", messages=messages, max_tokens=100)
        assert answer.content[0].text == ANSWER, answer


def main():
    mesh = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0, timeout=60)
    for model in MODELS:
        for choice in CHOICES:
            ask = {"model": model, "messages": [QUESTION], "tools": TOOLS, "max_tokens": 100, **choice}
            answer = mesh.messages.create(**ask)
            check(answer)
            streamed(mesh, ask)
        goes_on(mesh, model, answer)
        instructed(mesh, model)
    print("anthropic tools passed")


main()
