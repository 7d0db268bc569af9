#!/bin/bash
# Builds the images of the CUDA sources with nvcc and writes their stamps:
#
#   kernels/build.sh            images/ (embedded in sageacc)
#   kernels/build.sh broken DIR the variants of attention/broken, as cubins in DIR
#   kernels/build.sh custom DIR the example attention/custom, as PTX in DIR
#
# PTX where any GPU from sm_89 on will do, a cubin where the instruction is
# sm_90a's alone. Needs nvcc (NVCC, else PATH, else /usr/local/cuda/bin), no GPU.
# `go test ./kernels` says when an image is older than its sources.
set -euo pipefail
cd "$(dirname "$0")"
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if ! [ -x "$nvcc" ]; then
  echo "build.sh: no nvcc; set NVCC, or install the CUDA toolkit" >&2
  exit 2
fi
# -fmad=false: only what is written as fused is fused.
flags=(-O3 -std=c++17 -fmad=false)
ptx() { "$nvcc" "${flags[@]}" -arch=compute_89 -ptx -o "$2" "$1"; }
cubin() { "$nvcc" "${flags[@]}" -gencode arch=compute_90a,code=sm_90a -cubin -o "$2" "$1"; }

if [ "${1:-}" = broken ]; then
  mkdir -p "${2:?the folder to write to}"
  for source in attention/broken/*.cu; do
    cubin "$source" "$2/$(basename "$source" .cu).cubin"
  done
  exit
fi

if [ "${1:-}" = custom ]; then
  mkdir -p "${2:?the folder to write to}"
  ptx attention/custom/reverse96.cu "$2/reverse96.ptx"
  exit
fi

ptx attention/sage2_4b.cu images/sage2_4b.ptx
cubin attention/sage2_8b_sm90.cu images/sage2_8b_sm90.cubin
ptx probes/units.cu images/units.ptx
cubin probes/wgmma.cu images/wgmma.cubin

# One line an image: its SHA-256, that of its sources, and the sources.
stamp() { echo "$(sha256sum "$1" | cut -d' ' -f1) $(cat "${@:2}" | sha256sum | cut -d' ' -f1) $*"; }
{
  echo "# image, sources' SHA-256, files; built by $("$nvcc" --version | sed -n 's/.*release \([0-9.]*\), V\(.*\)/nvcc \2/p')"
  stamp images/sage2_4b.ptx attention/sage2_4b.cu attention/common.cuh
  stamp images/sage2_8b_sm90.cubin attention/sage2_8b_sm90.cu attention/common.cuh
  stamp images/units.ptx probes/units.cu probes/mma.cuh
  stamp images/wgmma.cubin probes/wgmma.cu probes/mma.cuh
} > images/stamps.txt
