"""nginx, HAProxy and squid as hospitals run them: real programs in front of a relay, each from a few lines of settings.

They are looked for on the PATH. A program that is not there skips its tests and says so; under CI that is a failure.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.ports import free_port

START_TIMEOUT_S = 20.0

HELPER = """
while read -r user password; do
    if [ "$user $password" = "anna proxy-secret" ]; then echo OK; else echo ERR; fi
done
"""

NGINX = """
daemon off; master_process off; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off; client_max_body_size 32m;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port}{listen};
        location / {{ proxy_pass http://127.0.0.1:{target}; proxy_http_version 1.1; {location} }}
    }}
}}
"""
UPGRADE = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
HOLD_BACK = "if ($http_accept = text/event-stream) {{ proxy_pass http://127.0.0.1:{silent}; }}"
"""What becomes of event streams where each answer is looked through as a whole before it is passed on: nothing."""

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client {idle_s}s
    timeout server {idle_s}s
    timeout tunnel {idle_s}s
frontend site
    bind 127.0.0.1:{port}
    default_backend relay
backend relay
    server relay 127.0.0.1:{target}
"""

SQUID = """
http_port 127.0.0.1:{port}
auth_param basic program /bin/sh {home}/helper.sh
auth_param basic children 1 startup=1
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
cache deny all
access_log stdio:{home}/access.log
cache_log {home}/cache.log
pid_filename none
coredump_dir {home}
shutdown_lifetime 0 seconds
"""


class Program:
    """A proxy on a port of loopback. `settings` can be changed between `stop` and `start`."""

    def __init__(self, name: str, **settings: object) -> None:
        self.name = name
        self.port = free_port()
        self.settings = settings
        self.home = Path(tempfile.mkdtemp(prefix=f"{name}-under-test-"))
        self.home.chmod(0o777)  # squid, started as root, goes on as another user
        self._process: subprocess.Popen[bytes] | None = None
        self._path = program(name)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> None:
        template = {"nginx": NGINX, "haproxy": HAPROXY, "squid": SQUID}[self.name]
        known = {"home": self.home, "port": self.port}
        (self.home / "settings").write_text(template.format(**known, **self.settings))
        (self.home / "helper.sh").write_text(HELPER)
        options = {"nginx": ["-c"], "haproxy": ["-db", "-f"], "squid": ["-N", "-f"]}[self.name]
        with (self.home / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [self._path, *options, str(self.home / "settings")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.home,
            )
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{self.name} does not listen:\n{self.said}") from None
                time.sleep(0.02)

    @property
    def said(self) -> str:
        files = [self.home / name for name in ("output", "error.log", "cache.log", "access.log")]
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def restart(self, **settings: object) -> None:
        """Cut all of its connections, and go on with other settings."""
        self.stop()
        self.settings |= settings
        self.start()


def program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if path is not None:
        return path
    message = f"{name} is not installed (apt-get install nginx-light haproxy squid): not tested behind it"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
