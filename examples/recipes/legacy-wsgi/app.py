"""An application as there are many: it believes what stands in HTTP_X_AUTH_SUBJECT."""

import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server


def app(environ, start_response):
    subject = environ.get("HTTP_X_AUTH_SUBJECT", "nobody")
    roles = environ.get("HTTP_X_AUTH_ROLES", "")
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{environ['PATH_INFO']} for {subject} ({roles})\n".encode()]


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9001
    # Loopback only: whoever reaches this port can be whoever they like.
    with make_server("127.0.0.1", port, app, handler_class=Quiet) as server:
        print(f"listening on 127.0.0.1:{port}", flush=True)
        server.serve_forever()
