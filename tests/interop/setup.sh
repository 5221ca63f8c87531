#!/usr/bin/env bash
# Installs the real peers that "make interop" drives, into .interop at the top
# of the checkout. What can't be installed is reported at the end, loudly, and
# makes this script fail; the tests then skip that peer and say so.
set -uo pipefail
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

need mosquitto mosquitto
need ip iproute2
need node nodejs
need npm npm

if command -v npm >/dev/null; then
  (cd "$dir" && npm install --silent --no-audit --no-fund --prefix "$dir" @sendspin/sendspin-js@3.2.1 ws@8) \
    && echo "installed @sendspin/sendspin-js 3.2.1" || missing+=("@sendspin/sendspin-js 3.2.1 (npm)")
fi
if python=$(python313); then
  venv aiosendspin-6.1.1 aiosendspin==6.1.1 || missing+=("aiosendspin 6.1.1 (PyPI)")
  venv aiosendspin-2.0.1 aiosendspin==2.0.1 || missing+=("aiosendspin 2.0.1 (PyPI)")
  venv aioresonate-0.13.2 aioresonate==0.13.2 || missing+=("aioresonate 0.13.2 (PyPI)")
  case $("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') in
    3.13) venv homeassistant-2025.2.5 homeassistant==2025.2.5 || missing+=("homeassistant 2025.2.5 (PyPI)") ;;
    *) missing+=("homeassistant 2025.2.5, which needs Python 3.13") ;;
  esac
else
  missing+=("Python 3.12 or newer, for aiosendspin and aioresonate")
fi

if [ ${#missing[@]} -gt 0 ]; then
  printf '\nNOT INSTALLED, these peers will be skipped:\n' >&2
  printf '  - %s\n' "${missing[@]}" >&2
  exit 1
fi
echo "all real peers are installed in $dir"
