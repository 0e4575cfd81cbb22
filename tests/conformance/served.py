"""A small server with OpenAI's API around transformers' `generate`: independent of our backends, to compare them with.

One prompt at a time, written to the limit and then cut before the earliest stop string, as OpenAI does.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HUNG = 120
"""Seconds after which a wait ends that would otherwise hang a test."""


class Served:
    """The server, in a thread of its own from the start to `close`."""

    def __init__(self, model, tokenizer, name="tiny"):
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.asked = []
        """The requests so far."""
        self.answered = 0
        """How many texts it has written."""
        self.dies_after = None
        """The number of texts after which it breaks off and answers no more."""
        self.holds = None
        """An event that the server waits for before it writes any text."""
        self.silent_usage = False
        self.card = {"owned_by": "tests"}
        """What it says about the model."""
        self._one_at_a_time = threading.Lock()
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def log_message(self, *_):
                pass

            def do_GET(self):
                if self.path != "/v1/models":
                    return self.reply(404, {"detail": "Not Found"})
                models = [{"id": served.name, "object": "model", "created": 0, **served.card}]
                return self.reply(200, {"object": "list", "data": models})

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if served.died():
                    self.close_connection = True
                    self.connection.close()
                    return None
                return self.reply(*served.answer(self.path, asked))

            def reply(self, status, body):
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def died(self):
        return self.dies_after is not None and self.answered >= self.dies_after

    def answer(self, path, asked):
        """The status and the body of the reply."""
        self.asked.append(asked)
        chat = path == "/v1/chat/completions"
        if not chat and path != "/v1/completions":
            return refusal(404, f"no page {path}")
        if asked["model"] != self.name:
            return refusal(404, f"The model `{asked['model']}` does not exist.")
        if chat:
            prompt = self.tokenizer.apply_chat_template(asked["messages"], tokenize=False, add_generation_prompt=True)
        else:
            prompt = asked["prompt"]
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat)["input_ids"]
        window = self.model.config.max_position_embeddings
        if ids.shape[1] + asked["max_tokens"] > window:
            return refusal(400, f"This model's maximum context length is {window} tokens.\nYou asked for more.")
        if self.holds is not None:
            self.holds.wait(HUNG)
        with self._one_at_a_time:
            text, reason, tokens = self.written(ids, asked)
            self.answered += 1
        choice = {"index": 0, "finish_reason": reason, "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        body = {"id": "x", "object": "text_completion", "created": 0, "model": self.name, "choices": [choice]}
        if not self.silent_usage:
            prompt_tokens = ids.shape[1]
            body["usage"] = {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": tokens,
                "total_tokens": prompt_tokens + tokens,
            }
        return 200, body

    def written(self, ids, asked):
        import torch

        draws = {"do_sample": False}
        if asked["temperature"]:
            torch.manual_seed(asked["seed"])
            draws = {
                "do_sample": True,
                "temperature": asked["temperature"],
                "top_p": asked["top_p"],
                "top_k": asked.get("top_k") or 0,
            }
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=asked["max_tokens"], **draws
        )[0, ids.shape[1] :].tolist()
        text = self.tokenizer.decode(out, skip_special_tokens=True)
        for tokens in range(1, len(out) + 1) if asked.get("stop") else ():
            so_far = self.tokenizer.decode(out[:tokens], skip_special_tokens=True)
            if any(stop in so_far for stop in asked["stop"]):
                return so_far[: min(so_far.find(s) for s in asked["stop"] if s in so_far)], "stop", tokens
        ends = self.model.generation_config.eos_token_id
        if out[-1] in (ends if isinstance(ends, list) else [ends]):
            return self.tokenizer.decode(out[:-1], skip_special_tokens=True), "stop", len(out)
        return text, "length", len(out)


def refusal(status, message):
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": status}}
