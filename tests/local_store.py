"""A local object store that speaks S3, for tests and benchmarks: a process of its own."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def claim_address() -> None:
    """Say in the environment where ``running_store`` starts its store: before Ray, whose actors get it of now.

    Neither a port that the system hands out nor one of Ray's workers: either might be taken until the store starts.
    """
    for port in random.Random(os.getpid()).sample(range(20_000, 32_000), 100):
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
            break
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}


@contextmanager
def running_store(log: Path, bucket: str = "pictures") -> Iterator[str]:
    """URI of an empty bucket, while the store runs."""
    address = os.environ["AWS_ENDPOINT_URL"]
    with log.open("w") as out:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", address.rpartition(":")[2]]
        server = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        _make_bucket(f"{address}/{bucket}", server, log)
        yield f"s3://{bucket}"
    finally:
        server.kill()
        server.wait()


def _make_bucket(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """As soon as the store listens: on a busy machine its imports take a minute."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(2400):
        try:
            direct.open(urllib.request.Request(uri, method="PUT"), timeout=60)
        except OSError as error:
            said = repr(error)
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the store has not answered ({said}): {log.read_text()}")
