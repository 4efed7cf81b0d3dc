"""A stand-in for the providers of models: Anthropic's Messages and OpenAI's Responses, streamed.

What it answers follows from words in the request: the goal of a Task names its scenario.
  SCENARIO-EDIT     runs one command that mends the division, then says that it is done
  SCENARIO-LIMIT    429, with the time after which to come back
  SCENARIO-LOOP     the same command for ever
  SCENARIO-SILENCE  no answer
A file answers.json beside this one takes the place of SCENARIO-EDIT: a list of {words, command, says}. The first whose
`words` are in the request is answered: with its one command, then with what it says.
"""
import json
import pathlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MEND = "sed -i 's/return 0/raise ValueError(\"division by zero\")/' src/calc.py"
LOOP = "cat src/calc.py"
DONE = "The division is mended."
SPECIAL = ("SCENARIO-LIMIT", "SCENARIO-LOOP", "SCENARIO-SILENCE")
FILE = pathlib.Path(__file__).with_name("answers.json")
ANSWERS = json.loads(FILE.read_text()) if FILE.exists() else [{"words": "SCENARIO-EDIT", "command": MEND, "says": DONE}]


def tool(tools, names):
    """The tool of the request that runs a command, and the name of its argument."""
    for t in tools or []:
        if t.get("name") in names:
            properties = (t.get("input_schema") or t.get("parameters") or {}).get("properties", {})
            for argument in ("command", "cmd"):
                if argument in properties:
                    return t["name"], argument, properties[argument].get("type")
    return None


def command(found, text):
    name, argument, kind = found
    value = ["bash", "-lc", text] if kind == "array" else text
    return name, {argument: value, "description": "Mend it"} if argument == "command" and kind == "string" else {argument: value}


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, form, *args):
        print(form % args, flush=True)

    def do_GET(self):
        self.answer(404, {"error": {"type": "not_found_error", "message": "there is nothing here"}})

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        text = body.decode("utf-8", "replace")
        path = self.path.split("?")[0]
        if not path.endswith(("/messages", "/responses")):
            return self.do_GET()
        request = json.loads(text)
        scenario = next((name for name in SPECIAL if name in text), None)
        answer = next((answer for answer in ANSWERS if answer["words"] in text), None)
        if scenario == "SCENARIO-SILENCE":
            threading.Event().wait()
        if scenario == "SCENARIO-LIMIT":
            return self.limit(path)
        (self.anthropic if path.endswith("/messages") else self.openai)(request, text, scenario, answer)

    def limit(self, path):
        error = {"type": "rate_limit_error", "message": "This request would exceed your account's rate limit. Please try again later."}
        document = {"type": "error", "error": error}
        if path.endswith("/responses"):
            document = {"error": {"type": "usage_limit_reached", "message": "The usage limit has been reached", "plan_type": "pro", "resets_in_seconds": 3600}}
        self.answer(429, document, {"retry-after": "3600", "anthropic-ratelimit-unified-status": "rejected"})

    def answer(self, code, document, headers=None):
        body = json.dumps(document).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def stream(self, events):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()
        self.close_connection = True

    def anthropic(self, request, text, scenario, answer):
        found = tool(request.get("tools"), ("Bash", "bash"))
        called = '"tool_result"' in text
        usage = {"input_tokens": 1000, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        message = {"id": f"msg_{len(request['messages'])}", "type": "message", "role": "assistant", "model": request["model"],
                   "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        says = answer["says"] if answer else DONE
        if found and (scenario == "SCENARIO-LOOP" or answer and not called):
            name, arguments = command(found, LOOP if scenario == "SCENARIO-LOOP" else answer["command"])
            block = {"type": "tool_use", "id": f"toolu_{len(request['messages'])}", "name": name, "input": {}}
            delta, stop = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}, "tool_use"
        else:
            block, delta, stop = {"type": "text", "text": ""}, {"type": "text_delta", "text": says}, "end_turn"
        events = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 20}},
            {"type": "message_stop"},
        ]
        if request.get("stream"):
            return self.stream(events)
        content = {"type": "text", "text": says}
        self.answer(200, {**message, "content": [content], "stop_reason": "end_turn"})

    def openai(self, request, text, scenario, answer):
        found = tool(request.get("tools"), ("exec_command", "shell_command", "shell", "local_shell"))
        called = '"function_call_output"' in text
        number = len(request.get("input") or [])
        usage = {"input_tokens": 1000, "input_tokens_details": {"cached_tokens": 400}, "output_tokens": 50,
                 "output_tokens_details": {"reasoning_tokens": 10}, "total_tokens": 1050}
        says = answer["says"] if answer else DONE
        if found and (scenario == "SCENARIO-LOOP" or answer and not called):
            name, arguments = command(found, LOOP if scenario == "SCENARIO-LOOP" else answer["command"])
            arguments.pop("description", None)
            item = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": name, "arguments": json.dumps(arguments)}
        else:
            item = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": [{"type": "output_text", "text": says}]}
        response = {"id": f"resp_{number}", "object": "response", "status": "in_progress", "output": []}
        self.stream([
            {"type": "response.created", "response": response},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": {**response, "status": "completed", "output": [item], "usage": usage}},
        ])


ThreadingHTTPServer(("0.0.0.0", 8080), Provider).serve_forever()
