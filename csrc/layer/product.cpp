// Products with matrices that are used as they are, by oneDNN.
//
// libtorch's linear layers in float32 call MKL, which is slow on some processors, and oneDNN's own linear layer has no derivatives there. An
// operator of this layer's own has both: onestep::product(a, b, bias) = a·bᵀ + bias, differentiable as often as wanted.
#include "guard.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace ct {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor product(const at::Tensor &a, const at::Tensor &b, const std::optional<at::Tensor> &bias);

// oneDNN's, without derivatives. It reads strided matrices, transposed ones too, without a copy.
at::Tensor compute(const at::Tensor &a, const at::Tensor &b, const std::optional<at::Tensor> &bias) {
  using Linear = at::Tensor(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &, c10::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
  static const auto linear =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Linear>();
  return linear.call(a, b, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

struct Product : public torch::autograd::Function<Product> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &a, const at::Tensor &b, const std::optional<at::Tensor> &bias) {
    // Each is needed for the other's gradient only.
    ctx->save_for_backward({b.requires_grad() ? a : at::Tensor(), a.requires_grad() ? b : at::Tensor()});
    ctx->saved_data["bias"] = bias && bias->defined();
    return compute(a, b, bias);
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &g = grads[0];
    variable_list out(3);
    if (ctx->needs_input_grad(0)) out[0] = product(g, saved[1].t(), std::nullopt);
    if (ctx->needs_input_grad(1)) out[1] = product(g.t(), saved[0].t(), std::nullopt);
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) out[2] = g.sum(0);
    return out;
  }
};

at::Tensor product(const at::Tensor &a, const at::Tensor &b, const std::optional<at::Tensor> &bias) {
  // Tangents of forward-mode derivatives go through libtorch's formulas; oneDNN has nothing for empty matrices.
  if (carries_tangent(a) || carries_tangent(b) || carries_tangent(bias) || a.numel() == 0 || b.numel() == 0)
    return at::linear(a, b, bias);
  const bool grad = c10::GradMode::is_enabled() &&
                    (a.requires_grad() || b.requires_grad() || (bias && bias->defined() && bias->requires_grad()));
  return grad ? Product::apply(a, b, bias) : compute(a, b, bias);
}

}  // namespace

}  // namespace ct

TORCH_LIBRARY(onestep, m) { m.def("product(Tensor a, Tensor b, Tensor? bias) -> Tensor", &ct::product); }
