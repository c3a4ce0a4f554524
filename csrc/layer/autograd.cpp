// Backward passes, gradient checkpointing and forward-mode derivatives.
#include "guard.h"

#include <ATen/ops/_make_dual.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/conv2d_native.h>
#include <ATen/ops/linear_native.h>
#include <ATen/ops/scaled_dot_product_attention_native.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

using namespace ct;
using torch::autograd::variable_list;

// Checkpoints whose graphs are gone, until package torch asks for them. They go wherever the last reference to a tensor
// does, often inside calls that must not call back into Go.
struct Released {
  std::mutex mu;
  std::vector<uint64_t> ids;
};
static Released &released_ids() {
  static auto *r = new Released;  // never destroyed: tensors may go during exit
  return *r;
}

namespace {

variable_list list_of(const ct_tensor *t, int32_t n) {
  variable_list v;
  v.reserve(static_cast<size_t>(n));
  for (int32_t i = 0; i < n; i++) v.push_back(t[i] ? borrow(t[i]) : at::Tensor());
  return v;
}

variable_list grads_of(const ct_tensor *grads, int32_t n) { return grads ? list_of(grads, n) : variable_list{}; }

// The backward node of a checkpointed function.
struct CheckpointNode : public torch::autograd::Node {
  std::vector<torch::autograd::SavedVariable> saved;
  std::vector<bool> wants;  // which inputs want a gradient
  uint64_t id = 0;
  ct_recompute again = nullptr;
  bool released = false;

  ~CheckpointNode() override { release(); }

  void release() {
    if (!released) {
      released = true;
      Released &r = released_ids();
      std::lock_guard<std::mutex> lock(r.mu);
      r.ids.push_back(id);
    }
  }

  void release_variables() override {
    for (auto &s : saved) s.reset_data();
    release();
  }

  std::string name() const override { return "Checkpoint"; }

  variable_list apply(variable_list &&grads) override {
    TORCH_CHECK(!released, "Trying to backward through a checkpoint a second time: its inputs were freed by the first");
    // Running the function again adds to the gradients of whatever leaves it uses, chosen or not, and records no graph of
    // the derivative: both would be silently wrong.
    TORCH_CHECK(torch::autograd::Engine::get_default_engine().is_checkpoint_valid(),
                "a checkpoint gives gradients to all leaves only: not by Grad, and by Backward without Inputs");
    TORCH_CHECK(!c10::GradMode::is_enabled(), "a checkpoint has no second derivatives: CreateGraph cannot pass it");
    std::vector<ct_tensor> in, g;
    variable_list leaves;
    for (size_t i = 0; i < saved.size(); i++) {
      at::Tensor leaf = saved[i].unpack().detach();
      if (wants[i]) leaf.set_requires_grad(true);
      leaves.push_back(leaf);
      in.push_back(give(leaf));
    }
    for (auto &t : grads) g.push_back(t.defined() ? give(t) : nullptr);
    int32_t kind = CT_ERR_OTHER;
    char *msg =
        again(id, in.data(), static_cast<int32_t>(in.size()), g.data(), static_cast<int32_t>(g.size()), &kind);
    if (msg) {
      std::string text(msg);
      std::free(msg);
      TORCH_CHECK_WITH(OutOfMemoryError, kind != CT_ERR_OUT_OF_MEMORY, text);
      TORCH_CHECK(false, text);
    }
    variable_list out;
    for (size_t i = 0; i < leaves.size(); i++) out.push_back(wants[i] ? leaves[i].grad() : at::Tensor());
    return out;
  }
};

// libtorch numbers the levels of forward-mode derivatives, and its operators know the first one only.
constexpr uint64_t forward_level = 0;

std::atomic<std::thread::id> forward_thread;  // the one that entered the level

}  // namespace

bool ct::carries_tangent(const at::Tensor &t) {
  return forward_thread.load(std::memory_order_relaxed) != std::thread::id() && t.defined() &&
         t._fw_grad(forward_level).defined();
}

namespace {

// The fused kernels of attention have no forward-mode derivatives, and libtorch does not choose among its kernels by that:
// operands with tangents take the composite of products and softmax. Everything else goes where it went.
at::Tensor attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const std::optional<at::Tensor> &mask,
                     double dropout, bool causal, std::optional<double> scale, bool enable_gqa) {
  if (!carries_tangent(q) && !carries_tangent(k) && !carries_tangent(v) && !carries_tangent(mask))
    return at::native::scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale, enable_gqa);
  std::optional<at::Tensor> added = mask;  // the composite adds whatever mask it is given
  if (mask && mask->defined() && mask->scalar_type() == at::kBool)
    added = at::zeros_like(*mask, q.options()).masked_fill_(mask->logical_not(), -std::numeric_limits<double>::infinity());
  return std::get<0>(
      at::_scaled_dot_product_attention_math(q, k, v, added, dropout, causal, std::nullopt, scale, enable_gqa));
}

// A layer's tangent is the layer without its bias, of the input's tangent, where the weights carry none. libtorch's formulas
// then also run the layer on the input with weights of zeros, which takes half as long again.
template <class Layer>
at::Tensor layer(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b, const Layer &f) {
  if (!carries_tangent(x) || carries_tangent(w) || carries_tangent(b)) return f(x, b);
  at::Tensor y = f(x._fw_primal(forward_level), b);
  y._set_fw_grad(f(x._fw_grad(forward_level), std::nullopt), forward_level, /*is_inplace_op=*/false);
  return y;
}

at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b) {
  return layer(x, w, b, [&](const at::Tensor &x, const std::optional<at::Tensor> &b) { return at::native::linear(x, w, b); });
}

at::Tensor conv2d(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b, c10::SymIntArrayRef stride,
                  c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, c10::SymInt groups) {
  return layer(x, w, b, [&](const at::Tensor &x, const std::optional<at::Tensor> &b) {
    return at::native::conv2d_symint(x, w, b, stride, padding, dilation, groups);
  });
}

void forward_kernels(torch::Library &m) {
  m.impl("scaled_dot_product_attention", &attention);
  m.impl("linear", &linear);
  m.impl("conv2d", &conv2d);
}

}  // namespace

// By the backends' names: an operator's composite kernel goes before one for Autograd as such.
TORCH_LIBRARY_IMPL(aten, AutogradCPU, m) { forward_kernels(m); }
TORCH_LIBRARY_IMPL(aten, AutogradCUDA, m) { forward_kernels(m); }

extern "C" {

ct_error *ct_backward(const ct_tensor *outputs, const ct_tensor *grads, int32_t noutputs, const ct_tensor *inputs,
                      int32_t ninputs, uint32_t flags) {
  return guarded(0, [&] {
    std::optional<bool> retain;
    if (flags & CT_RETAIN_GRAPH) retain = true;
    torch::autograd::backward(list_of(outputs, noutputs), grads_of(grads, noutputs), retain, (flags & CT_CREATE_GRAPH) != 0,
                              list_of(inputs, ninputs));
  });
}

ct_error *ct_grad(const ct_tensor *outputs, const ct_tensor *grads, int32_t noutputs, const ct_tensor *inputs,
                  int32_t ninputs, uint32_t flags, ct_tensor *outs) {
  return guarded(0, [&] {
    std::optional<bool> retain;
    if (flags & CT_RETAIN_GRAPH) retain = true;
    variable_list got = torch::autograd::grad(list_of(outputs, noutputs), list_of(inputs, ninputs), grads_of(grads, noutputs),
                                              retain, (flags & CT_CREATE_GRAPH) != 0, (flags & CT_ALLOW_UNUSED) != 0);
    for (int32_t i = 0; i < ninputs; i++) outs[i] = got[static_cast<size_t>(i)].defined() ? give(got[static_cast<size_t>(i)]) : nullptr;
  });
}

ct_error *ct_checkpoint(const ct_tensor *inputs, int32_t ninputs, const ct_tensor *outputs, int32_t noutputs,
                        uint64_t id, ct_recompute again, ct_tensor *outs) {
  return guarded(0, [&] {
    variable_list in = list_of(inputs, ninputs), out = list_of(outputs, noutputs);
    for (const auto &t : out)  // they are about to be detached, which would make constants of them
      TORCH_CHECK(!carries_tangent(t),
                  "a checkpoint has no forward-mode derivative: call JVP with gradients off, or without checkpoints");
#if TORCH_VERSION_MINOR < 15
    auto node = std::shared_ptr<CheckpointNode>(new CheckpointNode(), torch::autograd::deleteNode);
#else  // nodes count their own references
    auto node = c10::make_intrusive<CheckpointNode>();
#endif
    node->id = id;
    node->again = again;
    for (const auto &t : in) {
      node->saved.emplace_back(t, false);
      node->wants.push_back(t.requires_grad());
    }
    node->set_next_edges(torch::autograd::collect_next_edges(in));
    for (auto &t : out) {
      t = t.detach();
      if (torch::autograd::isDifferentiableType(t.scalar_type()))
        torch::autograd::set_history(t, node);
      else  // indices, masks: the node counts them, so that gradients arrive at the outputs' own places
        node->add_input_metadata(torch::autograd::Node::undefined_input());
    }
    for (size_t i = 0; i < out.size(); i++) outs[i] = give(std::move(out[i]));
  });
}

int32_t ct_checkpoints_released(uint64_t *ids, int32_t cap) {
  Released &r = released_ids();
  std::lock_guard<std::mutex> lock(r.mu);
  const auto n = std::min<size_t>(static_cast<size_t>(cap), r.ids.size());
  std::copy(r.ids.end() - static_cast<std::ptrdiff_t>(n), r.ids.end(), ids);
  r.ids.resize(r.ids.size() - n);
  return static_cast<int32_t>(n);
}

ct_error *ct_forward_enter(void) {
  return guarded(0, [&] {
    torch::autograd::ForwardADLevel::get_next_idx();
    forward_thread = std::this_thread::get_id();
  });
}

ct_error *ct_forward_leave(void) {
  return guarded(0, [&] {
    forward_thread = std::thread::id();
    torch::autograd::ForwardADLevel::release_idx(forward_level);
  });
}

int32_t ct_forward_is_here(void) { return forward_thread.load() == std::this_thread::get_id(); }

ct_error *ct_forward_dual(uint32_t mode, ct_tensor x, ct_tensor v, ct_tensor *out) {
  return guarded(mode, [&] {
    at::Tensor primal = borrow(x);
    // A tangent is laid out as its tensor is, and in an expanded one several elements would be one.
    if (!primal.is_non_overlapping_and_dense()) primal = primal.contiguous();
    *out = give(at::_make_dual(primal, borrow(v).clone(), forward_level));
  });
}

ct_error *ct_forward_tangent(ct_tensor t, ct_tensor *out) {
  return guarded(0, [&] {
    at::Tensor v = borrow(t)._fw_grad(forward_level);
    *out = give(v.defined() && v._is_zerotensor() ? v.clone() : v);  // a zero tensor has no memory of its own
  });
}

}  // extern "C"
