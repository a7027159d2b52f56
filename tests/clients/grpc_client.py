"""A gRPC client without generated code: `grpc_client.py ACT ADDRESS TOKEN ROOTS`, over TLS if ROOTS is a file."""

import queue
import sys

import grpc

act, address, token, roots = sys.argv[1:]
OPTIONS = [
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.ssl_target_name_override", "gate.example.test"),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
]
if roots:
    with open(roots, "rb") as file:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()), options=OPTIONS)
else:
    channel = grpc.insecure_channel(address, options=OPTIONS)
METADATA = (("authorization", f"Bearer {token}"),) if token else ()
PATIENCE = 30


def one(method, request, timeout=PATIENCE, metadata=()):
    call = channel.unary_unary(f"/test.Backend/{method}")
    return call.with_call(request, timeout=timeout, metadata=METADATA + tuple(metadata))


def status(what):
    """How a call ended that must not end well."""
    try:
        what()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it ended well")


def talk():
    """The four kinds of calls."""
    answer, call = one("echo", b"\x00binary\xff" * 100_000)
    assert answer == b"\x00binary\xff" * 100_000
    assert call.code() == grpc.StatusCode.OK
    assert dict(call.initial_metadata())["x-backend"] == "grpcio"
    assert one("echo", b"")[0] == b""

    count = channel.unary_stream("/test.Backend/count")
    answers = [int(number) for number in count(b"1000", timeout=PATIENCE, metadata=METADATA)]
    assert answers == list(range(1000))

    total = channel.stream_unary("/test.Backend/total")
    pieces = (b"x" * 10_000 for _ in range(300))
    assert total(pieces, timeout=PATIENCE, metadata=METADATA) == b"3000000"

    # Each message is sent only when the one before was answered.
    said = queue.Queue()
    answers = channel.stream_stream("/test.Backend/talk")(iter(said.get, None), timeout=PATIENCE, metadata=METADATA)
    for number in range(50):
        said.put(b"%d" % number)
        assert next(answers) == b"heard %d" % number
    said.put(None)
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK


def metadata():
    """What travels beside the messages, in both directions."""
    long, binary = "m" * 12_000, bytes(range(256))
    _, call = one("echo", b"x", metadata=(("x-long", long), ("x-data-bin", binary), ("x-auth-subject", "root")))
    trailers = dict(call.trailing_metadata())
    assert trailers["x-length"] == "12000" and trailers["x-long"] == long, trailers["x-length"]
    assert trailers["x-data-bin"] == binary
    assert trailers["x-subject"] == "f:9c1:maria", trailers["x-subject"]


def errors():
    """Every failure keeps its status, its text and its trailers."""
    error = status(lambda: one("fail", b""))
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
    assert error.details() == "nothing here: grüße & 100%", error
    assert dict(error.trailing_metadata())["x-hint"] == "mend it", error
    error = status(lambda: one("nothing", b""))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    call = channel.stream_stream("/test.Backend/talk")
    answers = call(iter([b"well", b"fail", b"never"]), timeout=PATIENCE, metadata=METADATA)
    assert next(answers) == b"heard well"
    error = status(lambda: next(answers))
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "in the middle"), error


def deadline():
    error = status(lambda: one("hang", b"", timeout=1))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error


def cancel():
    """Says when the call is under way, and gives up when told to."""
    call = channel.unary_stream("/test.Backend/stream")(b"", timeout=PATIENCE, metadata=METADATA)
    assert next(call) == b"first"
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED, call


def refused():
    """Says with which status a call ends, and which text."""
    error = status(lambda: one("echo", b""))
    print(error.code().name, flush=True)
    error = status(lambda: next(channel.unary_stream("/test.Backend/count")(b"3", metadata=METADATA, timeout=PATIENCE)))
    print(error.code().name, flush=True)


def wait():
    """Says when a stream has begun, and how it was ended."""
    call = channel.unary_stream("/test.Backend/stream")(b"", timeout=PATIENCE, metadata=METADATA)
    assert next(call) == b"first"
    print("connected", flush=True)
    error = status(lambda: next(call))
    print(error.code().name, flush=True)


for name in act.split(","):
    globals()[name]()
