#!/usr/bin/env bash
# The main job in a few minutes: train a small consistency model from scratch on the embedded emoji, then draw with it in
# one and in two steps, and once with each of the models that ship with onestep. `make demo` builds the tool first.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${DEMO:-demo}
if [ -e "$out" ]; then
  old=$out-$(date +%Y%m%d-%H%M%S)
  echo "the last demo is now in $old" >&2
  mv "$out" "$old"
fi
mkdir -p "$out"

# 64,000 images of 16x16 pixels, in about two minutes; a machine that is slower stops there. One thread: so small a network gains little by a second,
# and would lose much where other work keeps the machine busy.
bin/onestep train --method ict --data emoji --resolution 16 --channels 16 --mult 1,2 --attention none --batch 32 --lr 0.002 \
  --steps 2000 --duration 2m --threads 1 --seed 1 --out "$out/run"
steps=$(find "$out/run" -name 'model-*' | sed 's/.*model-0*//; s/[.].*//' | sort -n | tail -1)
draw() { bin/onestep sample --model "$1" --steps "$2" --n 64 --seed 1 --out "$out/$3" >/dev/null; }
draw "$out/run" 1 trained-1step.png
draw "$out/run" 2 trained-2step.png
draw builtin 1 builtin-1step.png
bin/onestep generate --prompt "a smiling cat" --prompt "a rocket" --prompt "a slice of pizza" --prompt "ghost" --steps 4 --seed 1 --quiet \
  --out "$out/{prompt}.png" >/dev/null

cat <<END

The pictures are in $(cd "$out" && pwd):
  trained-1step.png   64 emoji by the model that was just trained, each in one evaluation of the network
  trained-2step.png   the same, in two
  builtin-1step.png   64 by the model that ships with onestep, in one
  a smiling cat.png   and three more by the text-to-image model that ships with onestep, in four
END
if [ "$steps" -lt 1500 ]; then
  echo "This machine was too slow or too busy for the whole training: it ended after $steps of 2000 steps, and what was trained looks it."
fi
