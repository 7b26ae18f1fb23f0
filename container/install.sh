#!/usr/bin/env bash
# Installs pause_megatron and what it needs on a bare Debian 12 or 13, as root: the recipes in this folder run it.
#
#   container/install.sh            in a checkout; installs into its .venv
#
# Environment: PIP_EXTRA_INDEX_URL=ADDRESS takes PyTorch from there, for example a build for CPUs (docs/installation.md).
set -euo pipefail
cd "$(dirname "$0")/.."

# gcc and Python's headers: Triton compiles its launchers with them (pretrain --compile-layers).
# openmpi-bin: mpirun and the library that mpi4py loads. git: the version of a checkout in run.json.
packages=(python3 python3-venv python3-dev gcc make git ca-certificates openmpi-bin)

export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet
apt-get install --quiet --quiet --yes --no-install-recommends "${packages[@]}" >/dev/null
rm -rf /var/lib/apt/lists/*

export PIP_NO_CACHE_DIR=1
make install
.venv/bin/pause-megatron --version
