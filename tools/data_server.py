"""Prepare training batches for other machines with tf.data service.

    python tools/data_server.py --port=5050 --open_to_network    # on each machine of a pool
    python -m cvrl_tf.train --gin_file=gin/pretrain/k400.gin ... \\
      --gin_param="train/pipeline.Pipeline.servers=('host1:5050', 'host2:5050')"

The machines of the pool prepare batches in turn. The batches are the same, in the same order, as
without a pool. All machines must find the records under the same path as the trainer, and must run
the same version of TensorFlow. A server keeps no state; Ctrl-C stops it.

The service has no authentication: who reaches its ports reads and writes files as the user who
started it. So it serves this machine alone, unless --open_to_network is given.
"""

import errno
import os
import signal
import socket
import sys

from absl import app, flags

# Before TensorFlow is imported: its start-up messages would hide the output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

_PORT = flags.DEFINE_integer("port", 5050, "Port to listen on; 0 for a free port.", lower_bound=0)
_OPEN = flags.DEFINE_bool(
    "open_to_network", False, "Serve other machines too, in a network whose every host is trusted."
)
_HOST = flags.DEFINE_string(
    "host",
    None,
    "Host name by which trainers reach this machine; by default its own, or localhost.",
)


def _close_to_network() -> None:
    """Let the listening sockets of this process have connections of this machine alone.

    TensorFlow binds to all addresses, and has no setting for it.

    Raises:
      OSError: the kernel does not allow it.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(fd)) as each:
                if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        except OSError as error:
            if error.errno not in (errno.ENOTSOCK, errno.EBADF, errno.EOPNOTSUPP):
                raise


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
    host = _HOST.value or (socket.gethostname() if _OPEN.value else "localhost")
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=_PORT.value))
    port = dispatcher.target.rsplit(":", 1)[1]
    worker = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=f"localhost:{port}", worker_address=f"{host}:%port%"
        )
    )
    if _OPEN.value:
        print(
            "Warning: whoever reaches this machine can read and write files through this server, "
            "without a password. Use it only in a network whose every host you trust.",
            file=sys.stderr,
        )
    else:
        try:
            _close_to_network()
        except OSError as error:
            sys.exit(
                f"Error: can't close the server to other machines: {error}. If all hosts of the "
                "network may read and write your files, add --open_to_network."
            )
    print(f"Serving on {host}:{port}. Ctrl-C stops it.", flush=True)
    signal.sigwait(stops)
    del worker, dispatcher


if __name__ == "__main__":
    app.run(main)
