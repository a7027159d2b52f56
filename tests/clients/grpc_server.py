"""A gRPC backend without generated code: messages are bytes. Prints its port, and what happens to calls."""

from concurrent import futures
import threading

import grpc


def echo(request, context):
    """With the metadata it was sent in its trailers."""
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-backend", "grpcio"),))
    context.set_trailing_metadata(
        (
            ("x-subject", metadata.get("x-auth-subject", "")),
            ("x-length", str(len(metadata.get("x-long", "")))),
            ("x-data-bin", metadata.get("x-data-bin", b"")),
            ("x-long", metadata.get("x-long", "")),
        )
    )
    return request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def talk(requests, context):
    """One answer to each message before the next one is read."""
    for request in requests:
        if request == b"fail":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "in the middle")
        yield b"heard " + request


def fail(request, context):
    context.set_trailing_metadata((("x-hint", "mend it"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "nothing here: grüße & 100%")


def tell_when_gone(context):
    """Says it from the call's own end: what stands behind a `yield` may never be come to."""
    gone = threading.Event()

    def end():
        gone.set()
        print("gone", flush=True)

    context.add_callback(end)
    return gone


def hang(request, context):
    """Answers never."""
    gone = tell_when_gone(context)
    print("hangs", flush=True)
    gone.wait(60)
    return b""


def stream(request, context):
    """Speaks once and is silent from then on."""
    gone = tell_when_gone(context)
    yield b"first"
    gone.wait(60)


METHODS = {
    "echo": grpc.unary_unary_rpc_method_handler(echo),
    "count": grpc.unary_stream_rpc_method_handler(count),
    "total": grpc.stream_unary_rpc_method_handler(total),
    "talk": grpc.stream_stream_rpc_method_handler(talk),
    "fail": grpc.unary_unary_rpc_method_handler(fail),
    "hang": grpc.unary_unary_rpc_method_handler(hang),
    "stream": grpc.unary_stream_rpc_method_handler(stream),
}


class Backend(grpc.GenericRpcHandler):
    def service(self, details):
        return METHODS.get(details.method.rpartition("/")[2])


LONG = [("grpc.max_metadata_size", 64 << 10), ("grpc.max_receive_message_length", 8 << 20)]
server = grpc.server(futures.ThreadPoolExecutor(16), handlers=(Backend(),), options=LONG)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
