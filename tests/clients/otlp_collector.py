"""An OpenTelemetry collector as far as it takes traces: each span becomes a line of JSON."""

import json
import struct
import sys
from concurrent import futures

import grpc


def fields(data):
    """Number and value of each field of a message of Protocol Buffers."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            value = varint()
        else:
            length = {1: 8, 5: 4}.get(kind) or varint()
            value = data[at : at + length]
            at += length
        yield key >> 3, value


def only(data, number):
    return [value for found, value in fields(data) if found == number]


def attribute(data):
    (key,), (value,) = only(data, 1), only(data, 2)
    kind, value = next(fields(value))
    if kind == 1:
        value = value.decode()
    elif kind == 4:
        (value,) = struct.unpack("<d", value)
    return key.decode(), value


def take(request, _context):
    for group in only(request, 1):
        resource = dict(attribute(a) for r in only(group, 1) for a in only(r, 1))
        for scope in only(group, 2):
            for span in only(scope, 2):
                one = dict(fields(span))
                start, end = (struct.unpack("<Q", one[number])[0] for number in (7, 8))
                status = dict(fields(one.get(15, b"")))
                told = {
                    "trace": one[1].hex(),
                    "id": one[2].hex(),
                    "parent": one.get(4, b"").hex(),
                    "name": one[5].decode(),
                    "kind": one[6],
                    "nanoseconds": end - start,
                    "error": status.get(3) == 2,
                    "attributes": dict(attribute(a) for a in only(span, 9)),
                    "resource": resource,
                }
                print(json.dumps(told), flush=True)
    return b""


class Collector(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/opentelemetry.proto.collector.trace.v1.TraceService/Export":
            return grpc.unary_unary_rpc_method_handler(take)
        return None


wanted = sys.argv[1] if len(sys.argv) > 1 else "0"
server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Collector(),))
print(server.add_insecure_port(f"127.0.0.1:{wanted}"), flush=True)
server.start()
server.wait_for_termination()
