"""Measure answers, latency and memory of the server over ten minutes of good and bad requests.

    python benchmarks/serving.py

The model is R3D-18 with random weights, on three clips of 16x112x112 for each video. Eight clients
on loopback send one request after another: videos, whose features are compared; damaged videos,
some of which still decode; files that are too large, empty, or no videos. One more client sends
single bytes with pauses. The ratio is the rate of good videos when nothing else is sent, against
the model alone on the same number of clips.
"""

import collections
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import random
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import measure
import numpy as np
import preparation
import tensorflow as tf

from cvrl_tf import checkpoints
from cvrl_tf.data.sampling import Sampling
from cvrl_tf.inference import saved_model
from cvrl_tf.inference.embedder import Embedder
from cvrl_tf.inference.embedding import embed_videos
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.models.resnet3d import ResNet3D

SECONDS, GOOD_SECONDS, CLIENTS, VIDEOS = 600, 60, 8, 12
CLIPS, FRAMES, SIZE = 3, 16, 112
MAX_MEGABYTES = 5


def damaged(video: bytes, rng: random.Random) -> bytes:
    """Cut off the end or the start of a video, zero a part of it, or change some bytes."""
    kind = rng.randrange(4)
    at = rng.randrange(len(video))
    if kind == 0:
        return video[:at]
    if kind == 1:
        return video[at:]
    changed = bytearray(video)
    if kind == 2:
        changed[at : at + 5000] = bytes(len(changed[at : at + 5000]))
    else:
        for _ in range(50):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


class Clients:
    """Clients that send requests and count the answers."""

    def __init__(self, port: int, videos: list[bytes], features: np.ndarray) -> None:
        self.port, self.videos, self.features = port, videos, features
        self.counts: collections.Counter[tuple[str, int]] = collections.Counter()
        self.wrong: list[str] = []
        self.latencies: list[float] = []
        self._lock = threading.Lock()

    def send(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", "/embed", body)
            response = connection.getresponse()
            return response.status, response.read()
        except (BrokenPipeError, ConnectionResetError):  # refused before everything was sent
            return 413, b""
        finally:
            connection.close()

    def one(self, rng: random.Random, only_good: bool) -> None:
        draw = 0.0 if only_good else rng.random()
        number = rng.randrange(len(self.videos))
        video = self.videos[number]
        if draw < 0.6:
            kind, body, allowed = "good", video, {200}
        elif draw < 0.85:
            kind, body, allowed = "damaged", damaged(video, rng), {200, 400, 422}
        elif draw < 0.9:
            kind, body, allowed = "too large", bytes((MAX_MEGABYTES + 1) * 2**20), {413}
        elif draw < 0.95:
            kind, body, allowed = "empty", b"", {400}
        else:
            kind, body, allowed = "no video", rng.randbytes(20_000), {422}
        begin = time.monotonic()
        status, answer = self.send(body)
        seconds = time.monotonic() - begin
        right = status in allowed
        if kind == "good" and status == 200:
            found = np.array(json.loads(answer)["feature"])
            right = np.allclose(found, self.features[number], rtol=1e-4, atol=1e-5)
        with self._lock:
            self.counts[kind, status] += 1
            if kind == "good" and right:
                self.latencies.append(seconds)
            if not right:
                self.wrong.append(f"{kind}: {status} {answer[:200]!r}")

    def slow(self, end: float) -> None:
        """Announce a long body and send single bytes until the server answers; repeat."""
        head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n"
        while time.monotonic() < end:
            with socket.create_connection(("127.0.0.1", self.port), timeout=120) as connection:
                connection.sendall(head)
                # The server answers and closes; sending to a closed connection gives a reset.
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    while not select.select([connection], [], [], 0.5)[0]:
                        connection.sendall(b"x")
                answer = connection.recv(1000)
            self.counts["slow", int(answer.split()[1])] += 1

    def run(self, seconds: float, only_good: bool) -> float:
        """Send requests for some seconds and return the good videos per second."""
        self.latencies.clear()
        end = time.monotonic() + seconds

        def client(seed: int) -> None:
            rng = random.Random(seed)
            while time.monotonic() < end:
                self.one(rng, only_good)

        with concurrent.futures.ThreadPoolExecutor(CLIENTS + 1) as threads:
            tasks = [threads.submit(client, seed) for seed in range(CLIENTS)]
            if not only_good:
                tasks.append(threads.submit(self.slow, end))
            for task in tasks:
                task.result()
        return len(self.latencies) / seconds


def memory_of(pid: int) -> int:
    """Return bytes of a process and its children, counting shared memory once."""
    total = 0
    children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    for process in [pid, *map(int, itertools.chain(*children))]:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += 1024 * int(line.split()[1])
    return total


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        paths = [work / f"{seed}.mp4" for seed in range(VIDEOS)]
        for seed, path in enumerate(paths):
            preparation.write_video(path, 340, 256, seed)
        encoder = ResNet3D(depth=18)
        encoder.build()
        sampling = Sampling(FRAMES, 2, None, SIZE, 256, None)
        checkpoints.save_as_run(encoder, sampling, work / "run")
        saved_model.export_encoder(work / "run", work / "model", num_clips=CLIPS, num_crops=1)
        embedder = Embedder(work / "model")
        output = work / "features.npz"
        embed_videos(embedder, list(map(str, paths)), output, preparation.CORES, show=False)
        of_clips = ClipFeatures.load(output).results["feature"]
        features = of_clips.reshape(VIDEOS, CLIPS, -1).mean(axis=1)

        shape = [VIDEOS * CLIPS, FRAMES, SIZE, SIZE, 3]
        clips = tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        begin = time.perf_counter()
        for _ in range(5):
            embedder.results_of(clips, CLIPS)
        of_model = 5 * VIDEOS / (time.perf_counter() - begin)

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "cvrl_tf.serve", f"--model={work / 'model'}"]
        command += [f"--port={port}", f"--max_megabytes={MAX_MEGABYTES}", "--rate=100000/second"]
        command += ["--max_waiting=32"]  # of which one address may have half
        complaints = work / "stderr"
        with complaints.open("w") as log:
            server = subprocess.Popen([*command, "--timeout=10"], stderr=log)
        try:
            clients = Clients(port, [path.read_bytes() for path in paths], features)
            while True:
                try:
                    clients.send(b"")
                    break
                except ConnectionRefusedError:
                    time.sleep(0.2)
            rate = clients.run(GOOD_SECONDS, only_good=True)
            alone = np.percentile(clients.latencies, [50, 99])
            clients.counts.clear()
            print(f"good alone: {rate:.2f} videos/s, {alone}", file=sys.stderr)
            memory = []
            for minute in range(SECONDS // 60):
                mixed = clients.run(60, only_good=False)
                memory.append(round(memory_of(server.pid) / 2**20))
                print(f"minute {minute}: {mixed:.2f} videos/s, {memory[-1]} MiB", file=sys.stderr)
            latencies = np.percentile(clients.latencies, [50, 99])
            assert server.poll() is None, "the server has ended"
        finally:
            server.terminate()
            server.wait()
        assert not clients.wrong, clients.wrong[:5]
        assert "Traceback" not in complaints.read_text(), complaints.read_text()
    measure.report(
        __file__,
        {"served_vs_model": round(rate / of_model, 3)},
        videos_per_second={"model": round(of_model, 2), "served": round(rate, 2)},
        milliseconds={
            "good alone": {"p50": round(1000 * alone[0]), "p99": round(1000 * alone[1])},
            "mixed, last minute": {
                "p50": round(1000 * latencies[0]),
                "p99": round(1000 * latencies[1]),
            },
        },
        answers={f"{kind}: {status}": n for (kind, status), n in sorted(clients.counts.items())},
        memory_mebibytes_by_minute=memory,
    )


if __name__ == "__main__":
    main()
