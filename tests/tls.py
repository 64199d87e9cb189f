"""TLS for tests: an authority of our own, and a front that takes TLS off before a plain server."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import subprocess
import threading
from pathlib import Path


class Authority:
    """An own CA that has signed a certificate for localhost and 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.certificate, self.key = (str(folder / n) for n in ("ca.pem", "crt", "key"))
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        own_key, request = str(folder / "ca.key"), str(folder / "csr")
        self._openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=own CA")(
            "-addext", "keyUsage=critical,keyCertSign", "-keyout", own_key, "-out", self.ca
        )
        self._openssl("req", *curve, "-subj", "/CN=localhost", "-keyout", self.key)("-out", request)
        names = folder / "names"
        names.write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n"
        )
        self._openssl("x509", "-req", "-in", request, "-days", "2", "-extfile", str(names))(
            "-CA", self.ca, "-CAkey", own_key, "-CAcreateserial", "-out", self.certificate
        )

    @staticmethod
    def _openssl(*start: str):  # type: ignore[no-untyped-def]
        return lambda *rest: subprocess.run(
            ["openssl", *start, *rest], check=True, capture_output=True
        )


class TlsFront:
    """TLS on a free loopback port, for the plain server at ``port``; plain bytes pass as they are.

    So one port can be a server's for Sentinel, which speaks plainly, and a client's with TLS.
    """

    def __init__(self, port: int, authority: Authority) -> None:
        self._target, self._closing = port, False
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(authority.certificate, authority.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.encrypted, self.plain = 0, 0
        self._links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self._closing:
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                self._links.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(client.close)
            if client.recv(1, socket.MSG_PEEK) == b"\x16":
                client = self._context.wrap_socket(client, server_side=True)
                stack.callback(client.close)
                self.encrypted += 1
            else:
                self.plain += 1
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._target)))
            self._links.append(server)
            with selectors.DefaultSelector() as ready:
                ready.register(client, selectors.EVENT_READ, server)
                ready.register(server, selectors.EVENT_READ, client)
                while True:
                    for key, _ in ready.select():
                        source, target = key.fileobj, key.data
                        data = source.recv(65536)  # type: ignore[union-attr]
                        while isinstance(source, ssl.SSLSocket) and source.pending():
                            data += source.recv(65536)
                        if not data:
                            return
                        target.sendall(data)

    def close(self) -> None:
        self._closing = True
        for each in (self._listener, *self._links):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
