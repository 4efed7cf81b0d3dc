# shellcheck shell=bash
# Programs that are needed: installed as root on Debian, named in one line otherwise. Sourced; needs `die` and `say`.

# package_of COMMAND: the Debian package of a command; empty when Debian's is of no use.
package_of() {
  case $1 in
    bridge-plugin) echo containernetworking-plugins ;;
    containerd | runc | buildah | mmdebstrap | iptables | git | jq | gcc | curl | python3 | python3-venv | openssh-client) echo "$1" ;;
    static-libc) echo libc6-dev ;;
    initdb) echo postgresql ;;
    ip) echo iproute2 ;;
    nft) echo nftables ;;
    sysctl) echo procps ;;
    ssh) echo openssh-client ;;
    *) echo "" ;;
  esac
}

# have COMMAND
have() {
  case $1 in
    bridge-plugin) [ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] ;;
    static-libc) [ -n "$(compgen -G '/usr/lib*/libc.a')$(compgen -G '/usr/lib/*/libc.a')" ] ;;
    python3-venv) python3 -c 'import venv, ensurepip' 2>/dev/null ;;
    initdb) command -v initdb >/dev/null || [ -n "$(compgen -G '/usr/lib/postgresql/*/bin/initdb')" ] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# need COMMAND...: all of them, or an end with one line that names what is missing.
need() {
  local c p missing=() packages=() unknown=()
  for c in "$@"; do
    if ! have "$c"; then
      missing+=("$c")
      p=$(package_of "$c")
      if [ -n "$p" ]; then packages+=("$p"); else unknown+=("$c"); fi
    fi
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ ${#unknown[@]} -gt 0 ]; then
    die "missing: ${unknown[*]} (go: 1.25 or newer, cargo: Rust with rustup); install it and try again"
  fi
  if [ "$(id -u)" != 0 ] || ! [ -e /etc/debian_version ]; then
    die "missing: ${missing[*]} (on Debian: apt-get install ${packages[*]}); install it or run this as root on Debian"
  fi
  say "installing ${packages[*]}"
  local log; log=$(mktemp)
  if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2; rm -f "$log"
    die "apt-get could not install ${packages[*]}"
  fi
  rm -f "$log"
}
