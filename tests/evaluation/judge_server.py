"""A server that speaks as much of OpenAI's chat completions as the tests need, and misbehaves on demand."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, model="judge-2026-01-01", **more):
    return json.dumps({"model": model, "choices": [{"message": {"content": text}, "finish_reason": "stop"}], **more})


class JudgeServer:
    """Answers on 127.0.0.1 until closed.

    Args:
        behave: from (body of the request, how many came before it) to what is answered: a text (a completion of it), a
            (status, headers, body), or an action of ``handler``.
    """

    def __init__(self, behave):
        self.behave, self.requests, self.bodies = behave, [], []
        self.most_at_once = 0
        self._now, self._lock = 0, threading.Lock()
        self.released = threading.Event()
        """Ends what hangs."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer._answer(self)

            def do_GET(self):
                outer._answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"] or 0)))
        with self._lock:
            number = len(self.requests)
            self.requests.append((handler.command, handler.path, dict(handler.headers)))
            self.bodies.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            said = self.behave(body, number)
            if callable(said):
                said(handler)
                return
            status, headers, text = (200, {}, completion(said)) if isinstance(said, str) else said
            handler.send_response(status)
            data = text.encode() if isinstance(text, str) else text
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:  # the client gave up
            pass
        finally:
            with self._lock:
                self._now -= 1

    def hang(self, handler):
        """Say nothing."""
        self.released.wait(20)
        handler.close_connection = True

    def drip(self, handler):
        """An answer without an end, a byte at a time."""
        handler.send_response(200)
        handler.end_headers()
        while not self.released.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    def drop(self, handler):
        """Close the connection in the middle of the answer."""
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"model"')
        handler.wfile.flush()
        handler.close_connection = True
