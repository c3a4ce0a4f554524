// The C interface of onestep's libtorch layer. Pure C. functions.h lists its functions once more, for the table through
// which a program calls them.
//
// Conventions
//   - A function that can fail returns a ct_error*: NULL is success, anything else is owned by the caller, who releases
//     it with ct_error_free. No error, mode or result is left in thread-local state between two calls.
//   - A ct_tensor is an owned reference to a tensor. Every result is a fresh reference, also when the operator returned
//     its own input; the caller releases it with ct_tensors_free.
//   - `mode` says how the call runs (CT_NO_GRAD, CT_INFERENCE): libtorch keeps these in thread-local state, which a
//     goroutine that moves between threads cannot rely on, so they are set inside the call and restored before it ends.
#ifndef ONESTEP_CT_H
#define ONESTEP_CT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ct_tensor_s *ct_tensor;        // an owned reference to a c10::TensorImpl
typedef struct ct_generator_s *ct_generator;  // an owned reference to a c10::GeneratorImpl
typedef struct ct_op_s *ct_op;                // an operator's schema and handle; lives as long as the process
typedef struct ct_graph_s *ct_graph;          // a CUDA graph

enum { CT_NO_GRAD = 1, CT_INFERENCE = 2 };

enum {
  CT_ERR_OTHER = 0,
  CT_ERR_OUT_OF_MEMORY = 1,
  CT_ERR_ARGUMENT = 2,         // the call's arguments do not fit the operator's schema
  CT_ERR_NOT_IMPLEMENTED = 3,  // no kernel for this dtype or device
  CT_ERR_DEVICE = 4            // the accelerator failed: its context may be lost
};

typedef struct ct_error {
  int32_t kind;
  char *msg;  // without a C++ backtrace
} ct_error;

void ct_error_free(ct_error *e);

// ---- process ----------------------------------------------------------------------------------------------------

// Opens libtorch_cuda beside libtorch_cpu when the machine has an NVIDIA driver. Must run before anything else asks for
// CUDA, which would switch it off for good. Returns 1 when it was opened; else 0, and *reason says why (static text).
int32_t ct_init(const char **reason);

const char *ct_version(void);         // libtorch's version at run time, such as "2.11.0"
const char *ct_compiled_version(void);  // of the headers that this layer was compiled against
const char *ct_library_path(void);    // the file libtorch_cpu was loaded from
const char *ct_cpu_capability(void);  // "AVX512", "AVX2", "DEFAULT", ...
int32_t ct_has_kernels(void);         // whether the layer has kernels of its own for this processor: 1, and 2 for convolutions in bfloat16

// The number of threads for one operator. It is process wide: threads that libtorch already knows follow at their next
// call (OpenMP itself keeps the number per thread).
void ct_set_threads(int32_t n);
int32_t ct_get_threads(void);

// ---- operators --------------------------------------------------------------------------------------------------

// Values travel as 64-bit words: a head word with a tag in its low 8 bits and a count above, then the payload.
enum {
  CT_NONE = 0,         // no payload
  CT_TENSOR = 1,       // a ct_tensor
  CT_TENSOR_LIST = 2,  // count ct_tensors; 0 is "none" where the schema allows it
  CT_INT = 3,          // int64; also dtypes, layouts, memory formats by libtorch's number
  CT_FLOAT = 4,        // the bits of a double
  CT_BOOL = 5,         // 0 or 1
  CT_INT_LIST = 6,     // count int64s
  CT_FLOAT_LIST = 7,   // count doubles
  CT_BOOL_LIST = 8,    // count words of 0 or 1
  CT_STRING = 9,       // count bytes, padded to words
  CT_DEVICE = 10,      // -1: cpu; n >= 0: cuda:n
  CT_GENERATOR = 11,   // a ct_generator
  CT_DEFAULT = 12      // the schema's default for this argument
};

// The error of an operator that is not there lists the schemas of that name's overloads, each on a line after the first.
ct_error *ct_op_find(const char *name, const char *overload, ct_op *out);
const char *ct_op_schema(ct_op op);  // the schema in libtorch's notation; lives as long as the operator

// Runs an operator on the values in args (nargs words). Missing trailing arguments take the schema's defaults. Results
// (none, tensors, lists of tensors, ints, floats, bools) are written to outs in the same encoding, *nouts words of them. Where they need more than cap words, outs[0] holds
// the address of a buffer with all of them instead, and *nouts is negative; the caller frees it with ct_buffer_free.
ct_error *ct_call(ct_op op, uint32_t mode, const uint64_t *args, int32_t nargs, uint64_t *outs, int32_t cap,
                  int32_t *nouts);
// The same for an operator whose one result is a tensor.
ct_error *ct_call1(ct_op op, uint32_t mode, const uint64_t *args, int32_t nargs, ct_tensor *out);
// The same for an operator whose results are not wanted: in-place operators.
ct_error *ct_call0(ct_op op, uint32_t mode, const uint64_t *args, int32_t nargs);
void ct_buffer_free(void *p);

// The commonest shapes of operators, without boxing their arguments, which is a third of a small operator's time:
// (Tensor) -> Tensor; (Tensor, Tensor) -> Tensor, also with a trailing Scalar alpha, which is 1; (Tensor, int[]) -> Tensor.
// Operators with further arguments take their defaults, boxed.
ct_error *ct_unary(ct_op op, uint32_t mode, ct_tensor x, ct_tensor *out);
ct_error *ct_binary(ct_op op, uint32_t mode, ct_tensor x, ct_tensor y, ct_tensor *out);
ct_error *ct_with_sizes(ct_op op, uint32_t mode, ct_tensor x, const int64_t *sizes, int32_t n, ct_tensor *out);

// ---- tensors ----------------------------------------------------------------------------------------------------

void ct_tensors_free(const ct_tensor *t, int32_t n);
ct_tensor ct_tensor_share(ct_tensor t);  // one more reference to the same tensor

// Facts of a tensor in info: [dtype, device (-1 cpu, n cuda:n), ndim, numel, element bytes, flags, sizes..., strides...].
// Needs 6 + 2*ndim words of room; *ndim_out is always set, the rest only when there is room.
enum { CT_REQUIRES_GRAD = 1, CT_CONTIGUOUS = 2, CT_CHANNELS_LAST = 4, CT_IS_LEAF = 8, CT_HAS_GRAD = 16, CT_INFERENCE_TENSOR = 32 };
ct_error *ct_tensor_info(ct_tensor t, int64_t *info, int32_t cap, int32_t *ndim_out);

// Copies nbytes of host memory into a new tensor on a device (-1: CPU) / out of a contiguous CPU tensor.
ct_error *ct_tensor_from_host(const void *data, int64_t nbytes, const int64_t *sizes, int32_t ndim, int32_t dtype,
                              int32_t device, ct_tensor *out);
ct_error *ct_tensor_to_host(ct_tensor t, void *data, int64_t nbytes);
// A CPU tensor over memory that the caller keeps valid and unchanged until the tensor's storage is released. The number
// of storages over one owner that are still alive is kept in *live, which the caller allocates with ct_counter_new.
ct_error *ct_tensor_over_host(void *data, int64_t nbytes, const int64_t *sizes, int32_t ndim, int32_t dtype,
                              int64_t *live, ct_tensor *out);
int64_t *ct_counter_new(void);
int64_t ct_counter_value(const int64_t *c);
void ct_counter_free(int64_t *c);
// The single element of t as a double, or as an int64.
ct_error *ct_tensor_item(ct_tensor t, double *out);
ct_error *ct_tensor_item_int(ct_tensor t, int64_t *out);
ct_error *ct_tensor_set_requires_grad(ct_tensor t, int32_t on);
ct_error *ct_tensor_grad(ct_tensor t, ct_tensor *out);  // *out is NULL when there is none
ct_error *ct_tensor_set_grad(ct_tensor t, ct_tensor grad);  // of t's shape, dtype and device; NULL removes it

// ---- autograd ---------------------------------------------------------------------------------------------------

enum { CT_RETAIN_GRAPH = 1, CT_CREATE_GRAPH = 2, CT_ALLOW_UNUSED = 4 };
// Accumulates gradients of the outputs into the leaves (or, when ninputs > 0, only into the inputs). grads may be NULL
// for scalar outputs.
ct_error *ct_backward(const ct_tensor *outputs, const ct_tensor *grads, int32_t noutputs, const ct_tensor *inputs,
                      int32_t ninputs, uint32_t flags);
// Gradients of the outputs with respect to the inputs, ninputs of them in outs; NULL where an input was not used.
ct_error *ct_grad(const ct_tensor *outputs, const ct_tensor *grads, int32_t noutputs, const ct_tensor *inputs,
                  int32_t ninputs, uint32_t flags, ct_tensor *outs);

// Recomputes a checkpointed function on `inputs` (fresh leaves) with gradients on and runs backward from its outputs with
// `grads` (NULL: no gradient arrived); it owns both. The gradients are then in the inputs and the parameters. Returns NULL,
// or a malloc'ed message and the error's kind.
typedef char *(*ct_recompute)(uint64_t id, ct_tensor *inputs, int32_t ninputs, ct_tensor *grads, int32_t ngrads,
                              int32_t *kind);
// Gradient checkpointing: ties outputs, computed from inputs without a graph, to a node that recomputes them when
// gradients arrive: it calls `again` with `id`; see torch/checkpoint.go. outs receives noutputs tensors that carry the node,
// where their dtype allows.
ct_error *ct_checkpoint(const ct_tensor *inputs, int32_t ninputs, const ct_tensor *outputs, int32_t noutputs,
                        uint64_t id, ct_recompute again, ct_tensor *outs);
// The ids of checkpoints whose graphs are gone since the last call, at most cap of them; returns how many.
int32_t ct_checkpoints_released(uint64_t *ids, int32_t cap);

// ---- forward-mode derivatives -----------------------------------------------------------------------------------

// libtorch has one level of forward-mode derivatives in a process. Between enter and leave, tensors that ct_forward_dual
// made carry a tangent, and so does what any thread computes from them. leave drops all tangents, whatever still holds
// their tensors. enter fails while the level is in use.
ct_error *ct_forward_enter(void);
ct_error *ct_forward_leave(void);
int32_t ct_forward_is_here(void);  // 1 on the thread that entered and has not left
// A view of x (a copy, where elements of x share memory) that carries a copy of v, which has x's shape, dtype and device.
ct_error *ct_forward_dual(uint32_t mode, ct_tensor x, ct_tensor v, ct_tensor *out);
ct_error *ct_forward_tangent(ct_tensor t, ct_tensor *out);  // *out is NULL when t carries none

// ---- randomness -------------------------------------------------------------------------------------------------

ct_error *ct_generator_new(int32_t device, uint64_t seed, ct_generator *out);
void ct_generator_free(ct_generator g);
ct_error *ct_generator_seed(ct_generator g, uint64_t seed);
ct_error *ct_generator_state(ct_generator g, ct_tensor *out);  // a uint8 CPU tensor
ct_error *ct_generator_set_state(ct_generator g, ct_tensor state);

// ---- memory of the CPU ------------------------------------------------------------------------------------------

// Gives freed blocks that are kept for use again back to the system: all large ones, and the calling thread's small ones.
void ct_cpu_empty_cache(void);
// stats: [bytes held by tensors, their peak, these and kept bytes, their peak, free bytes of the machine, total]. Blocks of
// up to 32 KiB, which threads keep for themselves, are left out.
void ct_cpu_memory(int64_t *stats);

// ---- CUDA -------------------------------------------------------------------------------------------------------

int32_t ct_cuda_count(void);
ct_error *ct_cuda_synchronize(int32_t device);
ct_error *ct_cuda_empty_cache(void);
// stats: [allocated bytes, peak allocated bytes, reserved bytes, peak reserved bytes, free bytes of the device, total]
ct_error *ct_cuda_memory(int32_t device, int64_t *stats);
ct_error *ct_cuda_reset_peak(int32_t device);
// Lets f32 matrix products and convolutions use TensorFloat-32 (off by default, as numbers matter more).
void ct_cuda_allow_tf32(int32_t on);
// Lets cuDNN time its algorithms for each new shape.
void ct_cuda_benchmark(int32_t on);

// From ct_graph_begin to ct_graph_end what the calling thread starts on the device is recorded and does not run. Tensors that are made
// in between have addresses that stay the graph's own, and values once ct_graph_replay has run. Between the two the thread's current stream
// is another one: the only state that outlasts a call. ct_graph_free ends a recording too.
ct_error *ct_graph_begin(int32_t device, ct_graph *out);
ct_error *ct_graph_end(ct_graph g);
ct_error *ct_graph_replay(ct_graph g);
void ct_graph_free(ct_graph g);

void ct_deterministic(int32_t on);

#ifdef __cplusplus
}
#endif
#endif
