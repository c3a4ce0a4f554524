#!/usr/bin/env bash
# Trains every method for about ten minutes on Fashion-MNIST at 14×14, teachers first, and samples from each: the runs of
# docs/results/methods.md. Finished runs are kept; an interrupted one resumes.
#
#   scripts/methods.sh [DIR] [METHOD ...]      default: runs/methods, all methods
set -euo pipefail
cd "$(dirname "$0")/.."
into=${1:-runs/methods}
shift || true
onestep=${ONESTEP:-bin/onestep}
mkdir -p "$into"

# Options of all methods. The numbers of steps are chosen for 8 to 13 minutes each on one core.
common=(--data fashion-mnist --resolution 14 --classes --blocks 1 --batch 64 --lr 0.002 --seed 1 --threads 1 --save-every 500)

declare -A options=(
	[edm]="--steps 3000"
	[flow]="--steps 3000"
	[ddpm]="--steps 3000"
	[ct]="--steps 2200"
	[ict]="--steps 2200"
	[ect]="--steps 2200 --init $into/edm"
	[cd]="--steps 1600 --teacher $into/edm"
	[sct]="--steps 1500"
	[scd]="--steps 1500 --teacher $into/edm"
	[ctm]="--steps 500 --teacher $into/edm"
	[meanflow]="--steps 2000"
	[pd]="--steps 2000 --teacher $into/edm"
)
for method in "${@:-edm ct ict ect cd sct scd ctm meanflow pd flow ddpm}"; do
	for name in $method; do
		# shellcheck disable=SC2086
		"$onestep" train --method "$name" "${common[@]}" ${options[$name]} --out "$into/$name" --resume
		"$onestep" sample --model "$into/$name" --n 60 --columns 10 --seed 0 --out "$into/$name.png" --overwrite
	done
done
