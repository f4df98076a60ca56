#!/usr/bin/env bash
# What is to be measured on the day a GPU is at hand, in one command a stage, on a machine without a network.
#
#   bash scripts/gpu_kit.sh pack [STUDY ...]    on a machine with a network: wheels and data into the folder gpu_kit
#   bash scripts/gpu_kit.sh tests               there: the tests marked cuda, 2 minutes at most
#   bash scripts/gpu_kit.sh benchmark           there: one block, training steps, inference, 3 minutes at most
#   bash scripts/gpu_kit.sh study [STUDY ...]   there: studies of scripts/studies, resumable, in the time that is left
#   bash scripts/gpu_kit.sh all [STUDY ...]     there: one after the other; also as a, b and c
#
# Options are environment variables, with their defaults:
#   KIT=gpu_kit OUT=runs/gpu_kit       what was carried here; where results go
#   ARCHIVE=$OUT/results.tar.gz        all results but weights, written anew every ten seconds
#   LIMIT=840                          seconds for the whole command
#   DEVICE=cuda SIZE=full JOBS=8       DEVICE=cpu SIZE=tiny JOBS=1 is the rehearsal
#   PYTHON=python3                     the Python that holds PyTorch
#   CARRY=""                           pack: names of more packages that the other machine lacks
#   MIB=64                             pack: what may travel, the repository included
# docs/gpu_kit.md tells the whole story.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export KIT=${KIT:-gpu_kit} OUT=${OUT:-runs/gpu_kit} PYTHONUNBUFFERED=1
PYTHON=${PYTHON:-python3} ENVIRONMENT=${ENVIRONMENT:-runs/gpu_kit_env}

case ${1:-} in
pack) exec "$PYTHON" scripts/gpu_kit.py "$@" ;;
tests | benchmark | study | all | a | b | c)
    "$PYTHON" scripts/gpu_kit.py install "$ENVIRONMENT"
    exec "$ENVIRONMENT/bin/python" scripts/gpu_kit.py "$@"
    ;;
*)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
