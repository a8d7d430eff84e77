#!/usr/bin/env bash
# Runs one gesso command on every worker of a Cloud TPU slice, and keeps it running: creates the
# slice or takes the one there is, installs the pinned environment, starts the command, follows
# worker 0, and after a preemption does it all again.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/tpu_pod.sh run    --name NAME --zone ZONE --type TYPE [options] -- GESSO-ARGUMENTS...
       launch/tpu_pod.sh follow --name NAME --zone ZONE [options]
       launch/tpu_pod.sh status --name NAME --zone ZONE [options]
       launch/tpu_pod.sh stop   --name NAME --zone ZONE [options]
       launch/tpu_pod.sh fetch  --name NAME --zone ZONE --folder RUN [--to FOLDER] [options]
       launch/tpu_pod.sh delete --name NAME --zone ZONE [options]

  run      create or reuse the slice, install, start the same gesso command on every worker, follow
           worker 0; restart after a preemption or failure until the command has succeeded.
           Interrupting this script leaves the job running; the same command attaches again.
  follow   show worker 0's log              status   the slice, and the job on every worker
  stop     end the job (it saves first)     delete   delete the slice: the only end of its costs
  fetch    bring the run's report, as of now, and its records here (not its checkpoints)

  --name NAME          of the slice: lower-case letters, digits and -
  --zone ZONE          where, for instance us-east5-a
  --type TYPE          how many chips of which kind, for instance v5litepod-16 or v4-32
  --project PROJECT    default: gcloud's own
  --capacity KIND      on-demand (default), spot, queued or queued-spot
  --slices N           as many slices of that type, joined over the data-centre network, for one
                       run (default 1); more than one needs --capacity queued or queued-spot. Say it
                       to the other actions, too
  --version RUNTIME    the image; by default the one for TYPE
  --setup FILE         a script run on every worker before the start: mount the disk of the run
                       folder, write `export NAME=value` lines to ~/gesso-env.sh, ...
  --restarts N         starts after the first one before giving up (default 100)
  --poll-seconds N     between looks at a slice that is not ready (default 30)
  --when-done KIND     keep (default) or delete the slice after success
  --folder RUN         fetch: the run folder, as the command named it
  --to FOLDER          fetch: where it comes to (default: the run folder's own name, here)
  --dry-run            print every command instead of running it

The run folder must be on a disk that all workers share and that outlives the slice (--setup mounts
it): checkpoints are written there, and a restart continues from them.

Example:
  launch/tpu_pod.sh run --name neo --zone us-east5-a --type v5litepod-16 --capacity spot \
    --setup mount.sh -- pretrain gpt-neo-1.3b --folder /shared/runs/neo --mesh.fsdp 16

Exit status: 0 done; 1 given up after too many restarts; 2 the request is wrong.
TEXT
}

refuse() {
  printf 'tpu_pod.sh: %s (--help explains)\n' "$*" >&2
  exit 2
}

say() { printf '%s tpu_pod: %s\n' "$(date +%T)" "$*" >&2; }

quoted() { printf '%q ' "$@"; } # one shell word per argument, whatever is in it

# Run a command; with --dry-run print it, in a form that a shell reads back to the same words.
act() {
  if [[ $dry_run == yes ]]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

read_options() {
  action=${1:-}
  case $action in
  run | follow | status | stop | fetch | delete) shift ;;
  -h | --help | help)
    usage
    exit 0
    ;;
  '') refuse 'say what to do: run, follow, status, stop, fetch or delete' ;;
  *) refuse "unknown action $(quoted "$action")" ;;
  esac
  name='' zone='' type='' project='' capacity=on-demand version='' setup='' when_done=keep
  restarts=100 poll_seconds=30 slices=1 folder='' to='' dry_run=no gesso_arguments=()
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
    --name | --zone | --type | --project | --capacity | --version | --setup | --restarts | \
      --poll-seconds | --when-done | --slices | --folder | --to)
      (($# > 1)) || refuse "$1 needs a value"
      local variable=${1#--}
      printf -v "${variable//-/_}" '%s' "$2"
      shift 2
      ;;
    *) refuse "unknown option $(quoted "$1")" ;;
    esac
  done
}

# Nothing with a meaning to a shell, to gcloud or to ssh gets past here.
check_options() {
  [[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    refuse "--name $(quoted "$name")must be lower-case letters, digits and -"
  [[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
    refuse "--zone $(quoted "$zone")must be a zone such as us-east5-a"
  [[ -z $project || $project =~ ^[a-z][-a-z0-9.:]*$ ]] ||
    refuse "--project $(quoted "$project")is not a project's id"
  [[ $restarts =~ ^[0-9]+$ && $poll_seconds =~ ^[0-9]+$ ]] ||
    refuse '--restarts and --poll-seconds must be whole numbers'
  [[ $when_done == keep || $when_done == delete ]] || refuse '--when-done must be keep or delete'
  case $capacity in
  on-demand | spot | queued | queued-spot) ;;
  *) refuse "--capacity $(quoted "$capacity")must be on-demand, spot, queued or queued-spot" ;;
  esac
  [[ $slices =~ ^[1-9][0-9]{0,3}$ ]] || refuse "--slices $(quoted "$slices")must be at least 1"
  [[ $slices == 1 || $capacity == queued* ]] ||
    refuse "--slices $slices needs --capacity queued or queued-spot: they come together or not at all"
  nodes=("$name")
  if ((slices > 1)); then # as Google numbers them
    nodes=()
    local i
    for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
  fi
  if [[ $action == fetch ]]; then
    [[ -n $folder && $folder != -* ]] || refuse 'say which run: --folder RUN'
    to=${to:-$(basename -- "$folder")}
  fi
  place=("--zone=$zone")
  [[ -z $project ]] || place+=("--project=$project")
  [[ $action == run ]] || return 0
  [[ $type =~ ^[a-z0-9]+-[0-9]+$ ]] ||
    refuse "--type $(quoted "$type")must be an accelerator type such as v5litepod-16"
  [[ -z $setup || -f $setup ]] || refuse "--setup $(quoted "$setup")is no file"
  ((${#gesso_arguments[@]})) || refuse 'say what to run after --, for instance: -- pretrain gpt-neo-125m'
  version=${version:-$(image_for "$type")}
  [[ $version =~ ^[a-z][-a-z0-9.]*$ ]] || refuse "--version $(quoted "$version")is no image's name"
}

image_for() { # Google's table of TPU software versions, for JAX
  case $1 in
  v6e-*) echo v2-alpha-tpuv6e ;;
  v5p-*) echo v2-alpha-tpuv5 ;;
  v5litepod-* | v5e-*) echo v2-alpha-tpuv5-lite ;;
  *) echo tpu-ubuntu2204-base ;;
  esac
}

vm() { # vm SLICE VERB ARGUMENTS...: a gcloud command about one slice
  act gcloud compute tpus tpu-vm "$2" "$1" "${place[@]}" "${@:3}"
}

queued() { act gcloud compute tpus queued-resources "$1" "$name" "${place[@]}" "${@:2}"; }

each_slice() { # each_slice FUNCTION ARGUMENTS...: with every slice as its first argument, at once
  local node pid failed=0 started=()
  if ((slices == 1)) || [[ $dry_run == yes ]]; then
    for node in "${nodes[@]}"; do "$1" "$node" "${@:2}" || return; done
    return
  fi
  for node in "${nodes[@]}"; do
    "$1" "$node" "${@:2}" &
    started+=("$!")
  done
  for pid in "${started[@]}"; do wait "$pid" || failed=$?; done
  return "$failed"
}

on_slice() { # on_slice SLICE all|NUMBER COMMAND...: over ssh, every word quoted for the shell there
  # A connection to a slice that was taken away must end by itself.
  vm "$1" ssh --quiet "--worker=$2" "--command=$(quoted "${@:3}")" -- \
    -o ServerAliveInterval=20 -o ServerAliveCountMax=6
}

on_workers() { # on_workers all|NUMBER COMMAND...: of every slice, or one of the first
  if [[ $1 == all ]]; then
    each_slice on_slice "$@"
  else
    on_slice "${nodes[0]}" "$@"
  fi
}

worker() { on_workers "$1" bash gesso-worker.sh "${@:2}"; }

# The state of the slices, or of the request for them: a word of Google's, or NONE. READY is all of
# them; of several states the first other one counts.
slice_state() {
  local state node
  if [[ $dry_run == yes ]]; then
    each_slice vm describe '--format=value(state)' >&2
    echo "${dry_state:-NONE}"
    return
  fi
  for node in "${nodes[@]}"; do
    state=$(described vm "$node" describe '--format=value(state)') || return
    [[ $state == READY ]] || break
  done
  if [[ $state == NONE && $capacity == queued* ]]; then
    state=$(described queued describe '--format=value(state.state)') || return
    # Granted, but the slice itself does not show yet.
    [[ $state != ACTIVE ]] || state=CREATING
  fi
  echo "$state"
}

described() { # what a describe prints; NONE where there is no such thing; any other failure ends us
  local answer errors
  errors=$(mktemp)
  if answer=$("$@" 2>"$errors"); then
    echo "${answer:-UNKNOWN}"
  elif grep -qiE 'NOT_FOUND|not found' "$errors"; then
    echo NONE
  else
    cat -- "$errors" >&2
    rm -f -- "$errors"
    say 'gcloud cannot say how the slice is (see above): is it logged in, and allowed to?'
    return 2
  fi
  rm -f -- "$errors"
}

create() {
  local spot=()
  [[ $capacity != *spot ]] || spot=(--spot)
  if [[ $capacity == queued* ]]; then
    local which=("--node-id=$name")
    ((slices == 1)) || which=("--node-count=$slices" "--node-prefix=$name")
    queued create "${which[@]}" "--accelerator-type=$type" "--runtime-version=$version" \
      ${spot[@]+"${spot[@]}"}
  else
    vm "$name" create "--accelerator-type=$type" "--version=$version" ${spot[@]+"${spot[@]}"}
  fi
}

delete() {
  if [[ $capacity == queued* ]]; then
    queued delete --force --quiet
  else
    vm "$name" delete --quiet
  fi
}

# Returns when the slice can be used: the one there is, or a new one.
ensure_slice() {
  local state told='' attempts=0
  while true; do
    state=$(slice_state) || exit 2
    [[ $state == "$told" ]] || say "slice $name: $state"
    told=$state
    case $state in
    READY) return ;;
    PREEMPTED | TERMINATED | SUSPENDED | FAILED) delete || say 'delete failed; will look again' ;;
    STOPPED) each_slice vm start || say 'start failed; will look again' ;;
    NONE)
      attempts=$((attempts + 1))
      ((attempts <= restarts + 1)) || give_up 'the slice could not be created'
      create || say "create failed (attempt $attempts): no capacity, or see gcloud's message above"
      [[ $dry_run == no ]] || dry_state=READY
      told=''
      continue_soon
      ;;
    *) continue_soon ;;
    esac
  done
}

continue_soon() { [[ $dry_run == yes ]] || sleep "$poll_seconds"; }

give_up() {
  say "given up: $*"
  exit 1
}

# Packs the checkout as it is now, with uncommitted changes, so that every start has the same code.
pack() {
  local root commit
  root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
  package=$(mktemp -d)
  trap 'rm -rf -- "$package"' EXIT
  # A commit of the work tree that touches neither the tree nor a branch; empty without changes.
  commit=$(git -C "$root" stash create)
  act git -C "$root" archive --format=tar.gz "--output=$package/gesso.tar.gz" "${commit:-HEAD}"
  act cp -- "$root/launch/tpu_worker.sh" "$package/gesso-worker.sh"
  [[ -z $setup ]] || act cp -- "$setup" "$package/gesso-setup.sh"
}

copy() { # copy SLICE FILES...: to every worker's home
  act gcloud compute tpus tpu-vm scp --quiet "${@:2}" "$1:" "${place[@]}" --worker=all
}

# Brings checkout and environment to every worker and starts the command there.
start() {
  local files=("$package/gesso.tar.gz" "$package/gesso-worker.sh")
  [[ -z $setup ]] || files+=("$package/gesso-setup.sh")
  each_slice copy "${files[@]}" &&
    worker all stop &&
    worker all unpack gesso.tar.gz &&
    { [[ -z $setup ]] || on_workers all bash gesso-setup.sh; } &&
    worker all install &&
    worker all start "${gesso_arguments[@]}"
}

job_state() { # of worker 0: running, ended N, lost, none; unreachable when ssh does not answer
  if [[ $dry_run == yes ]]; then
    worker 0 status >&2
    echo "$dry_job"
    return
  fi
  worker 0 status 2>/dev/null | tail -n 1 | grep -E '^(running|ended [0-9]+|lost|none)$' ||
    echo unreachable
}

run() {
  local starts=0 from='tail' state
  pack
  while true; do
    ensure_slice
    dry_job=none
    state=$(job_state)
    if [[ $state != running ]]; then
      ((starts <= restarts)) || give_up "$starts starts, and the command has not succeeded"
      starts=$((starts + 1))
      from='start'
      say "start $starts: gesso $(quoted "${gesso_arguments[@]}")"
      if ! start; then
        say 'the workers could not be started; looking at the slice again'
        continue_soon
        continue
      fi
    fi
    worker 0 follow "$from" || true
    from='tail'
    dry_job='ended 0'
    state=$(job_state)
    case $state in
    'ended 0')
      say 'done'
      [[ $when_done == keep ]] || delete
      [[ $when_done == delete ]] || say "the slice still costs: launch/tpu_pod.sh delete ends that"
      return
      ;;
    'ended 2') refuse 'gesso refused (see its message above): a restart would not help' ;;
    running) say 'lost the connection; attaching again' ;;
    *)
      say "the job is over before its end: $state; starting again"
      continue_soon
      ;;
    esac
  done
}

follow() { worker 0 follow tail; }

status() {
  say "slice $name: $(slice_state)"
  worker all status
}

stop() { worker all stop; }

fetch() { # over ssh, for scp would read meaning into the folder's name
  if [[ $dry_run == yes ]]; then
    quoted mkdir -p -- "$to"
    printf '\n%s | ' "$(worker 0 fetch "$folder")"
    quoted tar -xzf - -C "$to"
    echo
    return
  fi
  mkdir -p -- "$to"
  worker 0 fetch "$folder" | tar -xzf - -C "$to"
  say "$to/report.html"
}

main() {
  read_options "$@"
  check_options
  "$action"
}

main "$@"
