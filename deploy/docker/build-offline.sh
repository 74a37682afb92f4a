#!/usr/bin/env bash
# Build FedLens' image where no image registry can be reached: the base image is made from Debian's packages.
# Needs Debian's package mirror and a Python package index; podman, buildah and debootstrap; and root, for debootstrap.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: deploy/docker/build-offline.sh [options]
  --tag NAME          the image's name (localhost/fedlens:cpu)
  --target NAME       fedlens or jupyter (fedlens)
  --torch BACKEND     cpu, cu126, cu128, cu130; none: PyTorch as the package index has it (cpu)
  --wheels FOLDER     wheels that count beside the package index; of PyTorch and torchvision both or none
  --versions FILE     name==version lines that count instead of those in constraints.txt, such as the wheels'
  --ca FILE           certificates that the build trusts (/etc/ssl/certs/ca-certificates.crt)
  --base NAME         the base image; made if there is none of that name (localhost/python:3.11-slim-bookworm)
  --mirror URL        a mirror of Debian (debootstrap's own)
  -h, --help
Proxies, and CONTAINERS_CONF for podman, are taken from the environment; containers.conf beside this script is for
machines without systemd.
USAGE
}

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tag=localhost/fedlens:cpu target=fedlens torch=cpu wheels='' versions='' mirror=''
ca=/etc/ssl/certs/ca-certificates.crt base=localhost/python:3.11-slim-bookworm

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --tag | --target | --torch | --wheels | --versions | --ca | --base | --mirror)
      [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done

for tool in podman debootstrap; do
  command -v "$tool" >/dev/null || {
    echo "$tool is missing: apt-get install --no-install-recommends podman buildah runc debootstrap netavark" \
      "aardvark-dns iptables" >&2
    exit 1
  }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# As the official python image has it: python and pip in /usr/local/bin.
make_base() {
  local folder=$work/base
  [ "$(id -u)" = 0 ] || { echo "debootstrap needs root: run this with sudo" >&2; exit 1; }
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$folder" ${mirror:+"$mirror"}
  chroot "$folder" python3 -m venv /usr/local
  rm -rf "$folder"/var/cache/apt/* "$folder"/var/lib/apt/lists/*
  tar -C "$folder" -c . | podman import \
    --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' - "$base"
}

podman image exists "$base" || make_base

inside=/etc/ssl/certs/ca-certificates.crt
build=(
  # podman's own format has no health check
  --format docker --file "$here/Dockerfile" --target "$target" --tag "$tag"
  --build-arg "BASE_IMAGE=$base" --build-arg "TORCH=${torch#none}"
  --build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/pyproject.toml")"
  --build-arg "REVISION=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)"
  --volume "$ca:$inside:ro" --build-arg "PIP_CERT=$inside" --build-arg "SSL_CERT_FILE=$inside"
)
if [ -n "$wheels" ]; then
  build+=(--volume "$(realpath "$wheels"):/wheels:ro" --build-arg UV_FIND_LINKS=/wheels)
fi
if [ -n "$versions" ]; then
  names=$(cut -d= -f1 "$versions" | paste -sd '|')
  { grep -vE "^($names)==" "$root/constraints.txt"; cat "$versions"; } >"$work/versions.txt"
  build+=(--volume "$work/versions.txt:/versions.txt:ro" --build-arg CONSTRAINTS=/versions.txt)
fi
podman build "${build[@]}" "$root"
podman image inspect --format '{{index .RepoTags 0}}: {{.Size}} bytes' "$tag"
