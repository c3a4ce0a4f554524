// Written by scripts/libtorch.sh: libtorch 2.11.0 in /root/.cache/onestep/libtorch-2.11.0/torch, 451209129 bytes of 1795928335
