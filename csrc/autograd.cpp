// Backward passes and gradient checkpointing.
#include "guard.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <mutex>
#include <vector>

using namespace ct;
using torch::autograd::variable_list;

// Exported by package torch. Recomputes a checkpointed function on `inputs` (fresh leaves) with gradients on and runs
// backward from its outputs with `grads` (NULL: no gradient arrived). The gradients are then in the inputs and the
// parameters. Returns NULL, or a malloc'ed message and the error's kind.
extern "C" char *onestepRecompute(uint64_t id, ct_tensor *inputs, int32_t ninputs, ct_tensor *grads, int32_t ngrads,
                                  int32_t *kind);

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
        onestepRecompute(id, in.data(), static_cast<int32_t>(in.size()), g.data(), static_cast<int32_t>(g.size()), &kind);
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

}  // namespace

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
                        uint64_t id, ct_tensor *outs) {
  return guarded(0, [&] {
    variable_list in = list_of(inputs, ninputs), out = list_of(outputs, noutputs);
#if TORCH_VERSION_MINOR < 15
    auto node = std::shared_ptr<CheckpointNode>(new CheckpointNode(), torch::autograd::deleteNode);
#else  // nodes count their own references
    auto node = c10::make_intrusive<CheckpointNode>();
#endif
    node->id = id;
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

}  // extern "C"
