#!/usr/bin/env bash
# Trains the built-in model of 32×32 emoji from scratch, measures it and stores it in half precision; trains the denoiser that make demo
# starts from. Run it again to resume; what is finished is kept.
#
#   scripts/builtin.sh OUT [PART ...]
#
# PART is one of teacher, student, measure and write, by default all of them in this order, or denoiser. measure needs the weights of EfficientNet-Lite0
# in the data directory (docs/evaluation.md). With WRITE=1, write and denoiser replace the files of this repository
# with OUT/emoji.safetensors and OUT/denoiser.safetensors. With one thread a run repeats bit by bit. Environment variables, with their defaults:
#   ONESTEP=bin/onestep      the tool
#   TEACHER_STEPS=10000 STEPS=4000 DENOISER_STEPS=12000
#                            optimizer steps of teacher, student and denoiser; with more, a finished run is extended
#   DURATION=                time after which a run stops, such as 90m, to be resumed later
#   N=1000                   images for each measurement
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
out=${1%/}
shift
[ $# -gt 0 ] || set -- teacher student measure write
here=$(cd "$(dirname "$0")" && pwd)
onestep=${ONESTEP:-$here/../bin/onestep}
for part; do
	case $part in
	teacher | student | measure | write | denoiser) ;;
	*) echo "$part: not a part; want teacher, student, measure, write or denoiser" >&2; exit 2 ;;
	esac
done
mkdir -p "$out"

# train NAME STEPS FLAG ... trains OUT/NAME.
train() {
	local extend=()
	[ ! -d "$out/$1" ] || extend=(--extend)
	"$onestep" train --out "$out/$1" --resume "${extend[@]}" --data emoji --classes --steps "$2" --seed 1 --threads 1 --save-every 250 --keep 2 --sample-every 1000 \
		${DURATION:+--duration "$DURATION"} "${@:3}"
}

# last NAME STEPS prints the last snapshot of OUT/NAME.
last() {
	local file
	file=$(printf '%s/%s/model-%07d.safetensors' "$out" "$1" "$2")
	[ -r "$file" ] || { echo "$file: no such file: the part before has to be resumed until it has $2 steps" >&2; exit 1; }
	echo "$file"
}

teacher_steps=${TEACHER_STEPS:-10000} steps=${STEPS:-4000} denoiser_steps=${DENOISER_STEPS:-12000}
for part; do
	case $part in
	# Four levels, of which the low ones have most of the weights and little of the cost: 3,956,867 parameters, 7.9 MB in half precision.
	teacher) train teacher "$teacher_steps" --method edm --channels 32 --mult 1,2,4,3 --blocks 1 --attention 8 --batch 32 --lr 0.002 ;;
	student)
		from=$(last teacher "$teacher_steps")
		train student "$steps" --method cmt --teacher "$from" --solver-steps 8 --points 8 --sigma-min 0.2 --batch 8 --lr 0.001
		;;
	measure)
		from=$(last student "$steps")
		for k in 1 2; do
			"$onestep" eval --model "$from" --data emoji --steps "$k" --n "${N:-1000}" --threads 1 --json \
				--nearest "$out/nearest-$k.png" --overwrite >"$out/eval-$k.json"
			"$onestep" sample --model "$from" --steps "$k" --seed 0 --n 63 --columns 9 --threads 1 --overwrite --out "$out/emoji-${k}step.png"
		done
		;;
	write)
		from=$(last student "$steps")
		"$onestep" convert --model "$from" --dtype f16 --overwrite --out "$out/emoji.safetensors"
		[ -z "${WRITE:-}" ] || cp "$out/emoji.safetensors" "$here/../models/builtin/emoji.safetensors"
		;;
	# Small and quick: 16×16 pixels.
	denoiser)
		train denoiser "$denoiser_steps" --method edm --resolution 16 --channels 32 --mult 1,2 --blocks 1 --attention 8 --batch 32 --lr 0.002
		from=$(last denoiser "$denoiser_steps")
		"$onestep" convert --model "$from" --dtype f16 --overwrite --out "$out/denoiser.safetensors"
		[ -z "${WRITE:-}" ] || cp "$out/denoiser.safetensors" "$here/demo/denoiser.safetensors"
		;;
	esac
done
