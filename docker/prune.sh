#!/usr/bin/env bash
# In the build: takes out of /opt/venv what the service never loads. Our networks reach OpenVINO as
# its own format or as ONNX and run on its CPU plug-in; everything else of it stays behind.
set -euo pipefail

VENV=${VENV:-/opt/venv}
SITE=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["platlib"])')

openvino=$SITE/openvino
for each in auto_batch auto gguf hetero intel_gpu intel_npu jax paddle pytorch tensorflow \
    tensorflow_lite; do
    rm -f "$openvino"/libs/libopenvino_"$each"_{plugin,frontend}.so*
done
rm -rf "$openvino"/libs/cache.json "$openvino"/{include,cmake,torch,tools}
rm -rf "$SITE"/{pip,setuptools,pkg_resources,_distutils_hack} "$SITE"/{pip,setuptools}-*.dist-info
rm -f "$SITE"/distutils-precedence.pth "$VENV"/bin/pip*
