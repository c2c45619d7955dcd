# CPU: docker build -t cvrl_tf .
# GPU: docker build -t cvrl_tf --build-arg EXTRA=gpu .   Run it with --gpus=all.
FROM python:3.11.13-slim-bookworm

ENV PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 cvrl
WORKDIR /home/cvrl/cvrl_tf

# Dependencies are installed from these files only, so code changes don't invalidate the layer.
ARG EXTRA=""
COPY setup.py setup.cfg pyproject.toml constraints.txt ./
RUN mkdir cvrl_tf gin tools && touch cvrl_tf/__init__.py \
    && pip install --no-cache-dir -c constraints.txt -e ".${EXTRA:+[$EXTRA]}" \
    && mkdir runs && chown cvrl runs

COPY LICENSE ./
COPY cvrl_tf cvrl_tf
COPY gin gin
COPY tools tools

USER 1000
CMD ["python", "-m", "cvrl_tf.train", "--help"]
