#!/usr/bin/env bash
# Submits one gesso command to SLURM: a process per GPU or per node, requeued after a preemption, a
# time limit or a lost node until it has ended well.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/gpu_slurm.sh [options] -- GESSO-ARGUMENTS...
       launch/gpu_slurm.sh [options] --array FILE

  --name NAME            of the job (default: gesso)
  --nodes N              machines (default 1)
  --gpus-per-node N      GPUs of each (default 8)
  --tasks KIND           gpu (default): a process per GPU; node: one process drives all of a node
  --cpus-per-task N      CPU cores of each process (default 8)
  --time LIMIT           SLURM's time limit, for instance 24:00:00; the run saves before it ends
  --save-seconds N       how long before the limit it is told to save (default 180)
  --partition NAME       --account NAME     --qos NAME     --constraint TEXT
  --restarts N           requeues before giving up (default 100)
  --log FILE             SLURM's output file (default: NAME-%j.log)
  --setup FILE           a script every process reads first: module load, export NAME=value, ...
  --array FILE           a job array: every line is the `gesso ...` command of one job, as
                         `gesso sweep NAME --show commands` prints them
  --at-once N            jobs of the array that run at a time (default: as many as there is room for)
  --dry-run              print the sbatch command instead of running it

The checkout, its .venv (make one on a node: bash launch/venv.sh .venv cuda) and the run folder must
be on a disk that all nodes share. The same gesso command continues a run from its newest checkpoint,
which is all a requeue does.

Example:
  launch/gpu_slurm.sh --nodes 4 --time 24:00:00 --partition h100 \
    -- pretrain gpt-j-6b --folder /shared/runs/j --data.store /shared/pile --mesh.fsdp 32

  gesso sweep NAME --folder /shared/sweep --show commands >trials
  launch/gpu_slurm.sh --gpus-per-node 1 --array trials     # then: gesso sweep NAME --folder /shared/sweep

Exit status: sbatch's; 2 the request is wrong.
TEXT
}

refuse() {
  printf 'gpu_slurm.sh: %s (--help explains)\n' "$*" >&2
  exit 2
}

quoted() { printf '%q ' "$@"; } # one shell word per argument, whatever is in it

read_options() {
  name=gesso nodes=1 gpus_per_node=8 tasks=gpu cpus_per_task=8 time='' save_seconds=180
  partition='' account='' qos='' constraint='' restarts=100 log='' setup='' dry_run=no
  array='' at_once=0
  gesso_arguments=()
  while (($#)); do
    case $1 in
    --)
      shift
      gesso_arguments=("$@")
      break
      ;;
    --dry-run) dry_run=yes && shift && continue ;;
    -h | --help)
      usage
      exit 0
      ;;
    --name | --nodes | --gpus-per-node | --tasks | --cpus-per-task | --time | --save-seconds | \
      --partition | --account | --qos | --constraint | --restarts | --log | --setup | --array | --at-once)
      (($# > 1)) || refuse "$1 needs a value"
      local variable=${1#--}
      printf -v "${variable//-/_}" '%s' "$2"
      shift 2
      ;;
    *) refuse "unknown option $(quoted "$1")" ;;
    esac
  done
}

check_options() {
  local each
  if [[ -n $array ]]; then
    ((${#gesso_arguments[@]} == 0)) || refuse '--array FILE says what to run: nothing goes after --'
    [[ -s $array ]] || refuse "--array $(quoted "$array")is not a file with a command in every line"
    array=$(realpath -- "$array")
  else
    ((${#gesso_arguments[@]})) || refuse 'say what to run after --, for instance: -- pretrain ...'
  fi
  for each in nodes gpus_per_node cpus_per_task save_seconds restarts at_once; do
    [[ ${!each} =~ ^[0-9]+$ ]] || refuse "--${each//_/-} $(quoted "${!each}")must be a whole number"
  done
  ((nodes > 0 && cpus_per_task > 0)) || refuse '--nodes and --cpus-per-task must be at least 1'
  [[ $tasks == gpu || $tasks == node ]] || refuse '--tasks must be gpu or node'
  [[ -z $time || $time =~ ^[0-9]+(-[0-9]+)?(:[0-9]+){0,2}$ ]] ||
    refuse "--time $(quoted "$time")must be a time such as 24:00:00"
  for each in name partition account qos; do
    [[ -z ${!each} || ${!each} =~ ^[A-Za-z0-9._,-]+$ && ${!each} != -* ]] ||
      refuse "--$each $(quoted "${!each}")must be letters, digits, ., _ and -"
  done
  [[ -z $setup || -f $setup ]] || refuse "--setup $(quoted "$setup")is not a file"
}

main() {
  read_options "$@"
  check_options
  local checkout per_node=1
  checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
  [[ $tasks == node || $gpus_per_node == 0 ]] || per_node=$gpus_per_node
  local command=(
    sbatch "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=$per_node"
    "--cpus-per-task=$cpus_per_task" "--output=${log:-$name-$( [[ -n $array ]] && echo %A_%a || echo %j).log}" --open-mode=append
    --requeue "--signal=TERM@$save_seconds"
  )
  ((gpus_per_node == 0)) || command+=("--gpus-per-node=$gpus_per_node")
  [[ -z $time ]] || command+=("--time=$time")
  [[ -z $partition ]] || command+=("--partition=$partition")
  [[ -z $account ]] || command+=("--account=$account")
  [[ -z $qos ]] || command+=("--qos=$qos")
  [[ -z $constraint ]] || command+=("--constraint=$constraint")
  if [[ -n $array ]]; then
    local last
    last=$(($(wc -l <"$array") - 1)) # every line ends with a newline, as sweep prints them
    ((last >= 0)) || refuse "--array $(quoted "$array")holds no whole line"
    ((at_once == 0)) || last=$last%$at_once
    command+=("--array=0-$last")
    gesso_arguments=(--array "$array")
  fi
  [[ -z $setup ]] || setup=$(realpath -- "$setup")
  command+=("$checkout/launch/slurm_job.sh" "$checkout" "$restarts" "$setup" "${gesso_arguments[@]}")
  if [[ $dry_run == yes ]]; then
    quoted "${command[@]}"
    echo
  else
    "${command[@]}"
  fi
}

main "$@"
