#!/usr/bin/env bash
# Unpack WordNet 3.0 from Debian's package `wordnet-base` into a folder, without installing it.
#
#   scripts/get_wordnet.sh FOLDER
#
# Elsewhere than on Debian and Ubuntu: python -m nltk.downloader wordnet
set -euo pipefail
target=$1
command -v apt-get >/dev/null && command -v dpkg >/dev/null || {
  echo "WordNet is unpacked from a Debian package and this is no Debian: try python -m nltk.downloader wordnet" >&2
  exit 1
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
(cd "$folder" && (apt-get download -q wordnet-base || { apt-get update -q && apt-get download -q wordnet-base; }))
dpkg -x "$folder"/wordnet-base_*.deb "$folder/unpacked"
mkdir -p "$(dirname "$target")"
cp -r "$folder/unpacked/usr/share/wordnet" "$target.tmp"
mv "$target.tmp" "$target"
