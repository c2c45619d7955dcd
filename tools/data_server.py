"""Prepares training batches for other machines, through tf.data service.

    python tools/data_server.py --port=5050                      # on each machine of a pool
    python -m cvrl_tf.train --gin_file=gin/pretrain/k400.gin ... \\
      --gin_param="train/pipeline.Pipeline.servers=('host1:5050', 'host2:5050')"

The machines of the pool prepare the batches in turn, so that these are the same, and in the same
order, as without a pool. They must reach the records under the same path as the trainer, and run
the same version of TensorFlow. A server keeps no state: stop it with Ctrl-C.
"""

import os
import signal
import socket
import sys

from absl import app, flags

# Before TensorFlow is imported: its start-up notes would bury what there is to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

_PORT = flags.DEFINE_integer("port", 5050, "Where to listen; 0 for a free port.", lower_bound=0)
_HOST = flags.DEFINE_string(
    "host", socket.gethostname(), "Name under which trainers reach this machine."
)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Unexpected {argv[1:]}.")
    try:
        with socket.socket() as probe:  # gRPC would share a port with another server
            probe.bind(("", _PORT.value))
    except OSError as error:
        sys.exit(f"Error: can't listen on port {_PORT.value}: {error}. Take another --port.")
    stops = [signal.SIGINT, signal.SIGTERM]
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # in all threads that the servers start, too
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
