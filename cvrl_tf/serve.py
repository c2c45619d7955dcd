"""Serves features of videos: `python -m cvrl_tf.serve --model=EXPORT`.

    curl --data-binary @video.mp4 http://127.0.0.1:8080/embed

`cvrl_tf.inference.server` describes the answers. Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 stop the
server after the requests that it has begun, or after --timeout.
"""

import signal

from absl import flags

from cvrl_tf import commands

commands.define_embedder_flags()
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 for all.")
_PORT = flags.DEFINE_integer("port", 8080, "Port to listen on.", lower_bound=1)
_MAX_MEGABYTES = flags.DEFINE_float(
    "max_megabytes", 100, "Largest accepted upload, in MB.", lower_bound=0.001
)
_MAX_SECONDS = flags.DEFINE_float(
    "max_seconds", 120, "Longest accepted video, in seconds.", lower_bound=0.001
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", 3840 * 2160, "Most pixels of a frame of an accepted video.", lower_bound=1
)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 30, "Seconds for an upload, and again for its decoding.", lower_bound=0.001
)
_RATE = flags.DEFINE_string("rate", "10/second", "Largest accepted rate of requests of one client.")
_MAX_WAITING = flags.DEFINE_integer(
    "max_waiting",
    16,
    "Largest number of requests at a time; one client may have half of them.",
    lower_bound=1,
)
_TRUSTED_PROXIES = flags.DEFINE_list(
    "trusted_proxies",
    [],
    "Addresses or networks of proxies whose X-Forwarded-For names the client, such as 10.0.0.0/8.",
)
_CORS_ORIGINS = flags.DEFINE_list(
    "cors_origins",
    [],
    "Origins whose web pages may use the server, such as https://example.org; * for all.",
)


def main(argv: list[str]) -> None:
    commands.start(argv)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGTERM))
    for package in ("fastapi", "uvicorn", "limits"):
        commands.needs(package, "serve")
    import uvicorn

    from cvrl_tf.inference import connections, server
    from cvrl_tf.inference.embedder import Embedder

    with commands.explained():
        embedder = Embedder(**commands.embedder_arguments())
        limits = server.Limits(
            _MAX_MEGABYTES.value,
            _MAX_SECONDS.value,
            _MAX_PIXELS.value,
            _TIMEOUT.value,
            _RATE.value,
            _MAX_WAITING.value,
        )
        application = server.application(embedder, limits, flags.FLAGS.workers, _CORS_ORIGINS.value)
        config = connections.config(
            application, _HOST.value, _PORT.value, _TRUSTED_PROXIES.value, _TIMEOUT.value
        )
    print(f"Serving {flags.FLAGS.model} at http://{_HOST.value}:{_PORT.value}/embed", flush=True)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    commands.run(main)
