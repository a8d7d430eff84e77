#!/usr/bin/env bash
# Takes one bare virtual machine (Debian 12, Ubuntu 22.04 or newer) to where it trains: Python, the
# pinned environment for its devices, a shared disk, and a service that outlives reboots.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/vm_bootstrap.sh [options] [-- GESSO-ARGUMENTS...]

  Installs Python 3.11 or 3.12 if there is none and the versions of constraints/ into .venv of this
  checkout, and asks `gesso doctor`. With arguments for gesso it also installs a systemd service that
  runs them, again after a failure, a preemption or a reboot, until they have succeeded: the same
  command continues the run. Every step is skipped where it is done already.

  --devices KIND       cpu, cuda, tpu or auto (default): what this machine has
  --extras LIST        more optional dependencies, comma-separated, such as sweep,remote
  --nfs SERVER:/SHARE  a shared disk, mounted at --mount now and after every boot
  --mount FOLDER       where (default /shared)
  --service NAME       of the service (default: gesso)
  --folder FOLDER      where the command runs, and its log (default: ~/gesso-job)
  --dry-run            print every command instead of running it

Run it as the user the service shall run as; what needs root is done with sudo.

Example:
  launch/vm_bootstrap.sh --nfs 10.0.0.2:/runs -- pretrain gpt-neo-125m --folder /shared/runs/neo
  journalctl --unit gesso --follow            # its log; `sudo systemctl stop gesso` ends it

Exit status: 0 done; 1 a step failed; 2 the request is wrong.
TEXT
}

refuse() {
  printf 'vm_bootstrap.sh: %s (--help explains)\n' "$*" >&2
  exit 2
}

say() { printf '%s vm_bootstrap: %s\n' "$(date +%T)" "$*" >&2; }

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
  devices=auto extras='' nfs='' mount=/shared service=gesso folder=$HOME/gesso-job dry_run=no
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
    --devices | --extras | --nfs | --mount | --service | --folder)
      (($# > 1)) || refuse "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    *) refuse "unknown option $(quoted "$1")" ;;
    esac
  done
}

# These stand in files of systemd and in /etc/fstab, which have quoting of their own: plain names.
check_options() {
  case $devices in
  auto | cpu | cuda | tpu) ;;
  *) refuse "--devices $(quoted "$devices")must be auto, cpu, cuda or tpu" ;;
  esac
  [[ $extras =~ ^([a-z]+(,[a-z]+)*)?$ ]] ||
    refuse "--extras $(quoted "$extras")must be names such as sweep,remote"
  [[ -z $nfs || $nfs =~ ^[A-Za-z0-9][-A-Za-z0-9.]*:/[-A-Za-z0-9_./]*$ ]] ||
    refuse "--nfs $(quoted "$nfs")must be SERVER:/SHARE"
  [[ $service =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    refuse "--service $(quoted "$service")must be lower-case letters, digits and -"
  local each
  for each in mount folder; do
    [[ ${!each} =~ ^/[-A-Za-z0-9_./]+$ ]] ||
      refuse "--$each $(quoted "${!each}")must be a whole path of letters, digits, ., _, - and /"
  done
  checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
  [[ $checkout =~ ^/[-A-Za-z0-9_./]+$ ]] ||
    refuse "the checkout is at $(quoted "$checkout"): move it to a path without spaces and signs"
}

found_devices() { # what this machine has
  if [[ $devices != auto ]]; then
    echo "$devices"
  elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    echo cuda
  elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
    echo tpu
  else
    echo cpu
  fi
}

install_python() {
  local name
  for name in python3.12 python3.11; do
    if command -v "$name" >/dev/null && "$name" -c 'import venv, ensurepip' 2>/dev/null; then
      return
    fi
  done
  act sudo apt-get update -qq
  for name in python3.12 python3.11; do # whichever this release has
    if act sudo apt-get install -y -qq "$name" "$name-venv"; then
      return
    fi
  done
  say 'this release has neither Python 3.11 nor 3.12: install one, with venv, and run this again'
  return 1
}

mount_disk() {
  [[ -n $nfs ]] || return 0
  if ! mountpoint -q -- "$mount" || [[ $dry_run == yes ]]; then
    command -v mount.nfs >/dev/null || act sudo apt-get install -y -qq nfs-common
    act sudo mkdir -p -- "$mount"
    # nofail: a machine that cannot reach the disk must still boot, so that one can look at it.
    grep -qsF -- "$nfs $mount nfs" /etc/fstab ||
      write_root /etc/fstab -a "$nfs $mount nfs defaults,nofail,_netdev 0 0"
    act sudo mount -- "$mount"
  fi
}

install_environment() {
  local kind=$1 wanted
  wanted=$kind
  [[ $kind != cpu ]] || wanted=''
  wanted=$wanted,$extras
  wanted=${wanted#,}
  act bash "$checkout/launch/venv.sh" "$checkout/.venv" "${wanted%,}"
}

write_root() { # write_root FILE [-a] TEXT: as root, replacing or appending
  local file=$1 text=${*: -1} append=()
  [[ $2 != -a ]] || append=(-a)
  if [[ $dry_run == yes ]]; then
    printf 'printf %%s\\\\n %q | ' "$text"
    quoted sudo tee ${append[@]+"${append[@]}"} -- "$file"
    echo
  else
    printf '%s\n' "$text" | sudo tee ${append[@]+"${append[@]}"} -- "$file" >/dev/null
  fi
}

install_service() {
  local needs=''
  [[ -z $nfs ]] || needs="RequiresMountsFor=$mount"
  act mkdir -p -- "$folder"
  # The words of the command stand in a script: a shell's quoting, not systemd's.
  local script
  script=$(printf '#!/usr/bin/env bash\nexec %s\n' "$(quoted "$checkout/.venv/bin/gesso" "${gesso_arguments[@]}")")
  if [[ $dry_run == yes ]]; then
    printf 'printf %%s\\\\n %q > %q\n' "$script" "$folder/$service.sh"
  else
    printf '%s\n' "$script" >"$folder/$service.sh"
  fi
  # 2: the request is wrong, which a restart does not mend. SIGTERM lets the run save.
  write_root "/etc/systemd/system/$service.service" "[Unit]
Description=gesso, as launch/vm_bootstrap.sh installed it
Wants=network-online.target
After=network-online.target remote-fs.target
$needs
StartLimitIntervalSec=0

[Service]
User=$(id -un)
WorkingDirectory=$folder
ExecStart=/usr/bin/env bash $folder/$service.sh
Restart=on-failure
RestartPreventExitStatus=2
RestartSec=15
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec=180

[Install]
WantedBy=multi-user.target"
  act sudo systemctl daemon-reload
  act sudo systemctl enable "$service"
  act sudo systemctl restart "$service"
  [[ $dry_run == yes ]] || say "started; journalctl --unit $service --follow shows its log"
}

main() {
  read_options "$@"
  check_options
  local kind
  kind=$(found_devices)
  say "devices: $kind"
  install_python
  mount_disk
  install_environment "$kind"
  if ! act "$checkout/.venv/bin/gesso" doctor; then
    say 'gesso doctor found what would fail (see above): nothing was started'
    return 1
  fi
  ((${#gesso_arguments[@]} == 0)) || install_service
}

main "$@"
