#!/usr/bin/env bash
# Trains the text-to-image latent model of emoji, from nothing: 110,000 steps of a model of 8.2 million weights at 64×64. Run it again to
# resume; a finished run is left as it is.
#
#   scripts/emoji_ldm.sh OUT DATA WEIGHTS [FLAG ...]
#
# DATA is a directory with the WebDataset shards noto-64.tar.gz and fluent3d-256.tar, and WEIGHTS one with taef2_encoder.safetensors and
# taef2_decoder.safetensors (docs/results/tiny-autoencoder.md says what they are). Further flags are those of onestep train-ldm, such as
# --duration 2h.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=$1 data=$2 weights=$3
shift 3
onestep=${ONESTEP:-$(dirname "$0")/../bin/onestep}
for file in "$data/noto-64.tar.gz" "$data/fluent3d-256.tar" "$weights/taef2_encoder.safetensors" "$weights/taef2_decoder.safetensors"; do
	[ -r "$file" ] || { echo "$file: no such file" >&2; exit 1; }
done
exec "$onestep" train-ldm --autoencoder "$weights/taef2_encoder.safetensors" --data "$data/{noto-64.tar.gz,fluent3d-256.tar}" --out "$out" --resume \
	--zero-snr --steps 110000 --seed 1 --threads 2 --save-every 2500 --keep 8 \
	--val-prompts "$(dirname "$0")/emoji_prompts.txt" --val-batches 16 "$@"
