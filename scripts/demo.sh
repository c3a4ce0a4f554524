#!/usr/bin/env bash
# The main job in a few minutes: train a consistency model from scratch on the embedded emoji, then draw in one and in two
# steps, and once more with the model that ships.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${DEMO:-demo}
if [ -e "$out" ]; then
  old=$out-$(date +%Y%m%d-%H%M%S)
  echo "moving the last demo to $old" >&2
  mv "$out" "$old"
fi
mkdir "$out"
bin/onestep train --method ct --data emoji --resolution 16 --out "$out/run" --steps 2500 --duration 2m --batch 64 --seed 1
bin/onestep sample --model "$out/run" --steps 1 --n 64 --seed 1 --out "$out/trained-1step.png" >/dev/null
bin/onestep sample --model "$out/run" --steps 2 --n 64 --seed 1 --out "$out/trained-2step.png" >/dev/null
bin/onestep sample --model builtin --steps 1 --n 64 --seed 1 --out "$out/builtin-1step.png" >/dev/null
echo
echo "The pictures are in $(cd "$out" && pwd):"
echo "  trained-1step.png   the model that was just trained, one network evaluation an image"
echo "  trained-2step.png   the same with two"
echo "  builtin-1step.png   the model that ships with onestep, one evaluation"
