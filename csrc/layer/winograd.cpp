// 3×3 convolutions of stride 1 and padding 1 as one operator on the CPU, of images in float32 or bfloat16 with weights in the same type or in
// float32: onestep::conv3x3(x, weight, bias).
//
// oneDNN has direct kernels only. Winograd's formula (winograd.h) needs a quarter of their products. Weights are transformed in each call,
// some output channels at a time, and images some tiles at a time, so that what a call takes beside its result is bounded. Every number is
// the same sum in the same order whatever the threads. What has no kernel here (other types and orders in memory, tangents, second
// derivatives) goes to libtorch's operators.
#include "guard.h"
#include "winograd_kernels.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <vector>

namespace ct {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using winograd::places;

// Bytes of transformed weights at once, unless a single panel takes more. Few stay in the cache, but images are transformed anew for each lot: as many
// bytes as the images have, within these bounds.
constexpr int64_t least_weights = 4 << 20, most_weights = 16 << 20;
constexpr int64_t tiles_at_once = 16 << 20;    // bytes of transformed tiles for the gradient of the weights
constexpr int64_t most_sums = 64 << 20;        // bytes of sums for it; larger ones go to libtorch

at::Tensor plain(const at::Tensor &x, const at::Tensor &weight, const std::optional<at::Tensor> &bias) {
  const auto type = x.scalar_type();
  const std::optional<at::Tensor> b = bias && bias->defined() ? std::optional(bias->to(type)) : std::nullopt;
  return at::conv2d(x, weight.to(type), b, 1, 1);
}

// Whether the kernels can compute this.
bool takes(const at::Tensor &x, const at::Tensor &weight, const std::optional<at::Tensor> &bias) {
  const auto type = x.scalar_type();
  if (winograd::kernels(type == at::kBFloat16) == nullptr || (type != at::kFloat && type != at::kBFloat16) || x.dim() != 4 || weight.dim() != 4 || weight.size(2) != 3 || weight.size(3) != 3) return false;
  for (const at::Tensor *t : {&x, &weight, bias && bias->defined() ? &*bias : &x})
    if (!t->is_cpu() || (t->scalar_type() != type && t->scalar_type() != at::kFloat) || t->layout() != at::kStrided || t->numel() == 0) return false;
  const int64_t c = x.size(1), k = weight.size(0);
  if (bias && bias->defined() && (bias->dim() != 1 || bias->size(0) != k)) return false;
  return weight.size(1) == c && c % lanes == 0 && k % lanes == 0 && last_is_channels(x);
}

winograd::Images images(const at::Tensor &x) { return {x.size(0), x.size(2), x.size(3), x.size(1)}; }

const winograd::Kernels *kernels(const at::Tensor &x) { return winograd::kernels(x.scalar_type() == at::kBFloat16); }

float *data(const at::Tensor &t) { return t.data_ptr<float>(); }

at::Tensor wide(const at::Tensor &t) { return t.detach().to(at::kFloat).contiguous(); }

at::Tensor scratch(int64_t numbers) { return at::empty({numbers}, at::kFloat); }

// The convolution of x [n, in, h, w] in channels-last order with weight [k, c, 3, 3], or for the way back with the weights turned around.
at::Tensor convolve(const at::Tensor &x, const at::Tensor &weight, const std::optional<at::Tensor> &bias, bool back) {
  const auto *kernels = ct::kernels(x);
  const at::Tensor added = bias && bias->defined() ? wide(*bias) : at::Tensor();
  const int64_t in = weight.size(back ? 0 : 1), out = weight.size(back ? 1 : 0), threads = at::get_num_threads();
  const at::Tensor y = at::empty({x.size(0), out, x.size(2), x.size(3)}, x.options(), at::MemoryFormat::ChannelsLast);

  const at::Tensor zeros = at::zeros({in}, x.options());
  winograd::Convolution cv = {images(x), x.data_ptr(), zeros.data_ptr(), nullptr, nullptr, added.defined() ? data(added) : nullptr, y.data_ptr(), out};
  cv.chunk = std::min<int64_t>(in <= 64 ? 12 : in <= 256 ? 24 : 48, (cv.im.tiles() + threads - 1) / threads);
  const int64_t chunks = (cv.im.tiles() + cv.chunk - 1) / cv.chunk;

  const auto size = static_cast<int64_t>(kernels->steps != nullptr ? sizeof(int16_t) : sizeof(float));
  const int64_t bytes = std::clamp(places * in * cv.im.tiles() * size, least_weights, most_weights);
  const int64_t at_once = std::min(out, std::max<int64_t>(1, bytes / (places * in * winograd::panel * size)) * winograd::panel);
  for (int64_t first = 0; first < out; first += at_once) {
    const int64_t some = std::min(at_once, out - first);
    const at::Tensor w = wide(some < out ? weight.detach().narrow(back ? 1 : 0, first, some) : weight);
    winograd::Weights ws = {data(w), w.size(0), w.size(1), back};
    const at::Tensor u = scratch((places * ws.stride() * size + 3) / 4), step = scratch(cv.blocks() * some);
    if (kernels->steps != nullptr) kernels->steps(ws, data(step));
    ws.step = cv.step = data(step);
    cv.u = ws.u = u.data_ptr();
    cv.first = first;
    cv.out = some;
    cv.stride = ws.stride();
    cv.parts = std::clamp<int64_t>((threads + chunks - 1) / chunks, 1, (cv.out + winograd::panel - 1) / winograd::panel);
    share(ws.items(), [&](int64_t from, int64_t to) { kernels->weights(ws, from, to); });
    share(cv.items(), [&](int64_t from, int64_t to) {
      const at::Tensor room = scratch(cv.scratch());
      kernels->convolve(cv, data(room), from, to);
    });
  }
  return y;
}

// The gradient of the weight for the input x and the gradient dy, both in channels-last order.
at::Tensor weight_gradient(const at::Tensor &x, const at::Tensor &dy, const at::Tensor &weight) {
  const auto *kernels = ct::kernels(x);
  const int64_t c = x.size(1), k = dy.size(1), size = sizeof(float);
  const at::Tensor dw = at::empty(weight.sizes(), at::kFloat);
  const at::Tensor zeros = at::zeros({std::max(c, k)}, x.options());
  winograd::Gradient g = {images(x), x.data_ptr(), dy.data_ptr(), zeros.data_ptr(), k};
  g.dw = data(dw);
  // The sums are read and written once a chunk: a larger chunk for more of them.
  g.chunk = std::min({std::clamp<int64_t>(c * k / (c + k), 24, 192), std::max<int64_t>(1, tiles_at_once / (places * (c + k) * size)), g.im.tiles()});
  const at::Tensor v = scratch(places * g.vs()), d = scratch(places * g.ds()), sums = scratch(places * g.ss());
  g.v = data(v);
  g.d = data(d);
  g.sums = data(sums);
  for (g.first = 0; g.first < g.im.tiles(); g.first += g.chunk) {
    g.n = std::min(g.chunk, g.im.tiles() - g.first);
    share(g.n, [&](int64_t from, int64_t to) { kernels->tiles(g, from, to); });
    share(places, [&](int64_t from, int64_t to) { kernels->products(g, from, to); });
  }
  share(c / lanes * (k / lanes), [&](int64_t from, int64_t to) { kernels->gradient(g, from, to); });
  return dw.to(weight.scalar_type());
}

// libtorch's gradients of input, weight and bias, those that are wanted; differentiable.
variable_list plain_gradients(const at::Tensor &dy, const at::Tensor &x, const at::Tensor &weight, at::ScalarType bias, std::array<bool, 3> wanted) {
  const std::vector<int64_t> one = {1, 1};
  auto [dx, dw, db] = at::convolution_backward(dy, x, weight.to(x.scalar_type()), c10::IntArrayRef({weight.size(0)}), one, one, one, false, {0, 0}, 1, wanted);
  const auto as = [](const at::Tensor &t, at::ScalarType type) { return t.defined() ? t.to(type) : t; };
  return {dx, as(dw, weight.scalar_type()), as(db, bias)};
}

struct Conv3x3 : public torch::autograd::Function<Conv3x3> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &weight, const std::optional<at::Tensor> &bias) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["bias"] = bias && bias->defined();
    ctx->saved_data["type"] = bias && bias->defined() ? bias->scalar_type() : x.scalar_type();
    return convolve(x, weight, bias, false);
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const std::array<bool, 3> wanted = {ctx->needs_input_grad(0), ctx->needs_input_grad(1),
                                        ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)};
    const at::ScalarType type = ctx->saved_data["type"].toScalarType();
    if (c10::GradMode::is_enabled()) return plain_gradients(grads[0], x, weight, type, wanted);  // second derivatives
    const at::Tensor dy = grads[0].contiguous(at::MemoryFormat::ChannelsLast);
    variable_list out(3);
    if (wanted[0]) out[0] = convolve(dy, weight, std::nullopt, true);
    if (wanted[1]) {
      const int64_t sums = places * weight.size(0) * weight.size(1) * static_cast<int64_t>(sizeof(float));
      out[1] = sums <= most_sums ? weight_gradient(x, dy, weight) : plain_gradients(dy, x, weight, type, {false, true, false})[1];
    }
    if (wanted[2]) out[2] = dy.sum({0, 2, 3}, false, type);
    return out;
  }
};

at::Tensor conv3x3(const at::Tensor &x, const at::Tensor &weight, const std::optional<at::Tensor> &bias) {
  if (carries_tangent(x) || carries_tangent(weight) || carries_tangent(bias) || !takes(x, weight, bias))
    return plain(x, weight, bias);
  const bool grad = c10::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad() || (bias && bias->defined() && bias->requires_grad()));
  if (grad) return Conv3x3::apply(x, weight, bias);
  return convolve(x, weight, bias, false);
}

}  // namespace

}  // namespace ct

int32_t ct_has_kernels(void) {
  return (ct::winograd::kernels(false) != nullptr ? 1 : 0) | (ct::winograd::kernels(true) != nullptr ? 2 : 0);
}

TORCH_LIBRARY_FRAGMENT(onestep, m) { m.def("conv3x3(Tensor x, Tensor weight, Tensor? bias) -> Tensor", &ct::conv3x3); }
