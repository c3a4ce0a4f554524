#!/usr/bin/env bash
# Trains the text-to-image latent model of emoji, from scratch: 16,000 steps of a model of 8.2 million weights on the 1906 images of Noto at
# 64×64. Run it again to resume; a finished run is left as it is.
#
#   scripts/emoji_ldm.sh OUT DATA WEIGHTS [FLAG ...]
#
# DATA is a directory with the WebDataset shard noto-64.tar.gz, and WEIGHTS one with taef2_encoder.safetensors and
# taef2_decoder.safetensors (docs/results/tiny-autoencoder.md says what they are). The shard is unpacked into OUT.data, where each image has
# four captions, of which one is drawn whenever the image is used: people ask for "an emoji of a cat", "cat", or "a cat". Further flags are
# those of onestep train-ldm, such as --duration 2h. With one thread the run repeats bit by bit.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=${1%/} data=$2 weights=$3
shift 3
onestep=${ONESTEP:-$(dirname "$0")/../bin/onestep}
for file in "$data/noto-64.tar.gz" "$weights/taef2_encoder.safetensors" "$weights/taef2_decoder.safetensors"; do
	[ -r "$file" ] || { echo "$file: no such file" >&2; exit 1; }
done
if [ ! -d "$out.data" ]; then
	rm -rf "$out.data.new"
	mkdir -p "$out.data.new/images"
	tar -xzf "$data/noto-64.tar.gz" -C "$out.data.new/images"
	for caption in "$out.data.new/images"/*.txt; do
		name=$(sed 's/^a flat emoji of //' "$caption")
		printf '%s\n' "a flat emoji of $name" "an emoji of $name" "$name" "a $name" >"$caption"
	done
	cat >"$out.data.new/dataset.toml" <<-END
		[general]
		caption_extension = ".txt"
		enable_wildcard = true # one of the lines of a caption file
		[[datasets]]
		resolution = 64
		[[datasets.subsets]]
		image_dir = "images"
	END
	mv "$out.data.new" "$out.data"
fi
exec "$onestep" train-ldm --autoencoder "$weights/taef2_encoder.safetensors" --data "$out.data/dataset.toml" --out "$out" --resume \
	--zero-snr --steps 16000 --seed 1 --threads 1 --save-every 1000 --keep 4 \
	--val-prompts "$(dirname "$0")/emoji_prompts.txt" --val-batches 16 "$@"
