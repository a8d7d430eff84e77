#!/usr/bin/env bash
# What SLURM runs on the first node of a job that gpu_slurm.sh submitted: the same gesso command in
# every task, and the decision whether the job goes back into the queue.
set -euo pipefail

if (($# < 4)); then
  echo 'usage: slurm_job.sh CHECKOUT RESTARTS SETUP GESSO-ARGUMENTS... (gpu_slurm.sh submits it)' >&2
  exit 2
fi
checkout=$1 restarts=$2 setup=$3
shift 3

# A job of an array: its line of the file, read as a shell would read it but without doing anything.
words='
import os, shlex, sys
line = open(sys.argv[1]).read().splitlines()[int(os.environ["SLURM_ARRAY_TASK_ID"])]
gesso, *words = shlex.split(line)
assert gesso == "gesso", line
sys.stdout.write("".join(each + "\0" for each in words))
'
if [[ $1 == --array ]]; then
  mapfile -d '' -t line < <("$checkout/.venv/bin/python" -c "$words" "$2")
  ((${#line[@]})) || exit 2
  set -- "${line[@]}"
fi

# Single quotes: these variables are the task's.
# shellcheck disable=SC2016
task='[[ -z $1 ]] || source "$1"; exec "$2/.venv/bin/gesso" "${@:3}"'

ended=0
srun --kill-on-bad-exit=1 bash -c "$task" task "$setup" "$checkout" "$@" || ended=$?

# gesso: 0 done; 2 the request is wrong; 75 saved after being told to stop. What else it says (1, 70,
# 71, or a signal's 128 + n) a restart may mend.
case $ended in
0 | 2) exit "$ended" ;;
esac
if ((${SLURM_RESTART_COUNT:-0} >= restarts)); then
  echo "slurm_job: ended with $ended; given up after $restarts restarts" >&2
  exit "$ended"
fi
echo "slurm_job: ended with $ended; back into the queue" >&2
scontrol requeue "$SLURM_JOB_ID"
