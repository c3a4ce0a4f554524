// Package network is the registry of networks: code that reads model files or options uses it to build, clone and describe a network
// without naming its type.
//
// A [Config] holds the configuration of one network: a unet.Config, unet2d.Config, dit.Config or mlp.Config ([Spec]). In JSON it is an object with
// one key, the network's name ([Names]). [New] builds the network with random weights, as a [Network]: a models.Network whose weights
// can also be listed, loaded and freed. [Of] returns the configuration of an existing network. A [Preset] is a published architecture
// with a few size options ([Presets]), for training runs.
//
// Networks differ in their conditioning inputs (classes, the end of a jump, a guidance scale). [Config.With] sets
// them, and [Adopt] loads the weights of a network with fewer inputs. The new network computes the same as the old one at first, so
// that a student can start from its teacher.
//
// A new network needs one entry in this package's table; trainer, checkpoints and tool do not name network types.
package network
