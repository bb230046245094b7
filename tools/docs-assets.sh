#!/usr/bin/env bash
# The scripts that the docs site serves itself, so that its pages ask nobody else for anything: MathJax and the widget manager
set -eu
cd "$(dirname "$0")/.."
out=docs/_static
[ -e $out/embed-amd.js ] && exit 0
mkdir -p $out
command -v npm >/dev/null || { echo "no npm: the site will show formulas as TeX and widgets as pictures"; exit 0; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
(
  cd "$tmp"
  npm pack --silent mathjax@3.2.2 requirejs@2.3.8 @jupyter-widgets/html-manager@1.0.15 >/dev/null
  for archive in *.tgz; do mkdir "${archive%.tgz}"; tar xzf "$archive" -C "${archive%.tgz}"; done
)
cp "$tmp"/mathjax-*/package/es5/tex-svg.js "$tmp"/requirejs-*/package/require.js $out/
cp "$tmp"/jupyter-widgets-html-manager-*/package/dist/embed-amd.js $out/
