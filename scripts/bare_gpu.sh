#!/usr/bin/env bash
# Measures, and does the ten-minute study, on a machine without a network that is at hand for minutes only. In three calls:
#   scripts/bare_gpu.sh prepare IMAGES.tar.xz   where there is a network: fills carry/ with wheels, images and frozen runs
#   OUT=dir scripts/bare_gpu.sh first           there, 5.5 min: set-up, data, two small runs, GPU tests, the bench's GPU page
#   OUT=dir ENGINE=graph scripts/bare_gpu.sh second    there, 6.5 min: the study, cut off when the time is over, and its report
# Each step has a time limit and writes into OUT as it goes on; one that fails does not stop the next. Settings: DEVICE=cpu
# and PATIENCE=10 (all limits ten times as long) rehearse it, with SET, AXES, BENCH and TESTS for what is smaller there;
# RUNS_PER_GPU, ENGINES, HAVE (a `pip list --format=freeze` of that machine, whose packages stay out of carry/), and
# TIMM=dir (a checkout of timm, whose train.py joins the race).
set -uo pipefail
cd "$(dirname "$0")/.."
device=${DEVICE:-cuda} patience=${PATIENCE:-1} out=${OUT:-outputs/bare} python=.venv/bin/python
engines=${ENGINES:-eager graph compile} sweep=cifar10-10min
half=${1:-}

prepare() {
  set -e
  [ -f "${2:-}" ] || { echo "error: scripts/bare_gpu.sh prepare IMAGES: an archive of cifar10/{train,test}/<class>/*.jpg" >&2; exit 2; }
  rm -rf carry
  mkdir carry
  make wheels WHEELS=carry/wheels SYSTEM_TORCH=1 ${HAVE:+HAVE="$HAVE"} ARGS="--extras test"
  cp "$2" carry/images.tar.xz
  [ -z "${TIMM:-}" ] || cp "$TIMM/train.py" carry/
  [ -d data/cifar10/train ] || { mkdir -p data && tar -xf "$2" -C data; }
  local engine settings
  for engine in $engines; do
    settings="data=cifar10_folder logger=none machine.device=$device machine.engine=$engine${SET:+ $SET}"
    $python scripts/sweep.py sweep=$sweep commands=1 outputs=carry/$engine ${AXES:-} "set=[\"${settings// /\",\"}\"]" > carry/$engine.log
  done
  du -sh carry
}

step() { # NAME SECONDS COMMAND...: runs a command within its limit and what is left of the half; notes how it ended
  local name=$1 limit=$(($2 * patience)) left=$((deadline - SECONDS)) began=$SECONDS status=0
  [ "$limit" -lt "$left" ] || limit=$left
  if [ "$limit" -le 0 ]; then
    status="left out: no time"
  else
    echo "== $name (at $SECONDS s, at most $limit s)"
    timeout --signal="${SIGNAL:-TERM}" --kill-after=25 "$limit" bash -c '"$@"' _ "${@:3}" 2>&1 || status=$?
  fi
  printf '%-12s %4s s   status %s\n' "$name" $((SECONDS - began)) "$status" | tee -a "$out/$half.txt"
}

run_small() { # one small run with an engine
  $python scripts/train.py model=resnet_tiny data.n_pool=5000 n_train=1000 budget=steps budget.steps=40 budget.evaluations=2 logger=none \
    machine.device="$device" machine.engine="$1" machine.outputs="outputs/small-$1"
}

read_images() {
  if [ ! -d data/cifar10 ]; then # whole or not at all: a step may be cut off
    rm -rf data/new && mkdir -p data/new
    tar -xf carry/images.tar.xz -C data/new || $python -m tarfile -e carry/images.tar.xz data/new
    mv data/new/cifar10 data/
  fi
  $python scripts/data.py data=cifar10_folder
}

run_tests() { # those whose names match
  exec $python -m pytest -n 0 -p no:cacheprovider ${TESTS:--m gpu tests/gpu} -k "$1"
}

study() { # the frozen runs in the order of the plan: whole chains first
  local plan ids
  plan=$(ls carry/"$ENGINE"/sweeps/*/plan.json)
  ids=$($python -c 'import json, sys; print(*json.load(open(sys.argv[1]))["runs"])' "$plan")
  exec $python -m crossover.sweep --outputs "carry/$ENGINE" --runs-per-gpu "${RUNS_PER_GPU:-4}" $ids
}

bring_home() {
  tar -czf "$out/study-$ENGINE.tar.gz" -C "carry/$ENGINE" --exclude='*.safetensors' --exclude='*.ckpt' runs sweeps
}

first() {
  step machine 10 bash -c "nvidia-smi; nproc; free -g; python3 --version"
  step images 90 read_images > "$out/images.log" 2>&1 &
  local images=$! engine
  for engine in eager graph; do
    step "run-$engine" 60 run_small $engine
  done
  SIGNAL=INT step gpu-tests 110 run_tests "not compile" # at an interrupt pytest tells what has failed so far
  wait $images
  step bench 150 $python -m benchmarks "only=[gpu]" device="$device" steps=60 "batches=[512]" "ways=[${engines// /,},plain,idiomatic]" \
    limit_seconds=$((120 * patience)) output="$out/bench.json" $([ ! -e carry/train.py ] || echo timm=carry) ${BENCH:-}
  SIGNAL=INT step compile-tests 120 run_tests compile # compiling takes minutes, and no other step needs it
}

second() {
  ENGINE=${ENGINE:-eager}
  step images 90 read_images
  deadline=$((deadline - 60 * patience)) # for what follows
  step study 600 study
  deadline=$((deadline + 60 * patience))
  step bring-home 30 bring_home
  step report 40 $python scripts/report.py "name=\"$(basename carry/"$ENGINE"/sweeps/*)\"" outputs="carry/$ENGINE"
}

case $half in
  prepare) prepare "$@" ;;
  first | second)
    mkdir -p "$out"
    out=$(cd "$out" && pwd)
    : > "$out/$half.txt"
    [ "$half" = first ] && deadline=$((330 * patience)) || deadline=$((390 * patience))
    export ENGINE
    export -f study run_small run_tests read_images bring_home
    export device python out
    { step set-up 150 make setup WHEELS=carry/wheels SYSTEM_TORCH=1 PYTHON="${PYTHON:-python3}"; $half; } 2>&1 | tee "$out/$half.log"
    ;;
  *)
    sed -n '2,9s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
