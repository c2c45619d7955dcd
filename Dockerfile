# CPU: docker build -t cvrl_tf .
# GPU: docker build -t cvrl_tf --build-arg LOCK=gpu .   Run it with --gpus=all.
# The digest is that of the tag's index of all platforms; a tag alone may come to mean another image.
FROM python:3.11.13-slim-bookworm@sha256:86adf8dbadc3d6e82ee5dd2c74bec2e1c2467cdad47886280501df722372d2e1

ENV PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 cvrl
WORKDIR /home/cvrl/cvrl_tf

# Dependencies first, so code changes don't invalidate the layer, each with the hash of the lock.
ARG LOCK=runtime
COPY requirements requirements
RUN pip install --no-cache-dir --require-hashes -r requirements/${LOCK}.lock

COPY LICENSE setup.py setup.cfg pyproject.toml ./
COPY cvrl_tf cvrl_tf
COPY gin gin
COPY tools tools
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && mkdir runs && chown cvrl runs

USER 1000
CMD ["python", "-m", "cvrl_tf.train", "--help"]
