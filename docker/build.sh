#!/usr/bin/env bash
# Builds the container image without pulling anything, and runs what is in it.
#
#   docker/build.sh            # amd64, arm64 and arm (v7)
#   ARCHS=amd64 docker/build.sh
#
# The programs go to bin/image/linux-ARCH, the images to bin/image/*.tar, for
# docker load. As root it uses buildah (and installs it where apt-get can); where
# there is none it assembles the same root file system and runs that one. Without
# root it compiles, and says what it could not do.
set -euo pipefail
cd "$(dirname "$0")/.."

ARCHS=${ARCHS:-amd64 arm64 arm}
VERSION=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}
COMMIT=${COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || true)}
OWNER=65532:65532 # the user of the image
here=$(go env GOHOSTARCH)

say() { printf '%s\n' "$*"; }
fail() { printf 'image: %s\n' "$*" >&2; exit 1; }
verified() { say "  verified: $*"; }

work=$(mktemp -d)
bridge=
cleanup() {
  [ -z "$bridge" ] || kill -KILL "$bridge" 2>/dev/null || true
  [ -z "${mounted:-}" ] || box umount "$mounted" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT

# box is buildah with a storage of its own, so that nothing is left behind.
box() { buildah --storage-driver vfs --root "$work/storage" --runroot "$work/run" "$@"; }

# machine is the ELF machine of a program (ELF, e_machine).
machine() { od -An -tx1 -j18 -N2 "$1" | tr -d ' \n'; }

certificates=/etc/ssl/certs/ca-certificates.crt
[ -r "$certificates" ] || fail "$certificates is missing: install the package ca-certificates"

say "== programs"
for arch in $ARCHS; do
  case $arch in
    amd64) elf=3e00 ;;
    arm64) elf=b700 ;;
    arm) elf=2800 ;;
    *) fail "ARCHS: got $arch, want amd64, arm64 or arm" ;;
  esac
  out=bin/image/linux-$arch
  rm -rf "$out"
  mkdir -p "$out/data"
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=7 go build -trimpath \
    -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT" -o "$out/bridge" ./cmd/bridge ||
    fail "linux/$arch does not compile"
  cp "$certificates" "$out/"
  [ "$(machine "$out/bridge")" = $elf ] || fail "$out/bridge is for another machine: $(machine "$out/bridge"), want $elf"
  verified "linux/$arch compiles, $(($(stat -c %s "$out/bridge") / 1000000)) MB"
done

# run_in runs the program inside the root file system $1 as the image's user.
# With a private mount table the root is read-only, as compose.yaml has it, and
# only /data can be written.
private=no
run_in() {
  local root=$1
  shift
  if [ $private = yes ]; then
    exec env -i PATH="$PATH" "${environment[@]}" unshare --mount sh -c '
      mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount --bind "$2" "$1/data" || exit 125
      root=$1 owner=$3; shift 3
      exec chroot --userspec="$owner" "$root" "$@"' sh "$root" "$work/data" $OWNER "$@"
  fi
  exec env -i PATH="$PATH" "${environment[@]}" chroot --userspec=$OWNER "$root" "$@"
}

# free_port prints a port that nobody listens on.
free_port() {
  local port
  while port=$((RANDOM % 20000 + 20000)); do
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo $port
      return
    fi
  done
}

# check runs the image's commands in the root file system $1.
check() {
  local root=$1 health
  [ "$(stat -c %u:%g "$root/data")" = $OWNER ] || fail "/data belongs to $(stat -c %u:%g "$root/data"), want $OWNER"
  [ -s "$root/etc/ssl/certs/ca-certificates.crt" ] || fail "the CA certificates are missing"
  verified "/data belongs to $OWNER, CA certificates are there, and nothing else: $(cd "$root" && find . -type f | LC_ALL=C sort | tr '\n' ' ')"

  install -d -m 755 -o 65532 -g 65532 "$work/data"
  environment=()
  if (run_in "$root" /bridge version) >/dev/null 2>&1 && unshare --mount true 2>/dev/null; then
    private=yes
    (run_in "$root" /bridge version) >/dev/null 2>&1 || private=no
  fi
  local version
  version=$( (run_in "$root" /bridge version) ) || fail "version does not run"
  case $version in
    *"$VERSION"*) verified "version: $version" ;;
    *) fail "version says \"$version\", want $VERSION" ;;
  esac

  # Alone on loopback: its own broker, no mDNS.
  health=127.0.0.1:$(free_port)
  environment=(
    RESONATE_DATA_DIR=/data RESONATE_HTTP_LISTEN=$health RESONATE_SERVER_LISTEN=127.0.0.1:0
    RESONATE_MQTT_EMBEDDED_LISTEN=127.0.0.1:0 RESONATE_DISCOVERY_ENABLED=false
  )
  if (run_in "$root" /bridge healthcheck) >/dev/null 2>&1; then
    fail "healthcheck is content although nothing runs"
  fi
  (run_in "$root" /bridge run) >"$work/log" 2>&1 &
  bridge=$!
  local tries=0 answer
  until answer=$( (run_in "$root" /bridge healthcheck) 2>&1); do
    tries=$((tries + 1))
    if [ $tries -gt 50 ] || ! kill -0 $bridge 2>/dev/null; then
      cat "$work/log" >&2
      fail "run is not healthy: $answer"
    fi
    sleep 0.2
  done
  verified "healthcheck: $answer"
  local user
  user=$(awk '$1 == "Uid:" { print $2 }' "/proc/$bridge/status")
  [ "$user" = 65532 ] || fail "run has the user id $user, want 65532"
  if [ $private = yes ]; then
    awk '$5 == "/" && $6 ~ /(^|,)ro(,|$)/ { ro = 1 } END { exit !ro }' "/proc/$bridge/mountinfo" || fail "the root of run is not read-only"
    verified "run works as user 65532 with a read-only root"
  else
    verified "run works as user 65532 (not verified: a read-only root, which needs mounts that are not allowed here)"
  fi
  local began=$SECONDS status=0
  kill -TERM $bridge
  wait $bridge || status=$?
  bridge=
  [ $status = 0 ] || { cat "$work/log" >&2; fail "run ended with status $status after SIGTERM, want 0"; }
  [ $((SECONDS - began)) -le 5 ] || fail "run took $((SECONDS - began)) s to end after SIGTERM, want at most 5"
  local data=$root/data
  [ $private = no ] || data=$work/data
  [ "$(stat -c %a:%u "$data/identity.key")" = 600:65532 ] || fail "identity.key is not a file of user 65532 with mode 600"
  verified "SIGTERM ends it with status 0; its identity is in /data, mode 600"
}

if [ "$(id -u)" != 0 ]; then
  say "== no image: that needs root, for chroot and for files of user ${OWNER%:*}."
  say "The programs are in bin/image. Docker can build the image from them:"
  say "  docker build -f docker/Dockerfile --build-arg STAGE=prebuilt -t resonate-bridge ."
  exit 0
fi

if ! command -v buildah >/dev/null && command -v apt-get >/dev/null; then
  say "== installing buildah"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah; } >"$work/apt" 2>&1 ||
    say "  buildah can't be installed here: $(tail -n 1 "$work/apt")"
fi

if command -v buildah >/dev/null; then
  say "== images, by $(buildah --version | cut -d' ' -f1-3), from docker/Dockerfile"
  for arch in $ARCHS; do
    image=resonate-bridge:$VERSION-$arch variant=
    [ $arch != arm ] || variant=v7
    box build --isolation chroot --pull-never --arch "$arch" --variant "$variant" --ignorefile docker/Dockerfile.dockerignore --format docker \
      --build-arg STAGE=prebuilt --build-arg TARGETARCH="$arch" --build-arg VERSION="$VERSION" --build-arg COMMIT="$COMMIT" \
      -f docker/Dockerfile -t "$image" . >"$work/build" 2>&1 || { cat "$work/build" >&2; fail "the image for $arch can't be built"; }
    rm -f "bin/image/resonate-bridge-$arch.tar"
    box push --quiet "$image" "docker-archive:bin/image/resonate-bridge-$arch.tar:resonate-bridge:$VERSION" >"$work/build" 2>&1 ||
      { cat "$work/build" >&2; fail "the image for $arch can't be saved"; }
    config=$(box inspect --type image --format '{{.OCIv1.Architecture}}{{.OCIv1.Variant}} user={{.OCIv1.Config.User}} entrypoint={{.OCIv1.Config.Entrypoint}} cmd={{.OCIv1.Config.Cmd}} health={{.Docker.Config.Healthcheck.Test}}' "$image")
    [ "$config" = "$arch$variant user=$OWNER entrypoint=[/bridge] cmd=[run] health=[CMD /bridge healthcheck]" ] || fail "the image for $arch is not as the Dockerfile says: $config"
    verified "bin/image/resonate-bridge-$arch.tar, $(($(stat -c %s "bin/image/resonate-bridge-$arch.tar") / 1000000)) MB: $config"
  done
  case " $ARCHS " in *" $here "*) ;; *) say "== nothing was run: no image for $here was asked for"; exit 0 ;; esac
  say "== inside the image for $here"
  mounted=$(box from --pull-never "resonate-bridge:$VERSION-$here")
  check "$(box mount "$mounted")"
else
  case " $ARCHS " in *" $here "*) ;; *) say "== nothing was run: no program for $here was asked for"; exit 0 ;; esac
  say "== no image: there is no buildah. Inside the root file system that docker/Dockerfile describes"
  root=$work/root
  install -D -m 755 "bin/image/linux-$here/bridge" "$root/bridge"
  install -D -m 644 "bin/image/linux-$here/ca-certificates.crt" "$root/etc/ssl/certs/ca-certificates.crt"
  install -d -m 755 -o 65532 -g 65532 "$root/data"
  check "$root"
fi
say "== done"
