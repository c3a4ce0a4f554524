// Package component finds and opens the weights of a model's component as diffusers and transformers save them: a directory with a config.json
// beside weights in one file or in shards with an index, as safetensors or as files of torch.save, and possibly in several variants, such as
// fp16, with the variant in the files' names.
//
// [ParsePipeline] reads a model's model_index.json, which names its components. [Find] returns the path of the weights in a directory,
// [Variants] the variants that it has, and [Open] opens a path as a [File], an nn.Source whose tensors are views of the mapped files. The
// caller closes it after the last use of its tensors. Files are untrusted: an index may only name files in its own directory, and a tensor has
// to be in the file that the index names.
package component
