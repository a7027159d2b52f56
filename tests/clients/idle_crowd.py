"""Many clients that ask once and stay: `idle_crowd.py ADDRESS SOURCE COUNT`. Prints a line when all have been served."""

import resource
import signal
import socket
import sys

address, source, count = sys.argv[1:]
host, port = address.split(":")
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(int(count) + 100, most), most))
crowd = []
for _ in range(int(count)):
    client = socket.create_connection((host, int(port)), timeout=30, source_address=(source, 0))
    client.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    crowd.append(client)
print("all are here", flush=True)
signal.pause()
