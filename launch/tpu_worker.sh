#!/usr/bin/env bash
# The half of tpu_pod.sh that runs on a worker: unpack, install, start, follow, status, stop.
# The job belongs to no ssh session, so that a dropped connection does not end it.
set -euo pipefail

checkout=$HOME/gesso # replaced by every delivery; its virtual environment is kept
job=$HOME/gesso-job  # where the command runs: relative run folders, log.txt, pid and status
stop_seconds=120     # a run saves on SIGTERM; after this long it is killed

main() {
  local action=${1:-help}
  shift || true
  case $action in
  unpack | install | start | follow | status | stop | fetch | job) "$action" "$@" ;;
  *)
    echo 'usage: tpu_worker.sh unpack ARCHIVE | install | start GESSO-ARGUMENTS... |' \
      'follow start|tail | status | stop | fetch FOLDER (tpu_pod.sh calls it on every worker)' >&2
    return 2
    ;;
  esac
}

unpack() {
  local archive=$1 fresh=$checkout.fresh
  rm -rf -- "$fresh"
  mkdir -p -- "$fresh"
  tar -xzf "$archive" -C "$fresh"
  if [[ -d $checkout/.venv ]]; then
    mv -- "$checkout/.venv" "$fresh/.venv"
  fi
  rm -rf -- "$checkout"
  mv -- "$fresh" "$checkout"
}

install() {
  cd -- "$checkout"
  local stamp
  stamp=$(cat pyproject.toml constraints/*.txt | sha256sum)
  if [[ -f .venv/installed-tpu && $(<.venv/installed-tpu) == "$stamp" ]]; then
    return
  fi
  # The images of TPU v4 to v6e are Ubuntu 22.04, whose python3 is 3.10.
  if ! command -v python3.11 >/dev/null && ! command -v python3.12 >/dev/null; then
    sudo apt-get update -qq
    sudo apt-get install -y -qq python3.11 python3.11-venv
  fi
  bash launch/venv.sh .venv tpu
  printf '%s\n' "$stamp" >.venv/installed-tpu
}

start() {
  mkdir -p -- "$job"
  if alive; then
    echo 'already running' >&2
    return
  fi
  rm -f -- "$job/status"
  # Where this start's output begins, for follow.
  wc -l 2>/dev/null <"$job/log.txt" >"$job/log_start" || echo 0 >"$job/log_start"
  {
    printf '%s gesso' "$(date '+%F %T')"
    printf ' %q' "$@"
    echo
  } >>"$job/log.txt"
  # A session of its own, no stream of ours, and deaf to hang-ups from its first moment: nohup alone
  # leaves a gap in which the end of the ssh session kills it.
  trap '' HUP
  setsid bash "${BASH_SOURCE[0]}" job "$@" >>"$job/log.txt" 2>&1 </dev/null &
  printf '%s\n' "$!" >"$job/pid"
}

job() { # what start leaves running
  cd -- "$job"
  local ended=0
  if [[ -f $HOME/gesso-env.sh ]]; then # variables that a --setup script left for us
    # shellcheck source=/dev/null
    source "$HOME/gesso-env.sh"
  fi
  "$checkout/.venv/bin/gesso" "$@" || ended=$?
  printf '%s\n' "$ended" >"$job/status.part"
  mv -- "$job/status.part" "$job/status"
}

alive() {
  local pid
  pid=$(cat -- "$job/pid" 2>/dev/null) || return 1
  # After a reboot the number may be another program's.
  kill -0 "$pid" 2>/dev/null && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q 'job '
}

follow() {
  local from=20
  if [[ ${1:-start} == start ]]; then
    from=+$(($(cat -- "$job/log_start") + 1))
  fi
  tail -n "$from" -s 0.2 -F --pid="$(cat -- "$job/pid")" -- "$job/log.txt" 2>/dev/null || true
}

status() { # "running", "ended N" with gesso's exit status, "lost" (killed) or "none"
  if alive; then
    echo running
  elif [[ -f $job/status ]]; then
    printf 'ended %s\n' "$(<"$job/status")"
  elif [[ -f $job/pid ]]; then
    echo lost
  else
    echo none
  fi
}

stop() {
  alive || return 0
  local pid waited=0
  pid=$(<"$job/pid")
  # The session's process group: gesso and what it started.
  kill -TERM -- "-$pid" 2>/dev/null || true
  while alive && ((waited < stop_seconds)); do
    sleep 1
    waited=$((waited + 1))
  done
  kill -KILL -- "-$pid" 2>/dev/null || true
}

fetch() { # a run folder's report, as of now, and its records: a compressed tar on stdout
  cd -- "$job"
  "$checkout/.venv/bin/gesso" report "$1" >&2 || echo 'no report could be written' >&2
  tar -czf - -C "$1" --exclude=./checkpoints --exclude=./export --exclude=./run.lock .
}

main "$@"
