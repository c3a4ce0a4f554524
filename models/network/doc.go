// Package network is one of the registered networks, whichever: what reads files and options uses it to make, clone and describe
// networks without naming their types.
//
// A [Config] holds the configuration of one network, a unet.Config, dit.Config or mlp.Config ([Spec]), which its package owns. In
// JSON it is an object with one key, the network's name ([Names]), so that a model file says what to build; [New] builds it, with
// random weights, as a [Network]: a models.Network that also yields, loads and frees its weights. [Of] finds the configuration of a
// network that was made elsewhere. A [Preset] is a published network whose size a few options set ([Presets]), for training runs.
//
// Networks differ in their conditioning inputs (classes, the end of a jump, a guidance scale). [Config.With] adds
// such inputs, and [Adopt] takes over the weights of a network with fewer of them: both compute the same at first, which is how
// students start from their teachers.
//
// Adding a network is one entry of this package's table; trainer, checkpoints and tool do not name it.
package network
