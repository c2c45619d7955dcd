"""The clients that docs/serving.md shows, against TensorFlow Serving's interface.

The SavedModel itself answers, not the server's binary.
"""

import base64
import http.server
import json
import re
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def answers(model: tf.Module, signature: str, inputs: dict) -> dict[str, np.ndarray]:
    found = model.signatures[signature](**inputs)
    return {name: value.numpy() for name, value in found.items()}


@pytest.fixture(scope="module")
def model(exported_model: Path) -> tf.Module:
    return tf.saved_model.load(str(exported_model))


@pytest.fixture(scope="module")
def clients() -> dict:
    """The functions that docs/serving.md shows."""
    text = (ROOT / "docs" / "serving.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    return names


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model: tf.Module) -> None:
        self.model = model

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        assert request.model_spec.name == "encoder"
        inputs = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
        try:
            found = answers(self.model, request.model_spec.signature_name, inputs)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        response = predict_pb2.PredictResponse()
        for name, value in found.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


@pytest.fixture(scope="module")
def grpc_address(model: tf.Module) -> Iterator[str]:
    server = grpc.server(
        futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)]
    )
    service = Predictions(model)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture(scope="module")
def rest_address(model: tf.Module) -> Iterator[str]:
    def decoded(value: object) -> object:
        """As the server reads {"b64": ...}."""
        if isinstance(value, dict):
            return base64.b64decode(value["b64"])
        return [decoded(each) for each in value] if isinstance(value, list) else value

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/models/encoder:predict"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            inputs = {name: tf.constant(decoded(value)) for name, value in body["inputs"].items()}
            found = answers(model, body["signature_name"], inputs)
            outputs = {name: value.tolist() for name, value in found.items()}
            if len(outputs) == 1:  # of a single output the server leaves the name out
                (outputs,) = outputs.values()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"outputs": outputs}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_grpc_client(model: tf.Module, clients: dict, grpc_address: str) -> None:
    clips = np.random.default_rng(0).integers(0, 256, [2, 8, 256, 340, 3], np.uint8)  # 4 MB
    found = clients["features"](clips, grpc_address)
    np.testing.assert_allclose(found, model.clips(clips)["feature"], rtol=1e-5, atol=1e-6)
    with pytest.raises(grpc.RpcError, match="at least one frame"):
        clients["features"](clips[:, :0], grpc_address)


def test_the_rest_client(model: tf.Module, clients: dict, rest_address: str) -> None:
    clips = np.random.default_rng(0).integers(0, 256, [2, 4, 32, 40, 3], np.uint8)
    jpegs = [[tf.io.encode_jpeg(frame).numpy() for frame in clip] for clip in clips]
    found = clients["features_of_jpegs"](jpegs, rest_address)
    wanted = model.jpegs(tf.constant(jpegs))["feature"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
