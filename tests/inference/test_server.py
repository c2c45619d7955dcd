"""The server's answers, and what it withstands. Real sockets on loopback."""

import concurrent.futures
import contextlib
import functools
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import tensorflow as tf
import uvicorn
from conftest import write_noise_video

from cvrl_tf.inference import connections, decoders, upload
from cvrl_tf.inference import server as serving
from cvrl_tf.inference.embedder import Embedder
from cvrl_tf.inference.embedding import embed_videos
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.preparation.decoding import FrameOptions, UnusableVideo
from cvrl_tf.preparation.workers import WorkerPool


@pytest.fixture(scope="module")
def embedder(exported_model: Path) -> Embedder:
    return Embedder(exported_model)


@contextlib.contextmanager
def served(embedder: Embedder, cors_origins: Sequence[str] = (), **bounds: object) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    usual = {"max_megabytes": 100, "max_seconds": 120, "max_pixels": 10**7, "max_waiting": 16}
    limits = serving.Limits(**{**usual, "timeout": 30, "rate": "10000/second", **bounds})
    app = serving.application(embedder, limits, 2, cors_origins)
    server = uvicorn.Server(connections.config(app, "127.0.0.1", 0, [], limits.timeout))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(embedder: Embedder) -> Iterator[str]:
    with served(embedder) as found:
        yield found


def ask(
    address: str, body: bytes | None = None, path: str = "/embed", source: str = "127.0.0.1"
) -> tuple[int, dict]:
    """Status and answer, for the client of an address."""
    host, port = address.removeprefix("http://").split(":")
    with contextlib.closing(
        http.client.HTTPConnection(host, int(port), 60, (source, 0))
    ) as connection:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return response.status, json.load(response)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [write_noise_video(folder / f"{seed}.mp4", 30 + seed, seed) for seed in range(4)]


def test_features_are_those_of_embed(
    address: str, embedder: Embedder, videos: list[Path], tmp_path: Path
) -> None:
    embed_videos(embedder, list(map(str, videos)), tmp_path / "features.npz", workers=2)
    found = ClipFeatures.load(tmp_path / "features.npz")
    means = found.results["feature"].reshape(len(videos), 2, -1).mean(axis=1)
    records = [upload.record_of(str(video), FrameOptions()) for video in videos]
    model = tf.saved_model.load(embedder.facts["model"])
    exported = model.records(tf.constant(records))
    bodies = [video.read_bytes() for video in videos]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:  # so that they wait together
        answers = list(threads.map(lambda body: ask(address, body), bodies * 3))
    for number, (status, answer) in enumerate(answers):
        assert status == 200 and set(answer) == {"feature", "embedding", "clips"}
        of_clips = slice(2 * (number % len(videos)), 2 * (number % len(videos)) + 2)
        spans = [(clip["start"], clip["end"]) for clip in answer.pop("clips")]
        wanted = np.stack([found.starts[of_clips], found.ends[of_clips]], axis=1)
        np.testing.assert_allclose(spans, wanted, rtol=1e-6)
        of_video = number % len(videos)
        ours = np.array(answer["feature"])
        np.testing.assert_allclose(ours, means[of_video], rtol=1e-5, atol=1e-6)
        for name, values in answer.items():
            wanted = exported[name][of_video]
            np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5)


def test_facts_and_health(address: str) -> None:
    assert ask(address, path="/health") == (200, {"status": "ok"})
    for path in ("/", "/health"):
        head = urllib.request.Request(address + path, method="HEAD")
        with urllib.request.urlopen(head, timeout=60) as response:
            assert response.status == 200 and response.read() == b""
    status, facts = ask(address, path="/")
    assert status == 200 and set(facts) == {"views", "classes", "limits"}
    assert facts["views"]["num_clips"] == 2 and facts["limits"]["max_waiting"] == 16


def damaged(video: Path) -> dict[str, bytes]:
    whole = video.read_bytes()
    return {
        "cut short": whole[: len(whole) // 2],
        "text": b"no video",
        "a picture": tf.io.encode_png(np.zeros([64, 64, 3], "u1")).numpy(),
        "another": tf.io.encode_jpeg(np.zeros([64, 64, 3], "u1")).numpy(),
        "zeros": bytes(10_000),
    }


@pytest.mark.parametrize("name", ["cut short", "text", "a picture", "another", "zeros"])
def test_a_damaged_upload_is_the_callers(address: str, videos: list[Path], name: str) -> None:
    status, answer = ask(address, damaged(videos[0])[name])
    assert status == 422 and "can't be embedded" in answer["detail"]
    assert ask(address, videos[0].read_bytes())[0] == 200


def test_what_is_sent_opens_nothing_else(address: str, videos: list[Path], tmp_path: Path) -> None:
    """FFmpeg would read lists of other files, by what stands in them."""
    for name in (videos[0], "video", "../video"):
        text = f"ffconcat version 1.0\nfile '{name}'\n"
        assert ask(address, text.encode())[0] == 422
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{videos[0]}\n#EXT-X-ENDLIST\n"
    assert ask(address, playlist.encode())[0] == 422
    # A list of what lies beside it, which FFmpeg does read.
    listed = tmp_path / "list"
    listed.write_text(f"ffconcat version 1.0\nfile '{videos[0].name}'\n")
    shutil.copy(videos[0], tmp_path)
    with av.open(str(listed)) as container:
        assert next(container.decode(video=0))
    with WorkerPool(1, upload.prepare_process) as pool:
        assert pool.submit(upload.record_of, str(videos[0]), FrameOptions(16)).result()
        with pytest.raises(UnusableVideo):
            pool.submit(upload.record_of, str(listed), FrameOptions(16)).result()


@pytest.mark.parametrize("codec", ["mp4", "mkv", "avi", "mov", "webm", "mpg", "flv", "ogv"])
def test_containers(address: str, videos: list[Path], codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"video.{codec}"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-loglevel", "error", "-i", str(videos[0]), "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, check=True)
    assert ask(address, path.read_bytes())[0] == 200


@pytest.mark.parametrize(
    "header",
    [
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Type: application/json",
        "Content-Encoding: gzip",
    ],
)
def test_a_body_that_is_no_plain_file(address: str, header: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = "POST /embed HTTP/1.1", "Host: x:1", header, "Content-Length: 9999", "\r\n"
        connection.sendall("\r\n".join(head).encode())
        answer = connection.recv(10_000)  # while the body is still awaited
        while b"video.mp4" not in answer:
            answer += connection.recv(10_000)
    assert b" 415 " in answer and b"connection: close" in answer.lower()
    assert header.partition(";")[0].encode() in answer
    assert b"curl --data-binary @video.mp4 http://x:1/embed" in answer


def test_pages_of_other_origins(embedder: Embedder, address: str) -> None:
    def allowed(address: str, method: str, origin: str) -> str | None:
        host, port = address.removeprefix("http://").split(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), 60)) as connection:
            headers = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type",
            }
            connection.request(method, "/embed", headers=headers)
            return connection.getresponse().headers["Access-Control-Allow-Origin"]

    ours, other = "https://example.org", "https://example.com"
    with served(embedder, [ours]) as shared:
        for method in ("OPTIONS", "POST"):  # an error has to be readable, too
            assert allowed(shared, method, ours) == ours
            assert allowed(shared, method, other) is None
            assert allowed(address, method, ours) is None
    for wrong in ("example.org", f"{ours}/page"):
        with pytest.raises(ValueError, match="is no origin, such as"), served(embedder, [wrong]):
            pass


def test_nothing_sent(address: str) -> None:
    assert ask(address, b"")[0] == 400
    assert ask(address, path="/embed")[0] == 405  # GET


def test_too_large_too_long_too_often(
    embedder: Embedder, videos: list[Path], tmp_path: Path
) -> None:
    whole = videos[0].read_bytes()
    with served(embedder, max_megabytes=0.01, max_seconds=1.0, rate="6/minute") as address:
        status, answer = ask(address, bytes(20_000))
        assert status == 413 and "More than 0.01 MB" in answer["detail"]
    with served(embedder, max_seconds=1.0, rate="3/minute") as address:
        status, answer = ask(address, whole)  # 30 frames at 25 a second
        assert status == 413 and "Longer than 1 s" in answer["detail"]
        odd = write_noise_video(
            tmp_path / "odd.mp4", 3000, 0, rate=1000
        )  # no rate that can be true
        assert ask(address, odd.read_bytes())[0] == 413
        assert [ask(address, b"text")[0] for _ in range(2)] == [422, 429]
        assert ask(address, path="/health")[0] == 200  # is always told


def test_large_frames_are_not_decoded(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi"]
    subprocess.run([*command, "-i", "testsrc=size=640x480:duration=1", str(path)], check=True)
    with served(embedder, max_pixels=640 * 480 - 1) as address:
        status, answer = ask(address, path.read_bytes())
        assert status == 422 and "640x480" in answer["detail"]
    with served(embedder, max_pixels=640 * 480) as address:
        assert ask(address, path.read_bytes())[0] == 200


def test_results_that_are_not_finite_are_an_error(
    embedder: Embedder, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_views = embedder.results_of

    def results_of(views: tf.Tensor, count: int) -> dict[str, np.ndarray]:
        return {name: rows * np.nan for name, rows in of_views(views, count).items()}

    monkeypatch.setattr(embedder, "results_of", results_of)
    with served(embedder) as address:
        status, answer = ask(address, videos[0].read_bytes())
        assert status == 500 and "isn't finite" in answer["detail"]
        status, answer = ask(address, path="/health")
        assert status == 503 and "isn't finite" in answer["detail"]


def test_headers_that_do_not_end(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_HEADER_TIMEOUT", 1.0)
    host, port = address.removeprefix("http://").split(":")
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    for before in (b"", whole):  # at first, and after a request
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(before + b"GET / HTTP/1.1\r\n")
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(10_000):
                    pass


def test_many_open_connections(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_CONNECTIONS", 20)
    host, port = address.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            half = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            half.sendall(b"GET / HTTP/1.1\r\n")
        assert ask(address, path="/")[0] == 200


@pytest.mark.parametrize(
    ("start", "status"), [("POST /nowhere", 404), ("PUT /embed", 405), ("POST /embed", 413)]
)
def test_bodies_that_do_not_end(address: str, start: str, status: int) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            f"{start} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**12}\r\n\r\n".encode()
        )
        answer = connection.recv(10_000).lower()  # while the body is still awaited
        assert f" {status} ".encode() in answer and b"connection: close" in answer
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(10_000):
                pass


def dribble(address: str) -> bytes:
    """All that a client is told which announces much and sends a byte now and then."""
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /embed HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        told = b""
        # Who sends to a connection that is closed is told so by a reset, after what was said.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while not select.select([connection], [], [], 0.1)[0]:
                connection.sendall(b"x")
        with contextlib.suppress(ConnectionResetError):
            while some := connection.recv(1000):
                told += some
        return told


def test_slow_clients_keep_nobody_waiting(embedder: Embedder, videos: list[Path]) -> None:
    with (
        served(embedder, timeout=2.0, max_waiting=3) as address,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        slow = [threads.submit(dribble, address) for _ in range(2)]
        time.sleep(0.5)
        assert ask(address, videos[0].read_bytes(), source="127.0.0.2")[0] == 200
        for each in slow:
            head = each.result().lower().splitlines()
            assert b"408" in head[0] and b"connection: close" in head
        # As many as one client may have at a time; the next is sent away, until they are gone.
        slow = [threads.submit(dribble, address) for _ in range(2)]
        time.sleep(0.5)
        status, answer = ask(address, videos[0].read_bytes())
        assert status == 429 and "2 requests of one client" in answer["detail"]
        assert ask(address, videos[0].read_bytes(), source="127.0.0.2")[0] == 200
        assert all(b"408" in each.result().splitlines()[0] for each in slow)
        assert ask(address, videos[0].read_bytes())[0] == 200


def test_a_client_that_leaves_is_forgotten(address: str, videos: list[Path]) -> None:
    host, port = address.removeprefix("http://").split(":")
    for _ in range(20):  # more than may wait at a time
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nxx")
    deadline = time.monotonic() + 20
    while ask(address, videos[0].read_bytes())[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def decoders_at_work() -> list[int]:
    """Processes that this one has started and that have an upload open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            files = [os.readlink(file) for file in (folder / "fd").iterdir()]
            if int(parent) == os.getpid() and any(file.endswith("/video") for file in files):
                found.append(int(folder.name))
    return found


def test_a_decoder_that_is_killed_costs_only_its_video(
    embedder: Embedder, tmp_path: Path, videos: list[Path]
) -> None:
    long = write_noise_video(tmp_path / "long.mp4", 3000, 0)
    with served(embedder, max_seconds=1000) as address:
        assert ask(address, videos[0].read_bytes())[0] == 200
        with concurrent.futures.ThreadPoolExecutor() as threads:
            answers = [threads.submit(ask, address, long.read_bytes()) for _ in range(2)]
            while len(decoders := decoders_at_work()) < 2:
                assert not any(answer.done() for answer in answers)
            os.kill(decoders[0], signal.SIGKILL)
            found = sorted(answer.result()[0] for answer in answers)
        assert found == [200, 200]  # it is tried once more
        assert ask(address, videos[0].read_bytes())[0] == 200


def test_without_decoders_the_server_says_so_until_they_start_again(
    embedder: Embedder, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "PAUSE", 2)
    with monkeypatch.context() as broken:
        broken.setattr(upload, "prepare_process", functools.partial(sys.exit, 3))
        with served(embedder) as address:
            status, answer = ask(address, videos[0].read_bytes())
            assert status == 503 and "exit code 3" in answer["detail"]
            status, answer = ask(address, path="/health")
            assert status == 503 and "exit code 3" in answer["detail"]
            assert ask(address, path="/")[0] == 200
            broken.undo()
            deadline = time.monotonic() + 60
            while (found := ask(address, videos[0].read_bytes())[0]) != 200:
                assert found == 503 and time.monotonic() < deadline
                time.sleep(0.1)
            while ask(address, path="/health")[0] != 200:
                assert time.monotonic() < deadline


def test_a_decoder_that_takes_too_long(
    embedder: Embedder, tmp_path: Path, videos: list[Path]
) -> None:
    long = write_noise_video(tmp_path / "long.mp4", 3000, 0)
    with served(embedder, max_seconds=1000, timeout=1.0) as address:
        status, answer = ask(address, long.read_bytes())
        assert status == 422 and "Not decoded in 1 s" in answer["detail"]
        assert ask(address, videos[0].read_bytes())[0] == 200


def test_command(
    exported_model: Path, videos: list[Path], tmp_path: Path, child_environment: dict[str, str]
) -> None:
    long = write_noise_video(tmp_path / "long.mp4", 2500, 0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = f"--model={exported_model}", f"--port={port}", "--num_crops=1"
    command = [sys.executable, "-m", "cvrl_tf.serve", *flags]
    run = subprocess.Popen(
        command, env=child_environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        address = f"http://127.0.0.1:{port}"
        assert f"{address}/embed" in run.stdout.readline()
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                if ask(address, path="/health")[0] == 200:
                    break
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.1)
        assert ask(address, path="/")[1]["views"]["num_crops"] == 1
        assert ask(address, videos[0].read_bytes())[0] == 200
        # What was begun is answered.
        with concurrent.futures.ThreadPoolExecutor() as threads:
            begun = threads.submit(ask, address, long.read_bytes())
            time.sleep(0.5)
            run.send_signal(signal.SIGTERM)
            assert begun.result()[0] == 200
        said = run.communicate(timeout=30)[1]
        assert "Traceback" not in said, said
    finally:
        run.kill()
        run.communicate()
