// Winograd's convolutions of bfloat16 images with products of 16-bit integers, which processors with vpdpwssd compute twice as fast as those of
// floats. Sums of 32 bits are exact.
//
// Products of bfloat16 are as fast, but the formula multiplies their rounding errors: F(4×4) would be off by five times as much as the plain
// convolution in bfloat16. Integers of 16 bits have 128 times finer steps at the top, if one factor fits all numbers that are added: there is
// one for all of a tile and one for the weights of an output channel. Both are chosen so that no sum overflows, whatever the numbers: a
// sum of products is at most the product of the norms (Cauchy-Schwarz), of which one is kept below 2^15 and the other below 2^16. Norms, and
// with them the steps, grow with the number of channels that are added: so there are factors for every step_channels of them, whose sums are added
// as floats.
#pragma once

#include "winograd.h"

#include <cmath>
#include <vector>

namespace ct {

namespace {

namespace winograd {

// Bounds of the norms in steps, less what rounding adds: half the root of the number of channels.
constexpr float most_tile = 32700, most_weight = 65400, most_number = 32700;

constexpr float shift = 12582912.f;  // 1.5·2^23: a number that is added to it is rounded, and in the low bits

CT_INLINE Words rounded(Vec v) { return (Words)(v + shift); }

CT_INLINE float sum(Vec v) {
  float part[lanes];
  store(part, v);
  for (int64_t n = lanes / 2; n > 0; n /= 2)
    for (int64_t i = 0; i < n; i++) part[i] += part[i + n];
  return part[0];
}

// The size of a step of the transformed weights [blocks of step_channels input channels][out]: the norms of G g Gᵀ at a place, over the input channels, are
// at most |G's row|² times the weights' norm, and each number |G's row|₁² times the largest weight.
CT_INLINE void steps(const Weights &j, float *step) {
  constexpr float norm = g0 * g0, absolute = gb * (1 + b + bb) * gb * (1 + b + bb);  // those of the largest rows
  const auto set = [](float *step, float squares, float most) {
    *step = std::max(norm / most_weight * std::sqrt(squares), absolute / most_number * std::sqrt(most)) + 1e-30f + 0 * squares;  // or NaN
  };
  const int64_t width = 9 * j.c;  // of weights of one of k
  std::vector<float> all(j.back ? static_cast<size_t>(2 * width) : 0);
  for (int64_t from = 0; from < j.in(); from += step_channels) {
    const int64_t to = std::min(from + step_channels, j.in());
    float *steps = step + from / step_channels * j.out();
    if (!j.back) {
      for (int64_t k = 0; k < j.k; k++) {
        Vec squares = {}, most = {};
        for (int64_t i = k * width + 9 * from; i < k * width + 9 * to; i += lanes) {
          const Vec v = load(j.w + i), square = v * v;
          squares += square;
          most = square > most ? square : most;
        }
        float m = most[0];
        for (int64_t l = 1; l < lanes; l++) m = std::max(m, most[l]);
        set(steps + k, sum(squares), m);
      }
      continue;
    }
    float *squares = all.data(), *most = squares + width;
    std::fill(all.begin(), all.end(), 0.f);
    for (int64_t k = from; k < to; k++)
      for (int64_t i = 0; i < width; i += lanes) {
        const Vec v = load(j.w + k * width + i), square = v * v, m = load(most + i);
        store(squares + i, load(squares + i) + square);
        store(most + i, square > m ? square : m);
      }
    for (int64_t c = 0; c < j.c; c++) {
      float s = 0, m = 0;
      for (int64_t p = 0; p < 9; p++) s += squares[c * 9 + p], m = std::max(m, most[c * 9 + p]);
      set(steps + c, s, m);
    }
  }
}

// Weights to u [places][panels of out][in/2][panel][2].
CT_INLINE void transform_weights_int16(const Weights &j, int64_t from, int64_t to) {
  const int64_t in = j.in();
  auto *us = static_cast<int16_t *>(j.u);
  for (int64_t item = from; item < to; item++) {
    const int64_t o = item / (in / lanes) * lanes, i = item % (in / lanes) * lanes;
    float g[lanes][9][lanes];
    window_weights(j, o, i, g);
    const Vec per = 1.f / load(j.step + i / step_channels * j.out() + o);
    for (int64_t q = 0; q < lanes; q += 2) {
      Words low[places];
      const auto transform = [](const Vec *f, Vec *to) CT_LAMBDA { weight(f, to); };
      both<3, window>(transform, [&](int y, int x) CT_LAMBDA { return load(g[q][y * 3 + x]) * per; },
                      [&](int y, int x, Vec r) CT_LAMBDA { low[y * window + x] = rounded(r) & 0xffffu; });
      int16_t *u = us + (o / panel * in + i + q) * panel + o % panel * 2;
      both<3, window>(transform, [&](int y, int x) CT_LAMBDA { return load(g[q + 1][y * 3 + x]) * per; },
                      [&](int y, int x, Vec r) CT_LAMBDA {
                        const Words pair = low[y * window + x] | rounded(r) << 16;
                        std::memcpy(u + (y * window + x) * j.stride(), &pair, sizeof pair);
                      });
    }
  }
}

// Bᵀ d B of the window of a tile in steps, to v + place·stride, and the sizes of a step for each step_channels channels. wide is for the numbers
// themselves.
template <class E>
CT_INLINE void inputs_int16(const void *x, const Images &im, int64_t t, const void *zeros, float *wide, int16_t *v, int64_t stride, float *step) {
  using T = typename E::T;
  const Square<window, T> s(static_cast<const T *>(x), im, t, 1, static_cast<const T *>(zeros));
  const int64_t width = std::min(step_channels, im.c) + apart;
  for (int64_t from = 0; from < im.c; from += step_channels) {
    const int64_t n = std::min(step_channels, im.c - from);
    Vec squares[places] = {};
    for (int64_t c = 0; c < n; c += lanes)
      both<window, window>([](const Vec *f, Vec *to) CT_LAMBDA { input(f, to); }, [&](int i, int j) CT_LAMBDA { return E::load(s.at[i * window + j] + from + c); },
                           [&](int i, int j, Vec r) CT_LAMBDA {
                             store(wide + (i * window + j) * width + c, r);
                             squares[i * window + j] += r * r;
                           });
    Vec most = squares[0];
    for (int64_t p = 1; p < places; p++) most = squares[p] > most ? squares[p] : most;
    Vec all = most;  // not finite if a number is not, which comparisons may lose
    for (int64_t p = 1; p < places; p++) all += squares[p];
    const float norm = std::sqrt(sum(most + 0 * all)) + 1e-18f, per = most_tile / norm;
    for (int64_t p = 0; p < places; p++)
      for (int64_t c = 0; c < n; c += lanes) {
        const Halves q = __builtin_convertvector(rounded(load(wide + p * width + c) * per), Halves);
        std::memcpy(v + p * stride + from + c, &q, sizeof q);
      }
    step[from / step_channels] = norm / most_tile;
  }
}

// A product of matrices: rows × depth by depth × columns, a panel at most, each in steps of its own for every step_channels channels.
struct Int16Product {
  const int16_t *a;
  int64_t row;              // a's stride
  const int16_t *b;         // [depth/2, panel, 2]
  const float *as, *bs;     // the steps, [rows][blocks of depth] and [blocks of depth][bk]
  int64_t bk;
  float *out;               // [rows, panel]
  int64_t rows, depth, columns;
};

// out[r, k] = Σ_i a[r·row + i]·b[i/2][k][i%2] in steps as[r·blocks]·bs[k] for R rows and V vectors of k, or that added.
template <int R, int V>
CT_INLINE void block_int16(const int16_t *a, int64_t row, const int16_t *b, int64_t depth, const float *as, int64_t blocks, const float *bs, float *out, bool add) {
  Ints sum[R][V];
  CT_UNROLL for (int r = 0; r < R; r++) CT_UNROLL for (int v = 0; v < V; v++) sum[r][v] = Ints{};
  for (int64_t i = 0; i < depth; i += 2, a += 2, b += 2 * panel) {
    Ints bv[V];
    CT_UNROLL for (int v = 0; v < V; v++) std::memcpy(&bv[v], b + v * 2 * lanes, sizeof bv[v]);
    CT_UNROLL for (int r = 0; r < R; r++) {
      const auto *pair = reinterpret_cast<const int32_t *>(a + r * row);
      CT_UNROLL for (int v = 0; v < V; v++) {
        Ints s = sum[r][v];  // not an operand of asm, lest the compiler keeps it in memory
        asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(s) : "v"(bv[v]), "m"(*pair));
        sum[r][v] = s;
      }
    }
  }
  CT_UNROLL for (int r = 0; r < R; r++) CT_UNROLL for (int v = 0; v < V; v++) {
    float *o = out + r * panel + v * lanes;
    const Vec product = __builtin_convertvector(sum[r][v], Vec) * (load(bs + v * lanes) * as[r * blocks]);
    store(o, add ? load(o) + product : product);
  }
}

template <int V>
CT_INLINE void block_rows_int16(const Int16Product &p, int64_t from, int64_t column) {
  const int64_t n = std::min(step_channels, p.depth - from), blocks = (p.depth + step_channels - 1) / step_channels;
  for (int64_t r = 0; r < p.rows; r += 6) {
    const int16_t *a = p.a + r * p.row + from, *b = p.b + from * panel + 2 * column;
    const float *as = p.as + r * blocks + from / step_channels, *bs = p.bs + from / step_channels * p.bk + column;
    float *out = p.out + r * panel + column;
    switch (std::min<int64_t>(p.rows - r, 6)) {
#define CT_ROWS(R) \
  case R:          \
    block_int16<R, V>(a, p.row, b, n, as, blocks, bs, out, from > 0); \
    break;
      CT_ROWS(1) CT_ROWS(2) CT_ROWS(3) CT_ROWS(4) CT_ROWS(5) CT_ROWS(6)
#undef CT_ROWS
    }
  }
}

CT_INLINE void multiply_int16(const Int16Product &p) {
  for (int64_t from = 0; from < p.depth; from += step_channels) {
    if (p.columns == panel)
      block_rows_int16<panel / lanes>(p, from, 0);
    else
      for (int64_t k = 0; k < p.columns; k += lanes) block_rows_int16<1>(p, from, k);
  }
}

template <class E, class Multiply>
CT_INLINE void convolve_int16(const Convolution &j, float *scratch, int64_t from, int64_t to, Multiply multiply) {
  const int64_t vs = j.chunk * j.im.c + 2 * apart, ms = j.chunk * panel + apart, panels = (j.out + panel - 1) / panel, blocks = j.blocks();
  float *m = scratch, *wide = m + places * ms, *step = wide + places * (step_channels + apart);
  auto *v = reinterpret_cast<int16_t *>(step + (j.chunk * blocks + lanes - 1) / lanes * lanes);
  const auto *u = static_cast<const int16_t *>(j.u);
  for (int64_t item = from, last = -1; item < to; item++) {
    const int64_t t0 = item / j.parts * j.chunk, n = std::min(j.chunk, j.im.tiles() - t0), part = item % j.parts;
    if (t0 != last)
      for (int64_t t = 0; t < n; t++) inputs_int16<E>(j.x, j.im, t0 + t, j.zeros, wide, v + t * j.im.c, vs, step + t * blocks);
    last = t0;
    for (int64_t q = part * panels / j.parts; q < (part + 1) * panels / j.parts; q++) {
      const int64_t columns = std::min(panel, j.out - q * panel);
      for (int64_t p = 0; p < places; p++)
        multiply({v + p * vs, j.im.c, u + p * j.stride + q * j.im.c * panel, step, j.step + q * panel, j.out, m + p * ms, n, j.im.c, columns});
      for (int64_t t = 0; t < n; t++) outputs<E>(j, t0 + t, m + t * panel, ms, j.first + q * panel, columns);
    }
  }
}

}  // namespace winograd

}  // namespace

}  // namespace ct
