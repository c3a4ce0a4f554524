#!/usr/bin/env bash
# Distils the text-to-image model of emoji_ldm.sh to few steps, as an LCM-LoRA and as a full latent consistency model; trains the style of
# Fluent on it and on its few-step form; and compares all of them (scripts/fewsteps). Run it again to resume.
#
#   scripts/fewsteps.sh OUT MODEL SET DATA
#
# MODEL is the teacher, a snapshot of emoji_ldm.sh, SET its dataset.toml, and DATA a directory with the WebDataset shards
# noto-64.tar.gz and fluent3d-256.tar. The comparison needs the weights of EfficientNet-Lite0 in the data directory (docs/evaluation.md).
set -euo pipefail
[ $# -eq 4 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=${1%/} model=$2 set=$3 data=$4
here=$(dirname "$0")
onestep=${ONESTEP:-$here/../bin/onestep}
style=$data/fluent3d-256.tar
for file in "$set" "$data/noto-64.tar.gz" "$style" "${XDG_DATA_HOME:-$HOME/.local/share}/onestep/efficientnet_lite0.safetensors"; do
	[ -r "$file" ] || { echo "$file: no such file" >&2; exit 1; }
done
mkdir -p "$out"
# The adapter is trained with one guidance scale, 2, that of the teacher in the comparison. The full model takes any scale from 1.5 to 3.5.
"$onestep" train-lcm --lora --model "$model" --data "$set" --out "$out/lcm" --resume --resolution 64 --steps 3000 --batch 32 --rank 32 --lr 0.0005 \
	--w-min 1 --w-max 1 --seed 1 --threads 1 --save-every 500 --keep 2 --val-prompts "$here/emoji_prompts.txt" --val-batches 8
"$onestep" train-lcm --model "$model" --data "$set" --out "$out/full" --resume --resolution 64 --steps 6000 --batch 32 --lr 0.0003 \
	--w-min 0.5 --w-max 2.5 --seed 1 --threads 1 --save-every 1000 --keep 2 --val-prompts "$here/emoji_prompts.txt" --val-batches 8
"$onestep" train-lora --model "$model" --data "$style" --out "$out/style" --resume --resolution 64 --steps 3000 --batch 32 --rank 32 --lr 0.0005 \
	--seed 1 --threads 1 --save-every 500 --keep 2 --val-prompts "$here/style_prompts.txt" --val-batches 8
"$onestep" train-lora --model "$model" --data "$style" --out "$out/few" --resume --resolution 64 --steps 3000 --batch 32 --rank 32 --lr 0.0005 \
	--few-step "$out/lcm/best.safetensors" --seed 1 --threads 1 --save-every 500 --keep 2 --val-prompts "$here/style_prompts.txt" --val-batches 8
go run "$here/fewsteps" --onestep "$onestep" --out "$out" --model "$model" --data "$data/noto-64.tar.gz" --style "$style" --prompts "$here/emoji_prompts.txt" --style-prompts "$here/style_prompts.txt"
