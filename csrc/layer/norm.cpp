// Group norm and SiLU as one operator on the CPU: onestep::norm_silu(x, weight, bias, groups, eps) = silu(group_norm(x)).
//
// libtorch's two operators read and write memory three times as often, and keep the norm's result for the way back beside its input. Here
// the input alone is kept. Sums are exact to float32 whatever the mean: values are shifted by a first one, and partial sums added in double.
// What has no kernel here (other types and layouts, tangents, second derivatives) goes through libtorch's operators.
#include "guard.h"
#include "kernel.h"

#include <ATen/Functions.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace ct {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The last n numbers of a row, n < lanes, with zeros behind them.
template <class E>
CT_INLINE Vec load_some(const typename E::T *p, int64_t n) {
  typename E::T some[lanes] = {};
  std::memcpy(some, p, static_cast<size_t>(n) * sizeof *some);
  return E::load(some);
}

template <class E>
CT_INLINE void store_some(typename E::T *p, Vec v, int64_t n) {
  typename E::T some[lanes];
  E::store(some, v);
  std::memcpy(p, some, static_cast<size_t>(n) * sizeof *some);
}

CT_INLINE Vec every(float v) { return Vec{} + v; }

CT_INLINE Vec mask(Vec v, int64_t n) {  // zeros from lane n on
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lane < static_cast<int32_t>(n) ? v : Vec{};
}

CT_INLINE double total(Vec v) {
  double sum = 0;
  for (int64_t i = 0; i < lanes; i++) sum += static_cast<double>(v[i]);
  return sum;
}

// exp within a unit in the last place, by 2^n times a polynomial (Cephes' expf).
CT_INLINE Vec exponential(Vec x) {
  x = x > 88.3f ? every(88.3f) : x;
  x = x < -87.3f ? every(-87.3f) : x;
  const Vec shifted = x * 1.44269504f + 12582912.f;  // 1.5·2^23: the integer nearest to the product is in the low bits
  const Vec n = shifted - 12582912.f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = every(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  return p * (Vec)(((Ints)shifted << 23) + 0x3f800000);
}

CT_INLINE Vec sigmoid(Vec z) { return 1.f / (1.f + exponential(-z)); }

CT_INLINE Vec silu_slope(Vec z) {
  const Vec s = sigmoid(z);
  return s * (1.f + z * (1.f - s));
}

// One call: x is [n, c, pixels], or with channels last [n, pixels, c].
struct Job {
  const void *x, *dy;
  void *out;  // y, or the gradient of x
  const float *weight, *bias;
  float *mean, *rstd;    // [n, groups]
  float *dweight, *dbias;  // [n, c], each sample's part
  int64_t n, c, pixels, groups;
  double eps;
  bool last;       // channels last
  int64_t blocks;  // channels last: parts of a sample, each of whole groups and vectors

  int64_t each() const { return c / groups; }  // channels of a group
  int64_t items() const { return n * (last ? blocks : groups); }
};

// Sums of a group's values less shift, and of their squares.
struct Sums {
  double sum = 0, square = 0;
};

CT_INLINE void moments(const Job &j, int64_t at, double mean, double variance) {
  j.mean[at] = static_cast<float>(mean);
  j.rstd[at] = static_cast<float>(1 / std::sqrt(std::max(variance, 0.) + j.eps));
}

constexpr int64_t chunk = 64;  // vectors that are added in float32 before they go into a double

// ---- [n, c, pixels]: an item is one group of one sample, whose values are one piece of memory -----------------------

template <class E>
CT_INLINE void group_moments(const Job &j, int64_t item) {
  const int64_t size = j.each() * j.pixels;
  const auto *x = static_cast<const typename E::T *>(j.x) + item * size;
  const float shift = load_some<E>(x, 1)[0];
  Sums s;
  for (int64_t i = 0; i < size;) {
    const int64_t end = std::min(size, i + chunk * lanes);
    Vec sum = {}, square = {};
    for (; i + lanes <= end; i += lanes) {
      const Vec d = E::load(x + i) - shift;
      sum += d;
      square += d * d;
    }
    if (i < end) {
      const Vec d = mask(load_some<E>(x + i, end - i) - shift, end - i);
      sum += d;
      square += d * d;
      i = end;
    }
    s.sum += total(sum);
    s.square += total(square);
  }
  const double off = s.sum / static_cast<double>(size);
  moments(j, item, shift + off, s.square / static_cast<double>(size) - off * off);
}

template <class E>
CT_INLINE void forward_rows(const Job &j, int64_t item) {
  using T = typename E::T;
  group_moments<E>(j, item);
  const int64_t first = item % j.groups * j.each();
  for (int64_t k = 0; k < j.each(); k++) {
    const float a = j.rstd[item] * j.weight[first + k], b = j.bias[first + k] - j.mean[item] * a;
    const int64_t row = (item * j.each() + k) * j.pixels;
    const T *x = static_cast<const T *>(j.x) + row;
    T *y = static_cast<T *>(j.out) + row;
    int64_t i = 0;
    for (; i + lanes <= j.pixels; i += lanes) {
      const Vec z = E::load(x + i) * a + b;
      E::store(y + i, z * sigmoid(z));
    }
    if (i < j.pixels) {
      const Vec z = load_some<E>(x + i, j.pixels - i) * a + b;
      store_some<E>(y + i, z * sigmoid(z), j.pixels - i);
    }
  }
}

template <class E>
CT_INLINE void backward_rows(const Job &j, int64_t item, float *dz) {
  using T = typename E::T;
  const int64_t first = item % j.groups * j.each(), sample = item / j.groups;
  const float mean = j.mean[item], rstd = j.rstd[item];
  double of_sum = 0, of_product = 0;
  for (int64_t k = 0; k < j.each(); k++) {
    const float w = j.weight[first + k], a = rstd * w, b = j.bias[first + k] - mean * a;
    const int64_t row = (item * j.each() + k) * j.pixels;
    const T *x = static_cast<const T *>(j.x) + row, *dy = static_cast<const T *>(j.dy) + row;
    float *d = dz + k * j.pixels;
    Sums s;
    for (int64_t i = 0; i < j.pixels;) {
      const int64_t end = std::min(j.pixels, i + chunk * lanes);
      Vec sum = {}, product = {};
      for (; i + lanes <= end; i += lanes) {
        const Vec v = E::load(x + i), g = E::load(dy + i) * silu_slope(v * a + b);
        Float::store(d + i, g);
        sum += g;
        product += g * ((v - mean) * rstd);
      }
      if (i < end) {  // the gradient's zeros behind the end remove the rest
        const Vec v = load_some<E>(x + i, end - i), g = load_some<E>(dy + i, end - i) * silu_slope(v * a + b);
        store_some<Float>(d + i, g, end - i);
        sum += mask(g, end - i);
        product += mask(g * ((v - mean) * rstd), end - i);
        i = end;
      }
      s.sum += total(sum);
      s.square += total(product);
    }
    j.dbias[sample * j.c + first + k] = static_cast<float>(s.sum);
    j.dweight[sample * j.c + first + k] = static_cast<float>(s.square);
    of_sum += s.sum * static_cast<double>(w);
    of_product += s.square * static_cast<double>(w);
  }
  const double size = static_cast<double>(j.each() * j.pixels);
  const float to_x = static_cast<float>(-rstd * rstd * of_product / size);
  const float rest = static_cast<float>(-rstd * of_sum / size) - to_x * mean;
  for (int64_t k = 0; k < j.each(); k++) {
    const float a = rstd * j.weight[first + k];
    const int64_t row = (item * j.each() + k) * j.pixels;
    const T *x = static_cast<const T *>(j.x) + row;
    T *dx = static_cast<T *>(j.out) + row;
    const float *d = dz + k * j.pixels;
    int64_t i = 0;
    for (; i + lanes <= j.pixels; i += lanes) E::store(dx + i, Float::load(d + i) * a + (E::load(x + i) * to_x + rest));
    if (i < j.pixels) {
      const int64_t n = j.pixels - i;
      store_some<E>(dx + i, load_some<Float>(d + i, n) * a + (load_some<E>(x + i, n) * to_x + rest), n);
    }
  }
}

// ---- [n, pixels, c]: an item is a block of channels of one sample, of whole groups and vectors ------------------------

// Calls f<V>(channel) for the channels from c to end, V vectors of them at a time.
#define CT_TILES(c, end, call)                          \
  for (int64_t at = c; at < end;) {                     \
    if (end - at >= 4 * lanes) {                        \
      call(4);                                          \
      at += 4 * lanes;                                  \
    } else {                                            \
      call(1);                                          \
      at += lanes;                                      \
    }                                                   \
  }

// The channels of an item.
struct Block {
  int64_t sample, from, to;
  CT_INLINE explicit Block(const Job &j, int64_t item) {
    const int64_t unit = std::lcm(lanes, j.each()), units = j.c / unit, b = item % j.blocks;
    sample = item / j.blocks;
    from = b * units / j.blocks * unit;
    to = (b + 1) * units / j.blocks * unit;
  }
};

template <class E, int V>
CT_INLINE void tile_moments(const Job &j, const typename E::T *x, double *sum, double *square, float *shift) {
  Vec k[V];
  for (int v = 0; v < V; v++) Float::store(shift + v * lanes, k[v] = E::load(x + v * lanes));
  for (int64_t i = 0; i < j.pixels;) {
    const int64_t end = std::min(j.pixels, i + chunk);
    Vec s[V] = {}, q[V] = {};
    for (; i < end; i++)
      for (int v = 0; v < V; v++) {
        const Vec d = E::load(x + i * j.c + v * lanes) - k[v];
        s[v] += d;
        q[v] += d * d;
      }
    for (int v = 0; v < V; v++)
      for (int64_t l = 0; l < lanes; l++) {
        sum[v * lanes + l] += static_cast<double>(s[v][l]);
        square[v * lanes + l] += static_cast<double>(q[v][l]);
      }
  }
}

template <class E, int V>
CT_INLINE void tile_forward(const Job &j, const typename E::T *x, typename E::T *y, const float *a, const float *b) {
  Vec av[V], bv[V];
  for (int v = 0; v < V; v++) av[v] = Float::load(a + v * lanes), bv[v] = Float::load(b + v * lanes);
  for (int64_t i = 0; i < j.pixels; i++)
    for (int v = 0; v < V; v++) {
      const Vec z = E::load(x + i * j.c + v * lanes) * av[v] + bv[v];
      E::store(y + i * j.c + v * lanes, z * sigmoid(z));
    }
}

template <class E>
CT_INLINE void forward_last(const Job &j, int64_t item, std::vector<double> &sums, std::vector<float> &per) {
  using T = typename E::T;
  const Block k(j, item);
  const int64_t width = k.to - k.from, start = k.sample * j.pixels * j.c, each = j.each();
  sums.assign(static_cast<size_t>(2 * width), 0);
  per.resize(static_cast<size_t>(3 * width));
  double *sum = sums.data(), *square = sum + width;
  float *shift = per.data(), *a = shift + width, *b = a + width;
  const T *x = static_cast<const T *>(j.x) + start;
  T *y = static_cast<T *>(j.out) + start;
#define CT_CALL(V) tile_moments<E, V>(j, x + at, sum + at - k.from, square + at - k.from, shift + at - k.from)
  CT_TILES(k.from, k.to, CT_CALL)
#undef CT_CALL
  const double pixels = static_cast<double>(j.pixels);
  for (int64_t c = 0; c < width; c += each) {
    double mean = 0, variance = 0;
    for (int64_t i = c; i < c + each; i++) mean += sum[i] + pixels * static_cast<double>(shift[i]);
    mean /= pixels * static_cast<double>(each);
    for (int64_t i = c; i < c + each; i++) {
      const double off = static_cast<double>(shift[i]) - mean;
      variance += square[i] + 2 * off * sum[i] + pixels * off * off;
    }
    const int64_t group = k.sample * j.groups + (k.from + c) / each;
    moments(j, group, mean, variance / (pixels * static_cast<double>(each)));
    for (int64_t i = c; i < c + each; i++) {
      a[i] = j.rstd[group] * j.weight[k.from + i];
      b[i] = j.bias[k.from + i] - j.mean[group] * a[i];
    }
  }
#define CT_CALL(V) tile_forward<E, V>(j, x + at, y + at, a + at - k.from, b + at - k.from)
  CT_TILES(k.from, k.to, CT_CALL)
#undef CT_CALL
}

// What each channel of a block needs on the way back.
struct Channels {
  float *a, *b, *mean, *rstd, *to_x, *rest;
};

template <class E, int V>
CT_INLINE void tile_slopes(const Job &j, const typename E::T *x, const typename E::T *dy, float *dz, int64_t width, const Channels &p,
                           int64_t c, double *sum, double *product) {
  Vec a[V], b[V], mean[V], rstd[V];
  for (int v = 0; v < V; v++) {
    const int64_t i = c + v * lanes;
    a[v] = Float::load(p.a + i), b[v] = Float::load(p.b + i), mean[v] = Float::load(p.mean + i), rstd[v] = Float::load(p.rstd + i);
  }
  for (int64_t i = 0; i < j.pixels;) {
    const int64_t end = std::min(j.pixels, i + chunk);
    Vec s[V] = {}, q[V] = {};
    for (; i < end; i++)
      for (int v = 0; v < V; v++) {
        const Vec u = E::load(x + i * j.c + v * lanes), g = E::load(dy + i * j.c + v * lanes) * silu_slope(u * a[v] + b[v]);
        Float::store(dz + i * width + v * lanes, g);
        s[v] += g;
        q[v] += g * ((u - mean[v]) * rstd[v]);
      }
    for (int v = 0; v < V; v++)
      for (int64_t l = 0; l < lanes; l++) {
        sum[v * lanes + l] += static_cast<double>(s[v][l]);
        product[v * lanes + l] += static_cast<double>(q[v][l]);
      }
  }
}

template <class E, int V>
CT_INLINE void tile_backward(const Job &j, const typename E::T *x, typename E::T *dx, const float *dz, int64_t width, const Channels &p, int64_t c) {
  Vec a[V], to_x[V], rest[V];
  for (int v = 0; v < V; v++) {
    const int64_t i = c + v * lanes;
    a[v] = Float::load(p.a + i), to_x[v] = Float::load(p.to_x + i), rest[v] = Float::load(p.rest + i);
  }
  for (int64_t i = 0; i < j.pixels; i++)
    for (int v = 0; v < V; v++)
      E::store(dx + i * j.c + v * lanes,
               Float::load(dz + i * width + v * lanes) * a[v] + (E::load(x + i * j.c + v * lanes) * to_x[v] + rest[v]));
}

template <class E>
CT_INLINE void backward_last(const Job &j, int64_t item, std::vector<float> &scratch, std::vector<double> &sums, std::vector<float> &per) {
  using T = typename E::T;
  const Block k(j, item);
  const int64_t width = k.to - k.from, start = k.sample * j.pixels * j.c, each = j.each();
  sums.assign(static_cast<size_t>(2 * width), 0);
  per.resize(static_cast<size_t>(6 * width));
  scratch.resize(static_cast<size_t>(width * j.pixels));
  double *sum = sums.data(), *product = sum + width;
  float *dz = scratch.data(), *of = per.data();
  const Channels p = {of, of + width, of + 2 * width, of + 3 * width, of + 4 * width, of + 5 * width};
  const T *x = static_cast<const T *>(j.x) + start, *dy = static_cast<const T *>(j.dy) + start;
  T *dx = static_cast<T *>(j.out) + start;
  for (int64_t i = 0; i < width; i++) {
    const int64_t group = k.sample * j.groups + (k.from + i) / each;
    p.mean[i] = j.mean[group];
    p.rstd[i] = j.rstd[group];
    p.a[i] = p.rstd[i] * j.weight[k.from + i];
    p.b[i] = j.bias[k.from + i] - p.mean[i] * p.a[i];
  }
#define CT_CALL(V) tile_slopes<E, V>(j, x + at, dy + at, dz + at - k.from, width, p, at - k.from, sum + at - k.from, product + at - k.from)
  CT_TILES(k.from, k.to, CT_CALL)
#undef CT_CALL
  for (int64_t c = 0; c < width; c += each) {
    double of_sum = 0, of_product = 0;
    for (int64_t i = c; i < c + each; i++) {
      const double w = static_cast<double>(j.weight[k.from + i]);
      j.dbias[k.sample * j.c + k.from + i] = static_cast<float>(sum[i]);
      j.dweight[k.sample * j.c + k.from + i] = static_cast<float>(product[i]);
      of_sum += sum[i] * w;
      of_product += product[i] * w;
    }
    const double size = static_cast<double>(each * j.pixels), rstd = static_cast<double>(p.rstd[c]);
    const float to_x = static_cast<float>(-rstd * rstd * of_product / size);
    const float rest = static_cast<float>(-rstd * of_sum / size) - to_x * p.mean[c];
    for (int64_t i = c; i < c + each; i++) p.to_x[i] = to_x, p.rest[i] = rest;
  }
#define CT_CALL(V) tile_backward<E, V>(j, x + at, dx + at, dz + at - k.from, width, p, at - k.from)
  CT_TILES(k.from, k.to, CT_CALL)
#undef CT_CALL
}

// ---- items of a job ------------------------------------------------------------------------------------------------

template <class E>
CT_INLINE void forward_items(const Job &j, int64_t from, int64_t to) {
  std::vector<double> sums;
  std::vector<float> per;
  for (int64_t i = from; i < to; i++) {
    if (j.last)
      forward_last<E>(j, i, sums, per);
    else
      forward_rows<E>(j, i);
  }
}

template <class E>
CT_INLINE void backward_items(const Job &j, int64_t from, int64_t to) {
  std::vector<double> sums;
  std::vector<float> per, scratch;
  if (!j.last) scratch.resize(static_cast<size_t>(j.each() * j.pixels));
  for (int64_t i = from; i < to; i++) {
    if (j.last)
      backward_last<E>(j, i, scratch, sums, per);
    else
      backward_rows<E>(j, i, scratch.data());
  }
}

// Each is compiled three times, and the loader chooses.
#if CT_VECTORS
#define CT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CT_CLONES
#endif

CT_CLONES void forward_float(const Job &j, int64_t from, int64_t to) { forward_items<Float>(j, from, to); }
CT_CLONES void forward_bfloat16(const Job &j, int64_t from, int64_t to) { forward_items<BFloat16>(j, from, to); }
CT_CLONES void backward_float(const Job &j, int64_t from, int64_t to) { backward_items<Float>(j, from, to); }
CT_CLONES void backward_bfloat16(const Job &j, int64_t from, int64_t to) { backward_items<BFloat16>(j, from, to); }

// ---- the operator --------------------------------------------------------------------------------------------------

at::Tensor plain(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, int64_t groups, double eps) {
  return at::silu(at::group_norm(x, groups, weight, bias, eps));
}

// Whether the kernels take these arguments.
bool takes(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, int64_t groups) {
  const auto type = x.scalar_type();
  if (!CT_VECTORS || !x.is_cpu() || (type != at::kFloat && type != at::kBFloat16) || x.dim() < 2 || x.numel() == 0) return false;
  const int64_t c = x.size(1);
  for (const auto &p : {weight, bias})
    if (!p.is_cpu() || p.dim() != 1 || p.size(0) != c || (p.scalar_type() != type && p.scalar_type() != at::kFloat)) return false;
  if (groups < 1 || c % groups != 0) return false;
  return x.is_contiguous() || (last_is_channels(x) && c % lanes == 0);
}

Job job(const at::Tensor &x, int64_t groups, double eps) {
  Job j = {};
  j.x = x.data_ptr();
  j.n = x.size(0);
  j.c = x.size(1);
  j.pixels = x.numel() / (j.n * j.c);
  j.groups = groups;
  j.eps = eps;
  j.last = last_is_channels(x);
  const int64_t wanted = 2 * static_cast<int64_t>(at::get_num_threads());  // items, so that every thread has some
  if (j.last) j.blocks = std::clamp<int64_t>((wanted + j.n - 1) / j.n, 1, j.c / std::lcm(lanes, j.each()));
  return j;
}

at::Tensor wide(const at::Tensor &p) { return p.detach().to(at::kFloat).contiguous(); }

struct Result {
  at::Tensor y, mean, rstd;
};

Result compute(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, int64_t groups, double eps) {
  const at::Tensor w = wide(weight), b = wide(bias);
  Result r = {at::empty_like(x), at::empty({x.size(0), groups}, w.options()), at::empty({x.size(0), groups}, w.options())};
  Job j = job(x, groups, eps);
  j.out = r.y.data_ptr();
  j.weight = w.data_ptr<float>();
  j.bias = b.data_ptr<float>();
  j.mean = r.mean.data_ptr<float>();
  j.rstd = r.rstd.data_ptr<float>();
  share(j.items(), [&](int64_t from, int64_t to) { (x.scalar_type() == at::kFloat ? forward_float : forward_bfloat16)(j, from, to); });
  return r;
}

struct NormSiLU : public torch::autograd::Function<NormSiLU> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, int64_t groups,
                            double eps) {
    Result r = compute(x, weight, bias, groups, eps);
    ctx->save_for_backward({x, weight, bias, r.mean, r.rstd});
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["eps"] = eps;
    return r.y;
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &bias = saved[2];
    const int64_t groups = ctx->saved_data["groups"].toInt();
    const double eps = ctx->saved_data["eps"].toDouble();
    variable_list out(5);
    if (c10::GradMode::is_enabled()) {  // second derivatives
      variable_list inputs, got;
      for (size_t i = 0; i < 3; i++)
        if (ctx->needs_input_grad(i)) inputs.push_back(saved[i]);
      got = torch::autograd::grad({plain(x, weight, bias, groups, eps)}, inputs, {grads[0]}, true, true);
      for (size_t i = 0, k = 0; i < 3; i++)
        if (ctx->needs_input_grad(i)) out[i] = got[k++];
      return out;
    }
    const at::Tensor w = wide(weight), b = wide(bias);
    const at::Tensor dy = grads[0].to(x.scalar_type()).contiguous(last_is_channels(x) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
    const at::Tensor dx = at::empty_like(x), dw = at::empty({x.size(0), x.size(1)}, w.options()), db = at::empty_like(dw);
    Job j = job(x, groups, eps);
    j.dy = dy.data_ptr();
    j.out = dx.data_ptr();
    j.weight = w.data_ptr<float>();
    j.bias = b.data_ptr<float>();
    j.mean = saved[3].data_ptr<float>();
    j.rstd = saved[4].data_ptr<float>();
    j.dweight = dw.data_ptr<float>();
    j.dbias = db.data_ptr<float>();
    share(j.items(), [&](int64_t from, int64_t to) { (x.scalar_type() == at::kFloat ? backward_float : backward_bfloat16)(j, from, to); });
    out[0] = dx;
    if (ctx->needs_input_grad(1)) out[1] = dw.sum(0).to(weight.scalar_type());
    if (ctx->needs_input_grad(2)) out[2] = db.sum(0).to(bias.scalar_type());
    return out;
  }
};

at::Tensor norm_silu(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, int64_t groups, double eps) {
  if (carries_tangent(x) || carries_tangent(weight) || carries_tangent(bias) || !takes(x, weight, bias, groups))
    return plain(x, weight, bias, groups, eps);
  const bool grad = c10::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad() || bias.requires_grad());
  return grad ? NormSiLU::apply(x, weight, bias, groups, eps) : compute(x, weight, bias, groups, eps).y;
}

}  // namespace

}  // namespace ct

TORCH_LIBRARY_FRAGMENT(onestep, m) {
  m.def("norm_silu(Tensor x, Tensor weight, Tensor bias, int groups, float eps) -> Tensor", &ct::norm_silu);
}
