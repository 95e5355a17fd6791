"""Lets a model call tools through OpenAI's Python SDK: chats and responses, whole and streamed, and what follows.

    openai_tools.py BASE_URL API_KEY MODEL…

Each model says a word, calls `clock` and `weather` at once, and answers when it has their results.
"""

import json
import sys

import openai

BASE, KEY, MODELS = sys.argv[1], sys.argv[2], sys.argv[3:]
QUESTION = {"role": "user", "content": "What time is it, and how cold?"}
SAID, ANSWER = "I look.", "It is noon in Zürich, 3 °C."
CALLED = [("clock", {"zone": "Europe/Zürich"}), ("weather", {"city": "Zürich", "days": 3})]
RESULTS = ["12:00", '{"celsius": 3}']


def function(name, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"name": name, "description": f"Tells the {name}.", "parameters": schema}


FUNCTIONS = [
    function("clock", zone={"type": "string"}),
    function("weather", city={"type": "string"}, days={"type": "integer"}),
]
TOOLS = [{"type": "function", "function": one} for one in FUNCTIONS]
FLAT = [{"type": "function", "strict": True, **one} for one in FUNCTIONS]
# Left to the model, asked for, and forced.
CHOICES = ({}, {"tool_choice": "auto", "parallel_tool_calls": True}, {"tool_choice": "required"})


def check(calls):
    """Calls as (id, name, arguments)."""
    assert [(name, json.loads(arguments)) for _, name, arguments in calls] == CALLED, calls
    ids = [id for id, _, _ in calls]
    assert all(isinstance(id, str) and len(id) > 4 for id in ids) and len(set(ids)) == 2, ids


def chat(mesh, model, **choice):
    answer = mesh.chat.completions.create(model=model, messages=[QUESTION], tools=TOOLS, max_tokens=100, **choice)
    [only] = answer.choices
    assert only.finish_reason == "tool_calls", answer
    assert only.message.content.strip() == SAID, answer
    check([(call.id, call.function.name, call.function.arguments) for call in only.message.tool_calls])
    assert answer.usage.completion_tokens > 8, answer
    return only.message


def chat_streamed(mesh, model, **choice):
    text, calls, reasons, steps = "", {}, [], 0
    for chunk in mesh.chat.completions.create(
        model=model, messages=[QUESTION], tools=TOOLS, max_tokens=100, stream=True, **choice
    ):
        for only in chunk.choices:
            text += only.delta.content or ""
            for part in only.delta.tool_calls or []:
                steps += 1
                call = calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += part.id or ""
                call["name"] += part.function.name or ""
                call["arguments"] += part.function.arguments or ""
            reasons += [only.finish_reason] if only.finish_reason else []
    assert text.strip() == SAID and reasons == ["tool_calls"], (text, reasons)
    assert sorted(calls) == [0, 1] and steps > 4, (calls, steps)
    check([(call["id"], call["name"], call["arguments"]) for _, call in sorted(calls.items())])


def chat_accumulated(mesh, model):
    """The SDK's own way to put a stream together."""
    asked = {"model": model, "messages": [QUESTION], "tools": TOOLS, "max_tokens": 100}
    with mesh.chat.completions.stream(**asked) as events:
        done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
        message = events.get_final_completion().choices[0].message
    assert [(event.index, event.name) for event in done] == [(0, "clock"), (1, "weather")], done
    check([(call.id, call.function.name, call.function.arguments) for call in message.tool_calls])


def chat_goes_on(mesh, model, message):
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": result}
        for call, result in zip(message.tool_calls, RESULTS)
    ]
    turns = [QUESTION, message.model_dump(exclude_none=True), *results]
    whole = mesh.chat.completions.create(model=model, messages=turns, tools=TOOLS, max_tokens=100)
    assert whole.choices[0].message.content == ANSWER and not whole.choices[0].message.tool_calls, whole
    assert whole.choices[0].finish_reason == "stop", whole
    chunks = mesh.chat.completions.create(model=model, messages=turns, tools=TOOLS, max_tokens=100, stream=True)
    assert "".join(only.delta.content or "" for chunk in chunks for only in chunk.choices) == ANSWER


def no_calls(mesh, model):
    answer = mesh.chat.completions.create(model=model, messages=[QUESTION], max_tokens=100)
    assert answer.choices[0].message.content == ANSWER and answer.choices[0].finish_reason == "stop", answer
    assert not answer.choices[0].message.tool_calls, answer


def calls_in(output):
    kinds = [item.type for item in output]
    assert kinds == ["message", "function_call", "function_call"], output
    assert output[0].content[0].text.strip() == SAID, output
    calls = output[1:]
    assert all(call.status == "completed" for call in calls), calls
    check([(call.call_id, call.name, call.arguments) for call in calls])
    return calls


def responses(mesh, model, **choice):
    ask = {"model": model, "input": [QUESTION], "tools": FLAT, "max_output_tokens": 100, **choice}
    whole = mesh.responses.create(**ask)
    assert whole.status == "completed", whole
    calls_in(whole.output)
    deltas, done, final = {}, {}, None
    for event in mesh.responses.create(**ask, stream=True):
        if event.type == "response.function_call_arguments.delta":
            deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
        elif event.type == "response.function_call_arguments.done":
            done[event.item_id] = event.arguments
        elif event.type == "response.completed":
            final = event.response
    assert final is not None and final.status == "completed", final
    assert done == deltas, (deltas, done)
    streamed = calls_in(final.output)
    assert [call.arguments for call in streamed] == list(deltas.values()), (streamed, deltas)

    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": result}
        for call, result in zip(streamed, RESULTS)
    ]
    turns = [QUESTION, *[item.model_dump(exclude_none=True) for item in final.output], *results]
    end = mesh.responses.create(model=model, input=turns, tools=FLAT, max_output_tokens=100)
    assert end.output_text == ANSWER and end.status == "completed", end
    with mesh.responses.stream(model=model, input=turns, tools=FLAT, max_output_tokens=100) as events:
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
        assert events.get_final_response().output_text == ANSWER


def instructed(mesh, model):
    """Instructions beside a developer's, as Codex gives them; this model's template takes one system message."""
    told = [{"type": "input_text", "text": text} for text in ("You may write.", "The folder is empty.")]
    turns = [{"type": "message", "role": "developer", "content": told}, QUESTION]
    answer = mesh.responses.create(model=model, instructions="Be kind.", input=turns, max_output_tokens=100)
    assert answer.output_text == ANSWER, answer


def main():
    mesh = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=60)
    for model in MODELS:
        for choice in CHOICES:
            message = chat(mesh, model, **choice)
            chat_streamed(mesh, model, **choice)
            responses(mesh, model, **choice)
        chat_accumulated(mesh, model)
        chat_goes_on(mesh, model, message)
        no_calls(mesh, model)
        instructed(mesh, model)
    print("openai tools passed")


main()
