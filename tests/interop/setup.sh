#!/usr/bin/env bash
# Installs other people's programs into .interop at the top of the checkout: the
# real peers that "make interop" drives, or, with the argument "original", what
# "make original" compares us with. What can't be installed is reported at the
# end, loudly, and makes this script fail; the tests then skip it and say so.
#
# SENDSPIN_GO=FOLDER takes sendspin-go from a checkout of it, where the Go module
# proxy does not have it.
set -uo pipefail
what=${1:-peers}
cd "$(dirname "$0")/../.."
dir=$PWD/.interop
mkdir -p "$dir"
missing=()

need() { # need COMMAND DEBIAN_PACKAGE
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    [ -e "$dir/.apt-updated" ] || { apt-get update -qq && touch "$dir/.apt-updated"; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
  fi
  command -v "$1" >/dev/null || missing+=("$1 (Debian package $2)")
}

python313() { # prints a Python of 3.12 or newer
  for p in python3.13 python3.14 python3.12 python3; do
    command -v "$p" >/dev/null && "$p" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { command -v "$p"; return; }
  done
  if command -v pyenv >/dev/null; then
    for v in 3.13 3.14 3.12; do
      for p in "$(pyenv root)/versions/$v".*/bin/python; do
        [ -x "$p" ] && { echo "$p"; return; }
      done
    done
  fi
  return 1
}

venv() { # venv NAME REQUIREMENT
  [ -x "$dir/$1/bin/python" ] || "$python" -m venv "$dir/$1" || return
  "$dir/$1/bin/pip" install --quiet --disable-pip-version-check "$2" || return
  echo "installed $2"
}

sendspin_go() { # sendspin_go VERSION
  local dir=$dir/sendspin-go from=${SENDSPIN_GO:-} version=$1
  if [ -n "$from" ]; then
    version=$(git -C "$from" describe --tags --always) || return
  else
    from=$(cd / && go mod download -json "github.com/Sendspin/sendspin-go@$version" 2>/dev/null | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
    [ -n "$from" ] || return
  fi
  rm -rf "$dir" && cp -R "$from" "$dir" && chmod -R u+w "$dir" && echo "$version" >"$dir.version" && echo "installed sendspin-go $version"
}

if [ "$what" = peers ]; then
  need mosquitto mosquitto
  need ffmpeg ffmpeg
  need ip iproute2
  need node nodejs
  need npm npm
  need chromium chromium
  if command -v npm >/dev/null; then
    (cd "$dir" && npm install --silent --no-audit --no-fund --prefix "$dir" @sendspin/sendspin-js@3.2.1 ws@8) \
      && echo "installed @sendspin/sendspin-js 3.2.1" || missing+=("@sendspin/sendspin-js 3.2.1 (npm)")
  fi
fi
if [ "$what" = original ]; then
  need ip iproute2
  need gcc gcc
  need pkg-config pkg-config
  if ! pkg-config --exists opus opusfile && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libopus-dev libopusfile-dev >/dev/null
  fi
  pkg-config --exists opus opusfile || missing+=("libopus and libopusfile, which sendspin-go needs (Debian packages libopus-dev, libopusfile-dev)")
  sendspin_go v1.8.1 || missing+=("sendspin-go v1.8.1 (the Go module proxy does not serve github.com/Sendspin/sendspin-go; SENDSPIN_GO=FOLDER takes a checkout)")
fi
if python=$(python313); then
  venv aioresonate-0.13.2 aioresonate==0.13.2 || missing+=("aioresonate 0.13.2 (PyPI)")
  venv aiosendspin-10.2.1 'aiosendspin[server]==10.2.1' || missing+=("aiosendspin 10.2.1 (PyPI)")
  if [ "$what" = peers ]; then
    venv aiosendspin-6.1.1 'aiosendspin[server]==6.1.1' || missing+=("aiosendspin 6.1.1 (PyPI)")
    venv aiosendspin-9.1.1 'aiosendspin[server]==9.1.1' || missing+=("aiosendspin 9.1.1 (PyPI)")
    venv aiosendspin-2.0.1 aiosendspin==2.0.1 || missing+=("aiosendspin 2.0.1 (PyPI)")
    case $("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') in
      3.13) venv homeassistant-2025.2.5 homeassistant==2025.2.5 || missing+=("homeassistant 2025.2.5 (PyPI)") ;;
      *) missing+=("homeassistant 2025.2.5, which needs Python 3.13") ;;
    esac
  fi
else
  missing+=("Python 3.12 or newer, for aiosendspin and aioresonate")
fi

if [ ${#missing[@]} -gt 0 ]; then
  printf '\nNOT INSTALLED, these will be skipped:\n' >&2
  printf '  - %s\n' "${missing[@]}" >&2
  exit 1
fi
echo "everything is installed in $dir"
