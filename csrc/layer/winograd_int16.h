// Winograd's convolutions of bfloat16 images with products of 16-bit integers, which processors with vpdpwssd compute twice as fast as those of
// floats. Sums of 32 bits are exact.
//
// Products of bfloat16 are as fast, but the formula multiplies their rounding errors: F(4×4) would be off by five times as much as the plain
// convolution in bfloat16. Integers of 16 bits have 128 times finer steps at the top, if one factor fits all numbers that are added: there is
// one for all of a tile and one for the weights of an output channel. Both are chosen so that no sum overflows, whatever the numbers: a
// sum of products is at most the product of the norms (Cauchy-Schwarz), of which one is kept below 2^15 and the other below 2^16.
#pragma once

#include "winograd.h"

#include <cmath>
#include <vector>

namespace ct {

namespace {

namespace winograd {

// Bounds of the norms in steps, less what rounding adds: half the root of the number of channels, of which there are at most 2^16.
constexpr float most_tile = 32600, most_weight = 65300, most_number = 32700;
constexpr int64_t most_channels = 1 << 16;

constexpr float shift = 12582912.f;  // 1.5·2^23: a number that is added to it is rounded, and in the low bits

CT_INLINE Words rounded(Vec v) { return (Words)(v + shift); }

CT_INLINE float sum(Vec v) {
  float part[lanes];
  store(part, v);
  for (int64_t n = lanes / 2; n > 0; n /= 2)
    for (int64_t i = 0; i < n; i++) part[i] += part[i + n];
  return part[0];
}

// The size of a step of the transformed weights, for each output channel: the norms of G g Gᵀ at a place, over the input channels, are at most
// |G's row|² times the weights' norm, and each number |G's row|₁² times the largest weight.
CT_INLINE void steps(const Weights &j, float *step) {
  constexpr float norm = g0 * g0, absolute = gb * (1 + b + bb) * gb * (1 + b + bb);  // those of the largest rows
  const int64_t width = 9 * j.c;  // of weights of one of k
  const auto set = [](float *step, float squares, float most) {
    *step = std::max(norm / most_weight * std::sqrt(squares), absolute / most_number * std::sqrt(most)) + 1e-30f + 0 * squares;  // or NaN
  };
  if (!j.back) {
    for (int64_t k = 0; k < j.k; k++) {
      Vec squares = {}, most = {};
      for (int64_t i = 0; i < width; i += lanes) {
        const Vec v = load(j.w + k * width + i), square = v * v;
        squares += square;
        most = square > most ? square : most;
      }
      float m = most[0];
      for (int64_t l = 1; l < lanes; l++) m = std::max(m, most[l]);
      set(step + k, sum(squares), m);
    }
    return;
  }
  std::vector<float> all(static_cast<size_t>(2 * width));
  float *squares = all.data(), *most = squares + width;
  for (int64_t k = 0; k < j.k; k++)
    for (int64_t i = 0; i < width; i += lanes) {
      const Vec v = load(j.w + k * width + i), square = v * v, m = load(most + i);
      store(squares + i, load(squares + i) + square);
      store(most + i, square > m ? square : m);
    }
  for (int64_t c = 0; c < j.c; c++) {
    float s = 0, m = 0;
    for (int64_t p = 0; p < 9; p++) s += squares[c * 9 + p], m = std::max(m, most[c * 9 + p]);
    set(step + c, s, m);
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
    const Vec per = 1.f / load(j.step + j.first + o);
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

// Bᵀ d B of the window of a tile in steps, to v + place·stride; returns the size of a step. wide [places][c] is for the numbers themselves.
template <class E>
CT_INLINE float inputs_int16(const void *x, const Images &im, int64_t t, const void *zeros, float *wide, int16_t *v, int64_t stride) {
  using T = typename E::T;
  const Square<window, T> s(static_cast<const T *>(x), im, t, 1, static_cast<const T *>(zeros));
  Vec squares[places] = {};
  for (int64_t c = 0; c < im.c; c += lanes)
    both<window, window>([](const Vec *f, Vec *to) CT_LAMBDA { input(f, to); }, [&](int i, int j) CT_LAMBDA { return E::load(s.at[i * window + j] + c); },
                         [&](int i, int j, Vec r) CT_LAMBDA {
                           store(wide + (i * window + j) * im.c + c, r);
                           squares[i * window + j] += r * r;
                         });
  Vec most = squares[0];
  for (int64_t p = 1; p < places; p++) most = squares[p] > most ? squares[p] : most;
  Vec all = most;  // not finite if a number is not, which comparisons may lose
  for (int64_t p = 1; p < places; p++) all += squares[p];
  const float norm = std::sqrt(sum(most + 0 * all)) + 1e-18f, per = most_tile / norm;
  for (int64_t p = 0; p < places; p++)
    for (int64_t c = 0; c < im.c; c += lanes) {
      const Halves q = __builtin_convertvector(rounded(load(wide + p * im.c + c) * per), Halves);
      std::memcpy(v + p * stride + c, &q, sizeof q);
    }
  return norm / most_tile;
}

// out[r, k] = Σ_i a[r·row + i]·b[i/2][k][i%2] for R rows and V vectors of k.
template <int R, int V>
CT_INLINE void block_int16(const int16_t *a, int64_t row, const int16_t *b, int64_t depth, float *out) {
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
  CT_UNROLL for (int r = 0; r < R; r++) CT_UNROLL for (int v = 0; v < V; v++)
    store(out + r * panel + v * lanes, __builtin_convertvector(sum[r][v], Vec));
}

// A product of matrices: rows × depth by depth × columns, a panel at most.
struct Int16Product {
  const int16_t *a;
  int64_t row;  // a's stride
  const int16_t *b;  // [depth/2, panel, 2]
  float *out;  // [rows, panel]
  int64_t rows, depth, columns;
};

template <int V>
CT_INLINE void block_rows_int16(const Int16Product &p, int64_t column) {
  for (int64_t r = 0; r < p.rows; r += 6) {
    const int16_t *a = p.a + r * p.row, *b = p.b + 2 * column;
    float *out = p.out + r * panel + column;
    switch (std::min<int64_t>(p.rows - r, 6)) {
#define CT_ROWS(R) \
  case R:          \
    block_int16<R, V>(a, p.row, b, p.depth, out); \
    break;
      CT_ROWS(1) CT_ROWS(2) CT_ROWS(3) CT_ROWS(4) CT_ROWS(5) CT_ROWS(6)
#undef CT_ROWS
    }
  }
}

CT_INLINE void multiply_int16(const Int16Product &p) {
  if (p.columns == panel)
    block_rows_int16<panel / lanes>(p, 0);
  else
    for (int64_t k = 0; k < p.columns; k += lanes) block_rows_int16<1>(p, k);
}

template <class E, class Multiply>
CT_INLINE void convolve_int16(const Convolution &j, float *scratch, int64_t from, int64_t to, Multiply multiply) {
  const int64_t vs = j.chunk * j.im.c + 2 * apart, ms = j.chunk * panel + apart, panels = (j.out + panel - 1) / panel;
  float *m = scratch, *wide = m + places * ms, *step = wide + places * j.im.c;
  auto *v = reinterpret_cast<int16_t *>(step + (j.chunk + lanes - 1) / lanes * lanes);
  const auto *u = static_cast<const int16_t *>(j.u);
  for (int64_t item = from, last = -1; item < to; item++) {
    const int64_t t0 = item / j.parts * j.chunk, n = std::min(j.chunk, j.im.tiles() - t0), part = item % j.parts;
    if (t0 != last)
      for (int64_t t = 0; t < n; t++) step[t] = inputs_int16<E>(j.x, j.im, t0 + t, j.zeros, wide, v + t * j.im.c, vs);
    last = t0;
    for (int64_t q = part * panels / j.parts; q < (part + 1) * panels / j.parts; q++) {
      const int64_t columns = std::min(panel, j.out - q * panel);
      for (int64_t p = 0; p < places; p++)
        multiply({v + p * vs, j.im.c, u + p * j.stride + q * j.im.c * panel, m + p * ms, n, j.im.c, columns});
      for (int64_t t = 0; t < n; t++) outputs<E, true>(j, t0 + t, m + t * panel, ms, j.first + q * panel, columns, step[t]);
    }
  }
}

}  // namespace winograd

}  // namespace

}  // namespace ct
