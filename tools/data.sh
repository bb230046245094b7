#!/usr/bin/env bash
# Real images for `protolab walk --data fashion-mnist`: Debian's package where we may install it, else torchvision's download into .data
set -eu
cd "$(dirname "$0")/.."
package=dataset-fashion-mnist
here=/usr/share/datasets/fashion-mnist
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"

if [ -e $here/train-images-idx3-ubyte.gz ]; then
  echo "Fashion-MNIST is here already: $here (Debian's package $package)"
elif command -v apt-get >/dev/null && $as_root apt-get update -q >/dev/null 2>&1 && $as_root apt-get install -qy --no-install-recommends $package; then
  echo "Fashion-MNIST installed by apt-get: $here (Debian's package $package)"
else
  echo "no Debian package here, so torchvision downloads Fashion-MNIST into .data"
  python -c "from torchvision.datasets import FashionMNIST as F; [F('.data', train=t, download=True) for t in (True, False)]"
fi
