#!/usr/bin/env bash
# Pre-trains on a TPU VM, and makes a new one that goes on when the VM is pre-empted.
#
#   PROJECT=p ZONE=us-central2-b SHARE=10.0.0.2:/runs DATA=tfrecord:gs://bucket/imagenet21k \
#     OUTPUT=bit-m-r50x1 ./tpu_vm.sh [flags of bit-keras pretrain]
#
# SHARE is an NFS share (Filestore) in the VM's network: the run folder outlives the VM.
# A slice of several hosts (TYPE=v3-32, v4-16 …) is driven by its first host, by the TPU's name.
set -euo pipefail

: "${PROJECT:?}" "${ZONE:?}" "${SHARE:?}" "${DATA:?}" "${OUTPUT:?}"
NAME=${NAME:-bit-pretrain}
TYPE=${TYPE:-v3-8}
VERSION=${VERSION:-tpu-ubuntu2204-base}
MODEL=${MODEL:-BiT-M-R50x1}
TENSORFLOW=${TENSORFLOW:-tensorflow-tpu==2.19.1}
LIBTPU=${LIBTPU:-https://storage.googleapis.com/libtpu-tf-releases/index.html}
PAUSE=${PAUSE:-60} # seconds before another try
WHEEL=${WHEEL:-$(ls dist/bit_keras-*.whl)} # python -m build

tpu() { gcloud compute tpus tpu-vm "$@" --project="$PROJECT" --zone="$ZONE"; }
on() { tpu ssh "$NAME" --worker="$1" --command="$2"; }

state() { tpu describe "$NAME" --format='value(state)' 2>/dev/null || echo NONE; }
hosts() { tpu describe "$NAME" --format='value(networkEndpoints.len())'; }

start() {
  [[ $(state) == READY ]] && return
  [[ $(state) == NONE ]] || tpu delete "$NAME" --quiet
  tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" --spot
}

install() {
  tpu scp "$WHEEL" "$NAME:" --worker=all
  # tensorflow-tpu takes the place of tensorflow, which the wheel asks for.
  on all "python3 -m venv bit \
    && bit/bin/pip install --quiet --find-links='$LIBTPU' ./$(basename "$WHEEL") \
    && bit/bin/pip uninstall --quiet --yes tensorflow \
    && bit/bin/pip install --quiet --find-links='$LIBTPU' '$TENSORFLOW' \
    && sudo apt-get install --quiet --yes nfs-common && sudo mkdir -p /runs \
    && (mountpoint -q /runs || sudo mount -t nfs '$SHARE' /runs) && sudo chmod 777 /runs"
}

train() {
  local device=local environment=
  if (($(hosts) > 1)); then
    device=$NAME environment="TPU_NAME=$NAME TPU_LOAD_LIBRARY=0"
  fi
  on 0 "$environment bit/bin/bit-keras pretrain --strategy tpu --tpu $device --resume \
    --precision bfloat16 --steps_per_loop 200 --noprogress \
    --data '$DATA' --output '/runs/$OUTPUT' --model '$MODEL' $(printf '%q ' "$@")"
}

while true; do
  status=0
  { start && install && train "$@"; } || status=$?
  case $status in
    0) break ;;
    1 | 2) [[ $(state) == READY ]] && exit "$status" ;; # not the machine's fault
  esac
  echo "The TPU or the connection went away (status $status); trying again." >&2
  sleep "$PAUSE"
done
tpu delete "$NAME" --quiet
