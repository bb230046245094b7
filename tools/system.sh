#!/usr/bin/env bash
# The two programs that pip can't bring: a browser for the browser tests, npm for the scripts of the docs site.
# Installed where we may; without them the tests that need them are skipped and say why.
# The same holds for the photographs of Fashion-MNIST, which Debian has as a package.
may() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
if [ ! -e /usr/share/datasets/fashion-mnist ] && may; then
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends dataset-fashion-mnist; } >/dev/null 2>&1 && echo "Fashion-MNIST installed"
fi

packages=""
command -v chromium >/dev/null || command -v google-chrome >/dev/null || packages="chromium"
command -v npm >/dev/null || [ -e docs/_static/embed-amd.js ] || packages="$packages npm"
if [ -z "$packages" ]; then echo "browser and npm are here"; exit 0; fi

if may; then
  echo "installing $packages"
  apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $packages >/dev/null && exit 0
fi
echo "missing, and not installed here: $packages (on Debian: apt-get install $packages); the tests that need them will be skipped"
