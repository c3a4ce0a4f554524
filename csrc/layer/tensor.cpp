// Creation, copies, facts and release of tensors.
#include "guard.h"

#include <ATen/Context.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>

using namespace ct;

namespace {

size_t bytes_of(const int64_t *sizes, int32_t ndim, int32_t dtype) {
  size_t n = c10::elementSize(static_cast<c10::ScalarType>(dtype));
  for (int32_t i = 0; i < ndim; i++) n *= static_cast<size_t>(sizes[i]);
  return n;
}

int64_t device_code(const at::Tensor &t) {
  if (t.device().is_cpu()) return -1;
  return t.device().index();
}

}  // namespace

extern "C" {

void ct_tensors_free(const ct_tensor *t, int32_t n) {
  for (int32_t i = 0; i < n; i++) {
    if (t[i]) c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>::reclaim(impl(t[i]));
  }
}

ct_tensor ct_tensor_share(ct_tensor t) { return give(borrow(t)); }

ct_error *ct_tensor_info(ct_tensor h, int64_t *info, int32_t cap, int32_t *ndim_out) {
  return guarded(0, [&] {
    at::Tensor t = borrow(h);
    const auto ndim = static_cast<int32_t>(t.dim());
    *ndim_out = ndim;
    if (cap < 6 + 2 * ndim) return;
    info[0] = static_cast<int64_t>(t.scalar_type());
    info[1] = device_code(t);
    info[2] = ndim;
    info[3] = t.numel();
    info[4] = static_cast<int64_t>(t.element_size());
    const bool strided = t.layout() == at::kStrided;  // sparse tensors come from torch.Call
    info[5] = (t.requires_grad() ? CT_REQUIRES_GRAD : 0) | (strided && t.is_contiguous() ? CT_CONTIGUOUS : 0) |
              (strided && ndim == 4 && t.is_contiguous(at::MemoryFormat::ChannelsLast) ? CT_CHANNELS_LAST : 0) |
              (t.is_inference() ? CT_INFERENCE_TENSOR : 0);
    if (!t.is_inference()) {
      const bool leaf = t.is_leaf();
      info[5] |= (leaf ? CT_IS_LEAF : 0) | (leaf && t.grad().defined() ? CT_HAS_GRAD : 0);
    }
    for (int32_t i = 0; i < ndim; i++) {
      info[6 + i] = t.size(i);
      info[6 + ndim + i] = strided ? t.stride(i) : 0;
    }
  });
}

ct_error *ct_tensor_from_host(const void *data, int64_t nbytes, const int64_t *sizes, int32_t ndim, int32_t dtype,
                              int32_t device, ct_tensor *out) {
  return guarded(0, [&] {
    // A GPU copies from page-locked memory by itself, while this thread goes on; libtorch keeps the memory until it has. It also keeps it for later
    // copies, so large ones, such as of a model's weights, go through ordinary memory.
    constexpr int64_t most_locked = 64 << 20;
    const bool locked = device >= 0 && nbytes > 0 && nbytes <= most_locked && at::globalContext().hasCUDA();
    at::Tensor t = at::empty(at::IntArrayRef(sizes, static_cast<size_t>(ndim)),
                             at::TensorOptions().dtype(static_cast<c10::ScalarType>(dtype)).pinned_memory(locked));
    TORCH_CHECK(static_cast<int64_t>(t.nbytes()) == nbytes, "the shape needs ", t.nbytes(), " bytes, the data has ", nbytes);
    if (nbytes > 0) std::memcpy(t.mutable_data_ptr(), data, static_cast<size_t>(nbytes));
    *out = give(device >= 0 ? t.to(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)), locked) : std::move(t));
  });
}

ct_error *ct_tensor_to_host(ct_tensor h, void *data, int64_t nbytes) {
  return guarded(0, [&] {
    at::Tensor t = borrow(h);
    TORCH_CHECK(t.device().is_cpu() && t.is_contiguous(), "the tensor is not contiguous on the CPU");
    TORCH_CHECK(static_cast<int64_t>(t.nbytes()) == nbytes, "the tensor has ", t.nbytes(), " bytes, the room is ", nbytes);
    if (nbytes > 0) std::memcpy(data, t.const_data_ptr(), static_cast<size_t>(nbytes));
  });
}

ct_error *ct_tensor_over_host(void *data, int64_t nbytes, const int64_t *sizes, int32_t ndim, int32_t dtype,
                              int64_t *live, ct_tensor *out) {
  return guarded(0, [&] {
    TORCH_CHECK(static_cast<int64_t>(bytes_of(sizes, ndim, dtype)) == nbytes, "the shape needs ",
                bytes_of(sizes, ndim, dtype), " bytes, the data has ", nbytes);
    auto *counter = reinterpret_cast<std::atomic<int64_t> *>(live);
    at::Tensor t = at::from_blob(
        data, at::IntArrayRef(sizes, static_cast<size_t>(ndim)), [counter](void *) { counter->fetch_sub(1); },
        at::TensorOptions().dtype(static_cast<c10::ScalarType>(dtype)));
    counter->fetch_add(1);  // after what may throw; nobody can release the tensor before this returns
    *out = give(std::move(t));
  });
}

int64_t *ct_counter_new(void) { return reinterpret_cast<int64_t *>(new std::atomic<int64_t>(0)); }
int64_t ct_counter_value(const int64_t *c) { return reinterpret_cast<const std::atomic<int64_t> *>(c)->load(); }
void ct_counter_free(int64_t *c) { delete reinterpret_cast<std::atomic<int64_t> *>(c); }

ct_error *ct_tensor_item(ct_tensor h, double *out) {
  return guarded(0, [&] {
    at::Tensor t = borrow(h);
    TORCH_CHECK(t.numel() == 1, "takes a tensor of one element, got ", t.numel());
    *out = t.item().toDouble();
  });
}

ct_error *ct_tensor_item_int(ct_tensor h, int64_t *out) {
  return guarded(0, [&] {
    at::Tensor t = borrow(h);
    TORCH_CHECK(t.numel() == 1, "takes a tensor of one element, got ", t.numel());
    *out = t.item().toLong();
  });
}

ct_error *ct_tensor_set_requires_grad(ct_tensor h, int32_t on) {
  return guarded(0, [&] {
    at::Tensor t = borrow(h);
    if (on && t.requires_grad()) return;
    TORCH_CHECK(t.is_inference() || t.is_leaf(), "only leaves can stop collecting gradients: detach the result instead");
    t.set_requires_grad(on != 0);
  });
}

ct_error *ct_tensor_grad(ct_tensor h, ct_tensor *out) {
  return guarded(0, [&] {
    at::Tensor t = borrow(h);
    // Reading the gradient of a result prints a warning of libtorch's; there is none.
    *out = !t.is_inference() && (t.is_leaf() || t.retains_grad()) ? give(t.grad()) : nullptr;
  });
}

ct_error *ct_tensor_set_grad(ct_tensor h, ct_tensor grad) {
  return guarded(0, [&] {
    at::Tensor t = borrow(h);
    if (!grad) {
      t.mutable_grad() = at::Tensor();
      return;
    }
    at::Tensor g = borrow(grad);
    TORCH_CHECK(t.is_leaf(), "only leaves hold gradients, this is an operator's result");
    TORCH_CHECK(g.sizes() == t.sizes() && g.scalar_type() == t.scalar_type() && g.device() == t.device(),
                "the gradient must have the tensor's shape, dtype and device, got ", g.scalar_type(), g.sizes(), " on ",
                g.device());
    TORCH_CHECK(!g.is_same(t), "a tensor cannot be its own gradient");
    t.mutable_grad() = std::move(g);
  });
}

}  // extern "C"
