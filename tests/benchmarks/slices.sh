#!/usr/bin/env bash
# Long trainings in slices, on a machine that has a GPU but neither the image files nor a network.
#
#   slices.sh pack PROFILE PACK [LIBRARY==VERSION…]    here: write one file with all that training needs
#   slices.sh train PACK MINUTES PROFILE TRAINING…    there: train for some minutes
#   slices.sh write RESULTS    there, also while it trains: write the next finished networks
#   slices.sh collect RESULTS PROFILE    here: take over the finished networks
#
# Call it in the folder of the repository. `pack` adds the wheels of libraries that are missing there, for the
# Python version in $THEIR_PYTHON (3.12). A TRAINING is the name of an encoder, "maps" or "ablation", with a seed other
# than 0 before it: "SimCLR", "1/SimCLR". All run side by side; called again on the same machine, they continue where
# they ended. The finished networks are written to RESULTS, as float16, in at most $PARTS files (4) of at most $PART_MIB
# MiB (15). Each is written once: collect the files before they are replaced by the next ones.
set -euo pipefail

python=${PYTHON:-python3}
state=${PLANKTON_SLICES:-$HOME/.cache/plankton_slices}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

pack() {
  local profile=$1 file=$2
  shift 2
  "$python" -m plankton_study "$profile" --pack "$folder"
  for library in "$@"; do
    "$python" -m pip download --quiet --no-deps --only-binary :all: --python-version "${THEIR_PYTHON:-3.12}" \
      --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest "$folder/wheels" "$library"
  done
  tar -C "$folder" -cJf "$file" --exclude='*.lock' --exclude=./results/collection .
  echo "$file: $(wc -c <"$file") bytes"
}

train() {
  local file=$1 minutes=$2 profile=$3 code pack training
  local processes=() codes=()
  shift 3
  pack=$state/pack-$(sha256sum "$file" | cut -c -16)
  [ -d "$pack" ] || whole_folder "$pack" tar -xJf "$(realpath "$file")" -C
  if [ -d "$pack/wheels" ]; then
    [ -d "$pack/site" ] || whole_folder "$pack/site" "$python" -m pip install --quiet --no-index --no-deps "$pack"/wheels/*.whl --target
    export PYTHONPATH=$PYTHONPATH:$pack/site
  fi
  export PLANKTON_CACHE=$state/cache PLANKTON_DATA=$pack/data
  export PLANKTON_THREADS=${PLANKTON_THREADS:-1} OMP_NUM_THREADS=${PLANKTON_THREADS:-1} # many trainings share the CPU
  "$python" -m plankton_study "$profile" --adopt "$pack/results"
  share_gpu
  for training in "$@"; do
    timeout "${minutes}m" "$python" -m plankton_study "$profile" --seed "$(seed_of "$training")" --train "${training#*/}" \
      > >(sed -u "s|^|$training: |") 2> >(sed -u "s|^|$training: |" >&2) &
    processes+=($!)
  done
  for process in "${processes[@]}"; do
    code=0
    wait "$process" || code=$?
    codes+=("$code")
  done
  for code in "${codes[@]}"; do
    [ "$code" != 124 ] || echo "not finished after $minutes minutes: run the same command again to continue"
    [ "$code" = 0 ] || [ "$code" = 124 ] || exit "$code"
  done
}

# the seed of "1/SimCLR" is 1, that of "SimCLR" is 0
seed_of() {
  case $1 in (*/*) echo "${1%%/*}" ;; (*) echo 0 ;; esac
}

# fill a folder by a command that ends in its name; after an interruption there is no such folder
whole_folder() {
  local target=$1
  shift
  rm -rf "$target.partial"
  mkdir -p "$target.partial"
  "$@" "$target.partial"
  mv "$target.partial" "$target"
}

write() {
  local libraries
  for libraries in "$state"/pack-*/site; do
    [ ! -d "$libraries" ] || export PYTHONPATH=$PYTHONPATH:$libraries
  done
  "$python" tests/benchmarks/parts.py "$state/cache" "$1" "${PARTS:-4}" "${PART_MIB:-15}"
}

# Many small networks share a GPU well only if their kernels may run at the same time, which NVIDIA's MPS allows.
share_gpu() {
  command -v nvidia-cuda-mps-control >/dev/null || return 0
  [ -z "${CUDA_MPS_PIPE_DIRECTORY:-}" ] || return 0
  mkdir -p "$state/mps"
  export CUDA_MPS_PIPE_DIRECTORY=$state/mps CUDA_MPS_LOG_DIRECTORY=$state/mps
  nvidia-cuda-mps-control -d >/dev/null 2>&1 || true # it runs already
  if timeout 60 "$python" -c 'import torch; torch.zeros(1, device="cuda")'; then return; fi
  echo "MPS does not work here: the trainings take turns on the GPU"
  unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
}

collect() {
  local results=$1 profile=$2 part
  for part in "$results"/networks.*.tar; do tar -C "$folder" -xf "$part"; done
  "$python" -m plankton_study "$profile" --adopt "$folder"
}

case ${1:-} in
  (pack|train|write|collect) "$@" ;;
  (*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
