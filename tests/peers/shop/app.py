"""A small shop, as it might run in production: HTTP in front, SQLite behind, answers compressed. It knows nothing of tracing.

Prints its port, then serves one request at a time on its first thread, until its standard input ends.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer

BEST = "SELECT customer, sum(cents) AS spent FROM orders GROUP BY customer ORDER BY spent DESC LIMIT 3"

shop = sqlite3.connect(":memory:", cached_statements=0)
shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, cents INTEGER)")
shop.executemany("INSERT INTO orders VALUES (?, ?, ?)", ((n, n * 7919 % 997, n * 31 % 9973) for n in range(5000)))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = zlib.compress(json.dumps(shop.execute(BEST).fetchall()).encode())
        self.send_response(200)
        self.send_header("Content-Encoding", "deflate")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def stop_at_the_end_of_input(server: HTTPServer) -> None:
    import sys

    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=stop_at_the_end_of_input, args=[server], daemon=True).start()
    print(server.server_address[1], flush=True)
    server.serve_forever()
