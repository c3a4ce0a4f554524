#!/usr/bin/env bash
# Distils the text-to-image model of emoji_ldm.sh to few steps, as an LCM-LoRA and as a full latent consistency model; trains the style of
# Fluent on it and on its few-step form; and compares all of them (scripts/fewsteps). Run it again to resume.
#
#   scripts/fewsteps.sh OUT MODEL SET DATA [PART ...]
#
# MODEL is the teacher, a snapshot of emoji_ldm.sh, SET its dataset.toml, and DATA a directory with the WebDataset shards
# noto-64.tar.gz and fluent3d-256.tar. The latter is unpacked into OUT/style.data with captions such as "an emoji of red apple": the teacher does
# not know the word 3d, and draws other things with it. The comparison needs the weights of EfficientNet-Lite0 in the data directory (docs/evaluation.md).
#
# PART is one of lcm, full, table (which needs lcm, and has rows of full if it is there), style, few (which needs lcm and style) and style-table
# (which needs lcm, style and few); by default all, in this order. Parts that do not need each other may run at the same time. Environment variables,
# with their defaults:
#   ONESTEP=bin/onestep                                 the tool
#   STEPS_LCM=1000 STEPS_FULL=2000                      optimizer steps of lcm and of full
#   STEPS_STYLE=5000 STEPS_FEW=500                      and of style and of few, whose steps take more than twice as long
#   SAVE_EVERY=250 VAL_BATCHES=4                        steps between snapshots, and batches of their validation loss
#   CACHE=                                              directory of cached latents and text features; empty: the user's
#   N=512                                               images for each row of the tables
#   GUIDANCE=2                                          guidance scale that lcm is trained with, and that of the teacher in the tables
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
out=${1%/} model=$2 set=$3 data=$4
shift 4
[ $# -gt 0 ] || set -- lcm full table style few style-table
here=$(cd "$(dirname "$0")" && pwd)
onestep=${ONESTEP:-$here/../bin/onestep}
style=$out/style.data
features=${XDG_DATA_HOME:-$HOME/.local/share}/onestep/efficientnet_lite0.safetensors
for file in "$set" "$data/noto-64.tar.gz" "$data/fluent3d-256.tar"; do
	[ -r "$file" ] || { echo "$file: no such file" >&2; exit 1; }
done
for part; do
	case $part in
	lcm | full | style | few) ;;
	table | style-table) [ -r "$features" ] || { echo "$features: no such file (docs/evaluation.md says how it is made)" >&2; exit 1; } ;;
	*) echo "$part: not a part; want lcm, full, table, style, few or style-table" >&2; exit 2 ;;
	esac
done
mkdir -p "$out"
if [ ! -d "$style" ]; then
	new=$(mktemp -d "$style.XXXX")
	tar -xf "$data/fluent3d-256.tar" --exclude='*.json' -C "$new"
	find "$new" -name '*.txt' -exec sed -i 's/^a 3d emoji of /an emoji of /' {} +
	mv -T "$new" "$style" 2>/dev/null || rm -r "$new" # another part was faster
fi

# train COMMAND NAME STEPS PROMPTS FLAG ... trains OUT/NAME. With one thread a run repeats bit by bit.
train() {
	"$onestep" "$1" --model "$model" --out "$out/$2" --resume --resolution 64 --steps "$3" --batch 32 \
		--lr-schedule cosine --lr-warmup 50 --seed 1 --threads 1 ${CACHE:+--cache "$CACHE"} \
		--save-every "${SAVE_EVERY:-250}" --keep 2 --val-prompts "$here/$4" --val-batches "${VAL_BATCHES:-4}" "${@:5}"
}

# train_style NAME STEPS FLAG ... trains an adapter on the style.
train_style() {
	train train-lora "$1" "$2" style_prompts.txt --data "$style" --caption-dropout 0.1 --ema 0.99 "${@:3}"
}

for part; do
	case $part in
	# This teacher's DDIM is accurate in 10 steps: with a skipping step of 100 images lose nothing, and errors add up over 10 jumps in place
	# of 50. The adapter is trained with one guidance scale, that of the teacher in the comparison, and the full model with scales from 1.5
	# to 3.5. Its best snapshot, by validation loss and by its images, is an early one, the adapter's the last.
	lcm)
		w=$(awk "BEGIN { print ${GUIDANCE:-2} - 1 }") # the scale of the paper, less by one
		train train-lcm lcm "${STEPS_LCM:-1000}" emoji_prompts.txt --data "$set" --lora --rank 32 --skip 100 --w-min "$w" --w-max "$w" --lr 0.0003
		;;
	full) train train-lcm full "${STEPS_FULL:-2000}" emoji_prompts.txt --data "$set" --skip 100 --w-min 0.5 --w-max 2.5 --lr 0.0002 --target-ema 0.9 --ema 0.99 ;;
	# The style is far from the teacher's data: rank 32, a learning rate of 3e-4 and 2,000 steps are too little. Its few-step form starts from
	# it, since the match to the model without the style slows learning from scratch.
	style) train_style style "${STEPS_STYLE:-5000}" --rank 64 --lr 0.001 --val-guidance 2 ;;
	few) train_style few "${STEPS_FEW:-500}" --lr 0.0003 --init "$out/style/best.safetensors" --few-step "$out/lcm/best.safetensors" ;;
	table | style-table)
		bin=$(mktemp -d)
		trap 'rm -rf "$bin"' EXIT
		go -C "$here/.." build -o "$bin/fewsteps" ./scripts/fewsteps
		only=few
		[ "$part" = table ] || only=style
		"$bin/fewsteps" --part "$only" --onestep "$onestep" --out "$out" --model "$model" --data "$data/noto-64.tar.gz" --style "$style" \
			--prompts "$here/emoji_prompts.txt" --style-prompts "$here/style_prompts.txt" --n "${N:-512}" --guidance "${GUIDANCE:-2}"
		rm -r "$bin"
		trap - EXIT
		;;
	esac
done
