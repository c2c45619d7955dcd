"""Prepare training batches for other machines with tf.data service.

    python tools/data_server.py --port=5050                      # on each machine of a pool
    python -m cvrl_tf.train --gin_file=gin/pretrain/k400.gin ... \\
      --gin_param="train/pipeline.Pipeline.servers=('host1:5050', 'host2:5050')"

The machines of the pool prepare batches in turn. The batches are the same, in the same order, as
without a pool. All machines must find the records under the same path as the trainer, and must run
the same version of TensorFlow. A server keeps no state; Ctrl-C stops it.
"""

import os
import signal
import socket
import sys

from absl import app, flags

# Before TensorFlow is imported: its start-up messages would hide the output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

_PORT = flags.DEFINE_integer("port", 5050, "Port to listen on; 0 for a free port.", lower_bound=0)
_HOST = flags.DEFINE_string(
    "host", socket.gethostname(), "Host name by which trainers reach this machine."
)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Unexpected {argv[1:]}.")
    try:
        with (
            socket.socket() as probe
        ):  # because gRPC shares a port with another server without an error
            probe.bind(("", _PORT.value))
    except OSError as error:
        sys.exit(f"Error: can't listen on port {_PORT.value}: {error}. Take another --port.")
    stops = [signal.SIGINT, signal.SIGTERM]
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # threads of the servers inherit this
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=_PORT.value))
    port = dispatcher.target.rsplit(":", 1)[1]
    worker = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=f"localhost:{port}", worker_address=f"{_HOST.value}:%port%"
        )
    )
    print(f"Serving on {_HOST.value}:{port}. Ctrl-C stops it.", flush=True)
    signal.sigwait(stops)
    del worker, dispatcher


if __name__ == "__main__":
    app.run(main)
