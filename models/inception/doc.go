// Package inception is the InceptionV3 network of FID: the TensorFlow graph of 2015-12-05 (Szegedy et al. 2015), whose pooled features the
// Fréchet Inception distance, KID and the Inception Score of papers are computed from. It is not torchvision's InceptionV3: the average pools
// leave padding out, the last block has a max pool instead of an average pool, and there are 1008 classes.
//
// [Open] reads the weights that pytorch-fid or torch-fidelity convert from that graph, as they publish them. The file is recognised by its
// tensors; [Find] looks for it in the user's data directory, and [Source] says where it comes from. [Net.Features] maps images
// [B, 3, H, W] in [-1, 1] of any size to features [B, 2048], and [Net.Logits] features to class scores [B, 1008]. A [Net] owns its weights,
// and has to be closed.
//
// The network's input has 299×299 pixels. FID depends on how images are resized to that size, so each figure has to say it: [Resize] has the
// three methods in use, and Net.Resize selects one.
//
// Features and logits equal those of both Python packages, with the same weights and images, to 1e-3.
package inception
