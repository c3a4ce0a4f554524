// The kernels of 3×3 convolutions by Winograd's minimal filtering (Winograd 1980; Lavin & Gray 2016): F(4×4, 3×3).
//
// A tile of 4×4 outputs is Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, for the 6×6 inputs d under it and the 3×3 weights g: 36 products for each pair of
// channels, where the sum over the window takes 144. For all tiles and channels they are 36 products of matrices. The gradient of the
// input is the convolution of the gradient with the weights turned around; that of the weights is the transpose of the same formula,
// Gᵀ[Σ (A dY Aᵀ) ⊙ (Bᵀ d B)]G.
//
// Images are in channels-last order, so that every vector holds 16 channels of a pixel, and numbers of channels are multiples of 16.
#pragma once

#include "kernel.h"

#include <algorithm>

#define CT_UNROLL _Pragma("GCC unroll 64")
#define CT_LAMBDA __attribute__((always_inline))

namespace ct {

namespace {

namespace winograd {

constexpr int64_t tile = 4, window = 6, places = window * window;
constexpr int64_t panel = 64;     // output channels of one product
constexpr int64_t deep = 256;     // input channels that are added before they go to memory
constexpr int64_t step_channels = 128;  // those that have one step, if numbers are in steps
constexpr int64_t apart = lanes;  // numbers between the matrices of two places: at multiples of 4 KiB they would evict each other

// The formula interpolates at 0, ±a, ±b and infinity. Of all points of this form 5/8 and 3/2 have the least error in float32: half of
// that of the usual 1 and 2. Powers and products of them are exact.
constexpr float a = 0.625f, b = 1.5f, aa = a * a, bb = b * b;
// At ±b Bᵀ has the factor 3/2, G 8/3 and A 1/4, so that the numbers at all places have about one size.
constexpr float scale = 0.25f, sb = scale * b, sbb = scale * bb;
constexpr float g0 = 1 / (aa * bb), ga = 1 / (2 * aa * (aa - bb)), gb = 1 / (scale * b * 2 * bb * (bb - aa));

CT_INLINE void input(const Vec *d, Vec *v) {  // Bᵀ d
  const Vec ea = d[4] - bb * d[2], oa = d[3] - bb * d[1], eb = d[4] - aa * d[2], ob = d[3] - aa * d[1];
  v[0] = d[4] - (aa + bb) * d[2] + (aa * bb) * d[0];
  v[1] = ea + a * oa;
  v[2] = ea - a * oa;
  v[3] = b * eb + bb * ob;
  v[4] = b * eb - bb * ob;
  v[5] = d[5] - (aa + bb) * d[3] + (aa * bb) * d[1];
}

CT_INLINE void output(const Vec *v, Vec *y) {  // Aᵀ v
  const Vec pa = v[1] + v[2], ma = v[1] - v[2], pb = v[3] + v[4], mb = v[3] - v[4];
  y[0] = v[0] + pa + scale * pb;
  y[1] = a * ma + sb * mb;
  y[2] = aa * pa + sbb * pb;
  y[3] = (a * aa) * ma + (sb * bb) * mb + v[5];
}

CT_INLINE void output_back(const Vec *y, Vec *v) {  // A y
  const Vec ea = y[0] + aa * y[2], oa = a * y[1] + (a * aa) * y[3], eb = scale * y[0] + sbb * y[2], ob = sb * y[1] + (sb * bb) * y[3];
  v[0] = y[0];
  v[1] = ea + oa;
  v[2] = ea - oa;
  v[3] = eb + ob;
  v[4] = eb - ob;
  v[5] = y[3];
}

CT_INLINE void weight(const Vec *g, Vec *u) {  // G g
  const Vec ea = ga * g[0] + (ga * aa) * g[2], oa = (ga * a) * g[1], eb = gb * g[0] + (gb * bb) * g[2], ob = (gb * b) * g[1];
  u[0] = g0 * g[0];
  u[1] = ea + oa;
  u[2] = ea - oa;
  u[3] = eb + ob;
  u[4] = eb - ob;
  u[5] = g[2];
}

CT_INLINE void weight_back(const Vec *u, Vec *g) {  // Gᵀ u
  const Vec pa = u[1] + u[2], ma = u[1] - u[2], pb = u[3] + u[4], mb = u[3] - u[4];
  g[0] = g0 * u[0] + ga * pa + gb * pb;
  g[1] = (ga * a) * ma + (gb * b) * mb;
  g[2] = (ga * aa) * pa + (gb * bb) * pb + u[5];
}

// f along both axes, from m×m to n×n vectors: at(i, j) are the first, put(i, j, v) takes the others.
template <int m, int n, class F, class At, class Put>
CT_INLINE void both(F f, At at, Put put) {
  Vec half[n][m];
  CT_UNROLL for (int j = 0; j < m; j++) {
    Vec from[m], to[n];
    CT_UNROLL for (int i = 0; i < m; i++) from[i] = at(i, j);
    f(from, to);
    CT_UNROLL for (int i = 0; i < n; i++) half[i][j] = to[i];
  }
  CT_UNROLL for (int i = 0; i < n; i++) {
    Vec to[n];
    f(half[i], to);
    CT_UNROLL for (int j = 0; j < n; j++) put(i, j, to[j]);
  }
}

// Images [n, h, w, c], cut into tiles.
struct Images {
  int64_t n, h, w, c;
  int64_t down() const { return (h + tile - 1) / tile; }
  int64_t across() const { return (w + tile - 1) / tile; }
  int64_t tiles() const { return n * down() * across(); }
};

// Where a tile's pixels are: the pixels of a square of that size from (y, x) on, and zeros outside of the image.
template <int size, class T>
struct Square {
  const T *at[size * size];
  CT_INLINE Square(const T *x, const Images &im, int64_t t, int64_t before, const T *zeros) {
    const int64_t each = im.down() * im.across(), image = t / each, y0 = t % each / im.across() * tile - before, x0 = t % im.across() * tile - before;
    const T *first = x + image * im.h * im.w * im.c;
    for (int64_t i = 0; i < size; i++)
      for (int64_t j = 0; j < size; j++) {
        const int64_t py = y0 + i, px = x0 + j;
        at[i * size + j] = py >= 0 && py < im.h && px >= 0 && px < im.w ? first + (py * im.w + px) * im.c : zeros;
      }
  }
};

// Bᵀ d B of the window of a tile, to v + place·stride.
template <class E>
CT_INLINE void inputs(const void *x, const Images &im, int64_t t, const void *zeros, float *v, int64_t stride) {
  using T = typename E::T;
  const Square<window, T> s(static_cast<const T *>(x), im, t, 1, static_cast<const T *>(zeros));
  for (int64_t c = 0; c < im.c; c += lanes)
    both<window, window>([](const Vec *f, Vec *to) CT_LAMBDA { input(f, to); }, [&](int i, int j) CT_LAMBDA { return E::load(s.at[i * window + j] + c); },
                         [&](int i, int j, Vec r) CT_LAMBDA { store(v + (i * window + j) * stride + c, r); });
}

// out[r, k] = Σ_i a[r·row + i·step]·b[i·panel + k] for R rows and V vectors of k, or that added.
template <int R, int V>
CT_INLINE void block(const float *a, int64_t row, int64_t step, const float *b, int64_t depth, float *out, int64_t width, bool add) {
  Vec sum[R][V];
  CT_UNROLL for (int r = 0; r < R; r++) CT_UNROLL for (int v = 0; v < V; v++) sum[r][v] = Vec{};
  for (int64_t i = 0; i < depth; i++, a += step, b += panel) {
    Vec bv[V];
    CT_UNROLL for (int v = 0; v < V; v++) bv[v] = load(b + v * lanes);
    CT_UNROLL for (int r = 0; r < R; r++) {
      const float s = a[r * row];
      CT_UNROLL for (int v = 0; v < V; v++) sum[r][v] += s * bv[v];
    }
  }
  CT_UNROLL for (int r = 0; r < R; r++) CT_UNROLL for (int v = 0; v < V; v++) {
    float *o = out + r * width + v * lanes;
    store(o, add ? load(o) + sum[r][v] : sum[r][v]);
  }
}

// A product of matrices: rows × depth by depth × columns, a panel at most.
struct Product {
  const float *a;
  int64_t row, step;  // a's strides
  const float *b;     // [depth, panel]
  float *out;
  int64_t width;  // out's stride
  int64_t rows, depth, columns;
  bool add;
};

template <int V>
CT_INLINE void block_rows(const Product &p, int64_t from, int64_t to, bool add, int64_t column) {
  for (int64_t r = 0; r < p.rows; r += 6) {
    const float *a = p.a + r * p.row + from * p.step, *b = p.b + from * panel + column;
    float *out = p.out + r * p.width + column;
    switch (std::min<int64_t>(p.rows - r, 6)) {
#define CT_ROWS(R) \
  case R:          \
    block<R, V>(a, p.row, p.step, b, to - from, out, p.width, add); \
    break;
      CT_ROWS(1) CT_ROWS(2) CT_ROWS(3) CT_ROWS(4) CT_ROWS(5) CT_ROWS(6)
#undef CT_ROWS
    }
  }
}

template <int V>
CT_INLINE void multiply(const Product &p) {
  for (int64_t from = 0; from < p.depth; from += deep) {
    const int64_t to = std::min(p.depth, from + deep);
    const bool add = p.add || from > 0;
    if (V > 1 && p.columns == V * lanes)
      block_rows<V>(p, from, to, add, 0);
    else
      for (int64_t k = 0; k < p.columns; k += lanes) block_rows<1>(p, from, to, add, k);
  }
}

// ---- weights: G g Gᵀ ------------------------------------------------------------------------------------------------

// Weights [k, c, 3, 3] to u [places][panels of out][in][panel].
struct Weights {
  const float *w;
  int64_t k, c;
  bool back;          // out is c, in is k, and the window is turned around
  const float *step;  // if u is in steps
  void *u;
  int64_t in() const { return back ? k : c; }
  int64_t out() const { return back ? c : k; }
  int64_t stride() const { return (out() + panel - 1) / panel * panel * in() + 2 * apart; }
  int64_t items() const { return out() / lanes * (in() / lanes); }
};

// The weights from output channel o and input channel i on: g [in][place in the window][out].
CT_INLINE void window_weights(const Weights &j, int64_t o, int64_t i, float (&g)[lanes][9][lanes]) {
  for (int64_t l = 0; l < lanes; l++) {
    const int64_t row = j.back ? (i + l) * j.c + o : (o + l) * j.c + i;
    const float *w = j.w + row * 9;
    for (int64_t q = 0; q < lanes; q++)
      for (int64_t p = 0; p < 9; p++) (j.back ? g[l][8 - p][q] : g[q][p][l]) = w[q * 9 + p];
  }
}

CT_INLINE void transform_weights(const Weights &j, int64_t from, int64_t to) {
  const int64_t in = j.in();
  for (int64_t item = from; item < to; item++) {
    const int64_t o = item / (in / lanes) * lanes, i = item % (in / lanes) * lanes;
    float g[lanes][9][lanes];
    window_weights(j, o, i, g);
    for (int64_t q = 0; q < lanes; q++) {
      float *u = static_cast<float *>(j.u) + (o / panel * in + i + q) * panel + o % panel;
      both<3, window>([](const Vec *f, Vec *to) CT_LAMBDA { weight(f, to); }, [&](int y, int x) CT_LAMBDA { return load(g[q][y * 3 + x]); },
                      [&](int y, int x, Vec r) CT_LAMBDA { store(u + (y * window + x) * j.stride(), r); });
    }
  }
}

// ---- convolution --------------------------------------------------------------------------------------------------

struct Convolution {
  Images im;  // the input
  const void *x, *zeros;
  const void *u;
  const float *step, *bias;  // step: as that of the weights
  void *y;
  int64_t k, stride;     // channels of the output; of u
  int64_t first, out;    // those of u
  int64_t chunk, parts;  // tiles of an item; items that share the tiles, each with some panels
  int64_t items() const { return (im.tiles() + chunk - 1) / chunk * parts; }
  int64_t blocks() const { return (im.c + step_channels - 1) / step_channels; }
  int64_t scratch() const { return places * (chunk * (im.c + panel) + step_channels + 3 * apart) + chunk * blocks() + lanes; }
};

template <class E>
CT_INLINE void outputs(const Convolution &j, int64_t t, const float *m, int64_t stride, int64_t k, int64_t columns) {
  const int64_t down = j.im.down(), across = j.im.across(), h = j.im.h, w = j.im.w;
  const int64_t y0 = t / across % down * tile, x0 = t % across * tile;
  auto *y = static_cast<typename E::T *>(j.y) + ((t / (down * across) * h + y0) * w + x0) * j.k + k;
  const int64_t rows = h - y0, cols = w - x0;
  for (int64_t c = 0; c < columns; c += lanes) {
    const Vec bias = j.bias ? load(j.bias + k + c) : Vec{};
    both<window, tile>([](const Vec *f, Vec *to) CT_LAMBDA { output(f, to); }, [&](int i, int x) CT_LAMBDA { return load(m + (i * window + x) * stride + c); },
                       [&](int i, int x, Vec r) CT_LAMBDA {
                         if (i < rows && x < cols) E::store(y + (i * w + x) * j.k + c, r + bias);
                       });
  }
}

template <class E, class Multiply>
CT_INLINE void convolve(const Convolution &j, float *scratch, int64_t from, int64_t to, Multiply multiply) {
  float *v = scratch, *m = v + places * (j.chunk * j.im.c + apart);
  const int64_t vs = j.chunk * j.im.c + apart, ms = j.chunk * panel + apart, panels = (j.out + panel - 1) / panel;
  const auto *u = static_cast<const float *>(j.u);
  for (int64_t item = from, last = -1; item < to; item++) {
    const int64_t t0 = item / j.parts * j.chunk, n = std::min(j.chunk, j.im.tiles() - t0), part = item % j.parts;
    if (t0 != last)
      for (int64_t t = 0; t < n; t++) inputs<E>(j.x, j.im, t0 + t, j.zeros, v + t * j.im.c, vs);
    last = t0;
    for (int64_t q = part * panels / j.parts; q < (part + 1) * panels / j.parts; q++) {
      const int64_t columns = std::min(panel, j.out - q * panel);
      for (int64_t p = 0; p < places; p++)
        multiply({v + p * vs, j.im.c, 1, u + p * j.stride + q * j.im.c * panel, m + p * ms, panel, n, j.im.c, columns, false});
      for (int64_t t = 0; t < n; t++) outputs<E>(j, t0 + t, m + t * panel, ms, j.first + q * panel, columns);
    }
  }
}

// ---- the gradient of the weights ------------------------------------------------------------------------------------

// A chunk of tiles at a time: Bᵀ d B and A dY Aᵀ of its tiles, whose products are added to sums; Gᵀ sums G at the end.
struct Gradient {
  Images im;  // the input
  const void *x, *dy, *zeros;
  int64_t k;             // channels of the output
  float *v, *d;          // [places][chunk][c], [places][panels of k][chunk][panel]
  float *sums, *dw;      // [places][c, k], [k, c, 3, 3]
  int64_t chunk, first, n;  // the most tiles of a chunk; those of this
  int64_t vs() const { return chunk * im.c + apart; }
  int64_t ds() const { return (k + panel - 1) / panel * panel * chunk + apart; }
  int64_t ss() const { return im.c * k + apart; }
};

template <class E>
CT_INLINE void gradient_tiles(const Gradient &j, int64_t from, int64_t to) {
  using T = typename E::T;
  Images out = j.im;
  out.c = j.k;
  for (int64_t t = from; t < to; t++) {
    inputs<E>(j.x, j.im, j.first + t, j.zeros, j.v + t * j.im.c, j.vs());
    const Square<tile, T> s(static_cast<const T *>(j.dy), out, j.first + t, 0, static_cast<const T *>(j.zeros));
    for (int64_t k = 0; k < j.k; k += lanes) {
      float *d = j.d + (k / panel * j.chunk + t) * panel + k % panel;
      both<tile, window>([](const Vec *f, Vec *to) CT_LAMBDA { output_back(f, to); }, [&](int i, int x) CT_LAMBDA { return E::load(s.at[i * tile + x] + k); },
                         [&](int i, int x, Vec r) CT_LAMBDA { store(d + (i * window + x) * j.ds(), r); });
    }
  }
}

template <class Multiply>
CT_INLINE void gradient_products(const Gradient &j, int64_t from, int64_t to, Multiply multiply) {
  for (int64_t p = from; p < to; p++)
    for (int64_t k = 0; k < j.k; k += panel)
      multiply({j.v + p * j.vs(), 1, j.im.c, j.d + p * j.ds() + k * j.chunk, j.sums + p * j.ss() + k, j.k, j.im.c, j.n, std::min(panel, j.k - k), j.first > 0});
}

CT_INLINE void gradient_weights(const Gradient &j, int64_t from, int64_t to) {
  for (int64_t item = from; item < to; item++) {
    const int64_t k = item / (j.im.c / lanes) * lanes, c = item % (j.im.c / lanes) * lanes;
    float g[lanes][9][lanes];  // [c][place in the window][k]
    for (int64_t q = 0; q < lanes; q++) {
      const float *s = j.sums + (c + q) * j.k + k;
      both<window, 3>([](const Vec *f, Vec *to) CT_LAMBDA { weight_back(f, to); }, [&](int y, int x) CT_LAMBDA { return load(s + (y * window + x) * j.ss()); },
                      [&](int y, int x, Vec r) CT_LAMBDA { store(g[q][y * 3 + x], r); });
    }
    for (int64_t l = 0; l < lanes; l++) {
      float *w = j.dw + ((k + l) * j.im.c + c) * 9;
      for (int64_t q = 0; q < lanes; q++)
        for (int64_t p = 0; p < 9; p++) w[q * 9 + p] = g[q][p][l];
    }
  }
}

}  // namespace winograd

}  // namespace

}  // namespace ct
