"""An HTTP proxy that breaks off the first answers: `python cutting_proxy.py FAULT CUTS LOG`; prints its port.

Faults: "cut" (the connection drops half-way), "no length" (it ends half-way as if that were all, as proxies of
HTTP/1.0 do), "no ranges" (as "cut", and every answer begins at the first byte).
"""

from __future__ import annotations

import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULT, CUTS, LOG = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    num_cut = 0

    def do_HEAD(self) -> None:
        self._forward()

    def do_GET(self) -> None:
        self._forward()

    def _forward(self) -> None:
        dropped = {"host", "connection", "proxy-connection", "accept-encoding"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        if FAULT == "no ranges":
            headers.pop("Range", None)
        request = urllib.request.Request(self.path, headers=headers, method=self.command)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        try:
            answer = opener.open(request, timeout=60)
        except urllib.error.HTTPError as error:  # a redirection, too
            answer = error
        body = answer.read()
        is_cut = len(body) > 1 and _Proxy.num_cut < CUTS
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            is_length = name.lower() == "content-length"
            if name.lower() not in {"server", "date"} and not (is_cut and is_length and FAULT == "no length"):
                self.send_header(name, value)
        if is_cut:
            _Proxy.num_cut += 1
            self.send_header("Connection", "close")
            with LOG.open("a") as log:
                log.write(f"{self.path}\n")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_cut else body)
        self.close_connection = is_cut

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
print(server.server_port, flush=True)
server.serve_forever()
