"""An engine that speaks OpenAI's dialect and answers agents with fixed, sensible words. It is no model: what it is for
is to see whether real agents and the router understand each other, tools and streams included.

    AGENT_FOLDER=FOLDER scripted_engine.py PORT RECORD

Whoever offers a tool that writes files or runs commands is told to write greeting.txt with it, and after the result gets
a closing word.
Whoever asks without tools gets a file hello.py in the form that aider reads. Every request becomes a line of JSON in
the file RECORD: path, names of its fields, tools, roles. Ends when standard input closes.
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "scripted"
FILE = "hello.py\n```\nprint(\"hello from the mesh\")\n```\n"
GREETING = "hello from the mesh\n"
DONE = "greeting.txt is written."


def answer(request):
    """Text, and a call as (name, arguments) or None."""
    functions = [tool["function"] for tool in request.get("tools") or []]
    # A tool without parameters may have no schema.
    tools = {one["name"]: (one.get("parameters") or {}).get("properties", {}) for one in functions}
    if not tools:
        return "Here it is.\n\n" + FILE, None
    # Agents differ in their tools, and in how those name a path.
    file = os.path.join(os.environ.get("AGENT_FOLDER", ""), "greeting.txt")
    wanted = {
        "path": file, "filePath": file, "file_path": file, "filepath": file, "content": GREETING,
        "cmd": f"printf '%s' '{GREETING}' > '{file}'",
    }
    name = next((name for name in ("write", "Write", "write_file", "exec_command") if name in tools), None)
    if name is None or request["messages"][-1]["role"] == "tool":
        return DONE, None
    arguments = {given: value for given, value in wanted.items() if given in tools[name]}
    return "I write the file.", (name, arguments)


def pieces(text):
    return [text[at : at + 7] for at in range(0, len(text), 7)]


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    record = None
    lock = threading.Lock()

    def do_GET(self):
        if self.path == "/v1/models":
            entry = {"id": MODEL, "object": "model", "created": 1, "owned_by": "script", "max_model_len": 131072}
            self.whole(200, {"object": "list", "data": [entry]})
        else:
            self.whole(404, {"error": {"message": "not here", "type": "not_found_error", "code": 404}})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        line = {
            "path": self.path,
            "fields": sorted(request),
            "stream": request.get("stream", False),
            "tools": [tool["function"]["name"] for tool in request.get("tools") or []],
            "roles": [message["role"] for message in request.get("messages", [])],
        }
        with self.lock:
            print(json.dumps(line), file=self.record, flush=True)
        if self.path != "/v1/chat/completions":
            return self.whole(404, {"error": {"message": "not here", "type": "not_found_error", "code": 404}})
        text, call = answer(request)
        prompt = sum(len(str(message)) for message in request["messages"]) // 4
        usage = {"prompt_tokens": prompt, "completion_tokens": 20, "total_tokens": prompt + 20}
        head = {"id": "chatcmpl-1", "created": int(time.time()), "model": MODEL}
        calls = [
            {"id": "call_1", "type": "function", "function": {"name": call[0], "arguments": json.dumps(call[1])}}
        ] if call else []
        reason = "tool_calls" if call else "stop"
        if not request.get("stream"):
            message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            return self.whole(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        self.begin()
        self.event(head, {"role": "assistant", "content": ""})
        for piece in pieces(text):
            self.event(head, {"content": piece})
        for at, one in enumerate(calls):
            arguments = one["function"]["arguments"]
            self.event(head, {"tool_calls": [{**one, "index": at, "function": {**one["function"], "arguments": ""}}]})
            for piece in pieces(arguments):
                self.event(head, {"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
        self.event(head, {}, reason)
        if (request.get("stream_options") or {}).get("include_usage"):
            self.chunk({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        self.bytes(b"data: [DONE]\n\n")
        self.bytes(b"")

    def whole(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def event(self, head, delta, reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        self.chunk({**head, "object": "chat.completion.chunk", "choices": [choice]})

    def chunk(self, value):
        self.bytes(b"data: " + json.dumps(value).encode() + b"\n\n")

    def bytes(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, *_):
        pass


def main():
    port, record = int(sys.argv[1]), sys.argv[2]
    Engine.record = open(record, "a", encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", port), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("LISTENING", f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


main()
