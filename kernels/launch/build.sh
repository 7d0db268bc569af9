#!/bin/bash
# Builds sageacc with the tag cuda, for commands that run kernels on a GPU:
#
#   kernels/launch/build.sh [OUTPUT]      (default: ./sageacc)
#
# Needs gcc and the headers of CUDA 12, not a GPU, a driver or a CUDA library.
# The headers are searched in CUDA12_INCLUDE, CUDA_HOME/include and
# /usr/local/cuda*/include; failing that, they are taken from the package
# nvidia-cuda-runtime-cu12 of PyPI (pip download, 3.5 MB, kept in the user's
# cache folder). Headers of CUDA 13 do not do: gorgonia.org/cu does not compile
# with them. The binary runs with any driver since CUDA 12, those of CUDA 13
# included.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=12.8.90
output=${1:-sageacc}

is12() { grep -qs '^#define CUDA_VERSION 12' "$1/cuda.h"; }
include=
for dir in "${CUDA12_INCLUDE:-}" "${CUDA_HOME:-/none}/include" /usr/local/cuda/include /usr/local/cuda-12*/include; do
  if [ -n "$dir" ] && is12 "$dir"; then
    include=$dir
    break
  fi
done
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sageacc/cuda-$version
if [ -z "$include" ]; then
  include=$cache/nvidia/cuda_runtime/include
  if ! is12 "$include"; then
    echo "build.sh: no CUDA 12 headers found; taking nvidia-cuda-runtime-cu12 $version from PyPI" >&2
    mkdir -p "$cache"
    python3 -m pip download --quiet --no-deps --dest "$cache" "nvidia-cuda-runtime-cu12==$version" >&2
    python3 -m zipfile -e "$cache"/nvidia_cuda_runtime_cu12-*.whl "$cache"
    rm "$cache"/nvidia_cuda_runtime_cu12-*.whl
  fi
fi

# gorgonia.org/cu links with -lcuda; what it needs is in driver.c, so an empty
# archive of that name will do.
stub=$(mktemp -d)
trap 'rm -r "$stub"' EXIT
ar rc "$stub/libcuda.a"
CGO_ENABLED=1 CGO_CFLAGS="-I$include ${CGO_CFLAGS:-}" CGO_LDFLAGS="-L$stub ${CGO_LDFLAGS:-}" \
  go build -tags cuda -o "$output" ./cmd/sageacc
