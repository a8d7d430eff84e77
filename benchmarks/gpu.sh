#!/usr/bin/env bash
# What a GPU says about this code, in one command: reference packs, training steps beside torch,
# attention, a trace. Needs only a python3 with jax, flax, optax, numpy, safetensors and torch.
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  cat <<'TEXT'
usage: bash benchmarks/gpu.sh [OUT_FOLDER] [--parts packs,steps,attention,trace] [--minutes 9]
                              [--jobs PATTERNS] [--packs FOLDER] [--device cpu --tiny] [--list]

  OUT_FOLDER  gets gpu.json, gpu.md and one folder per part (default: gpu-results)
  --parts     which parts to run, in this order; each has --minutes to itself
  --jobs      only the jobs whose name fits one of the patterns, such as 'gpt-j-6b*,gpt2*'
              (--list prints the names)
  --packs     the reference packs (default: shared/packs in the checkout or beside it)
  --device    cpu with --tiny runs the whole script on small shapes without a GPU

Every figure is written when it is measured: what is stopped half-way keeps what it had.
Set PYTHON to use another interpreter than python3.
TEXT
  exit
fi

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
links=$(mktemp -d) # the checkout is the package gesso, whatever its folder is called
ln -s -- "$root" "$links/gesso"
# -P: a folder called benchmarks where the caller stands is not ours.
PYTHONPATH="$root:$links${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -P -m benchmarks.gpu "$@"
