# Two images from one file; docs/docker.md has the commands.
#   docker build --target compiler -t trtasr .             builds, measures and tests engines on a T4 host
#   docker build --target runtime  -t trtasr:runtime .     transcribes and benches finished bundles
ARG BASE=nvcr.io/nvidia/tensorrt:26.05-py3
ARG RUNTIME_BASE=ubuntu:24.04

FROM ${BASE} AS compiler
ARG BASE
LABEL org.opencontainers.image.title="trtasr compiler" \
      org.opencontainers.image.description="Builds, measures and tests INT8 speech recognition engines on a T4 host" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.base.name="${BASE}"
# Package of TensorRT, for a base image that has none: a CUDA 12 base for older drivers (docs/docker.md).
ARG TENSORRT=""
# An index with PyTorch's CPU wheels; without one, pip may take the CUDA build of torch, which is gigabytes larger.
ARG TORCH_INDEX=""
# Not UID and GID: bash has read-only variables of these names.
ARG USER_ID=1000
ARG GROUP_ID=1000
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# The base image may bring pip constraints of its own, which would contradict constraints.txt.
ENV ORT_DISABLE_TELEMETRY=1 PIP_CONSTRAINT="" PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ENV PATH=/opt/trtasr/.venv/bin:${PATH}
WORKDIR /opt/trtasr

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
# Ubuntu 24.04 has a user with id 1000 already.
RUN if getent passwd "${USER_ID}"; then userdel "$(getent passwd "${USER_ID}" | cut -d: -f1)"; fi \
    && groupadd --non-unique --gid "${GROUP_ID}" trtasr \
    && useradd --create-home --no-log-init --uid "${USER_ID}" --gid "${GROUP_ID}" trtasr \
    && install --directory --owner=trtasr --group=trtasr /home/trtasr/.cache

COPY constraints.txt ./
# The base image's own TensorRT shows through: nothing of the `t4` extra but pycuda is installed, unless TENSORRT says so.
RUN python3 -m venv --system-site-packages .venv \
    && pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url="${TORCH_INDEX}"} torch
RUN if [ -n "${TENSORRT}" ]; then pip install --constraint constraints.txt "${TENSORRT}"; fi \
    && python -c 'import tensorrt; print("TensorRT", tensorrt.__version__)'
# Without curand the runtime image needs no CUDA library but libcudart.
RUN printf 'CUDA_ROOT = "/usr/local/cuda"\nCUDA_ENABLE_CURAND = False\n' > "${HOME}/.aksetup-defaults.py" \
    && pip wheel --constraint constraints.txt --wheel-dir /opt/wheels pycuda==2026.1 \
    && rm "${HOME}/.aksetup-defaults.py"
RUN pip install --constraint constraints.txt --no-index --find-links /opt/wheels pycuda

COPY . .
# The stamp tells `make` that the environment is there: it downloads nothing when a container runs.
RUN pip install --constraint constraints.txt --editable '.[dev]' \
    && python -m compileall -q trtasr \
    && touch .venv/.installed
RUN chown --recursive trtasr:trtasr engines calib
USER ${USER_ID}:${GROUP_ID}
CMD ["make", "help"]

# TensorRT's Python packages, one or three, and the libraries that importing them loads.
FROM compiler AS tensorrt
RUN python -m trtasr.engine.gather /home/trtasr/export

FROM ${RUNTIME_BASE} AS runtime
ARG RUNTIME_BASE
LABEL org.opencontainers.image.title="trtasr" \
      org.opencontainers.image.description="Transcribes and benches finished INT8 speech recognition bundles" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.base.name="${RUNTIME_BASE}"
ARG TORCH_INDEX=""
ARG USER_ID=1000
ARG GROUP_ID=1000
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV ORT_DISABLE_TELEMETRY=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ENV PATH=/opt/trtasr/.venv/bin:${PATH} PYTHONPATH=/opt/tensorrt/python LD_LIBRARY_PATH=/opt/tensorrt/lib
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/trtasr

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN if getent passwd "${USER_ID}"; then userdel "$(getent passwd "${USER_ID}" | cut -d: -f1)"; fi \
    && groupadd --non-unique --gid "${GROUP_ID}" trtasr \
    && useradd --create-home --no-log-init --uid "${USER_ID}" --gid "${GROUP_ID}" trtasr

COPY constraints.txt ./
# The project's requirements without what only compiles and compares: tensorrt-rtx-cu12 and polygraphy.
RUN python3 -m venv .venv \
    && pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url="${TORCH_INDEX}"} \
       jinja2 jiwer msgspec numpy onnx onnxruntime protobuf pyyaml safetensors sentencepiece soundfile soxr \
       tokenizers torch tqdm
COPY --from=compiler /opt/wheels /opt/wheels
RUN pip install --constraint constraints.txt --no-index --find-links /opt/wheels pycuda
COPY --from=tensorrt /home/trtasr/export /opt/tensorrt
RUN python -c 'import tensorrt; print("TensorRT", tensorrt.__version__)'

COPY pyproject.toml README.md ./
COPY trtasr/ trtasr/
RUN pip install --constraint constraints.txt --no-deps --editable . \
    && python -m compileall -q trtasr \
    && mkdir engines
# The bundle whose health is that of the container; it is mounted when one runs.
ENV TRTASR_HEALTH=engines/quartznet
HEALTHCHECK --interval=5m --timeout=2m --start-period=2m --retries=2 \
    CMD ["sh", "-c", "text=\"$(trtasr transcribe \"$TRTASR_HEALTH\" trtasr/zoo/eval/001.ogg --quiet)\" && test -n \"$text\""]
USER ${USER_ID}:${GROUP_ID}
ENTRYPOINT ["trtasr"]
CMD ["--help"]
