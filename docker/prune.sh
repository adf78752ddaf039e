#!/usr/bin/env bash
# In the build: docker/prune.sh takes out of /opt/venv what the service never loads. Networks reach
# OpenVINO in its own format or as ONNX and run on its CPU plug-in; the rest of it stays behind.
# SITE and VENV are for tests.
set -euo pipefail

VENV=${VENV:-/opt/venv}
SITE=${SITE:-$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["platlib"])')}

cd "$SITE"
for each in auto_batch auto gguf hetero intel_gpu intel_npu jax paddle pytorch tensorflow \
    tensorflow_lite; do
    rm -f openvino/libs/libopenvino_"$each"_{plugin,frontend}.so*
done
rm -rf openvino/libs/cache.json openvino/{include,cmake,torch,tools}
rm -rf {pip,setuptools}{,-*.dist-info} pkg_resources _distutils_hack distutils-precedence.pth
rm -f "$VENV"/bin/pip*
