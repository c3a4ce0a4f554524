// What this layer's own kernels share: vectors, and the threads they run on.
#pragma once

#include <ATen/Functions.h>
#include <ATen/TensorIterator.h>

#include <cstdint>
#include <cstring>

// Whether the compiler has what kernels need: vectors, and code for several levels of processors. Without them libtorch's operators are faster.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CT_VECTORS 1
#else
#define CT_VECTORS 0
#endif

namespace ct {

namespace {

// Kernels are written for vectors of 16 numbers, which the compiler maps to what the processor has.
#pragma GCC diagnostic ignored "-Wpsabi"  // functions that are inlined pass no vectors
#define CT_INLINE inline __attribute__((always_inline))

constexpr int64_t lanes = 16;
typedef float Vec __attribute__((vector_size(64)));

CT_INLINE Vec load(const float *p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
CT_INLINE void store(float *p, Vec v) { std::memcpy(p, &v, sizeof v); }

// The types of numbers in memory; kernels compute with float.
struct Float {
  using T = float;
  static CT_INLINE Vec load(const T *p) { return ct::load(p); }
  static CT_INLINE void store(T *p, Vec v) { ct::store(p, v); }
};

typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

struct BFloat16 {
  using T = uint16_t;
  static CT_INLINE Vec load(const T *p) {
    Halves h;
    std::memcpy(&h, p, sizeof h);
    return (Vec)(__builtin_convertvector(h, Words) << 16);
  }
  static CT_INLINE void store(T *p, Vec v) {  // to the nearest, ties to even
    const Words bits = (Words)v;
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words nan = (bits >> 16) | 0x40u;
    const Halves h = __builtin_convertvector(v == v ? rounded : nan, Halves);
    std::memcpy(p, &h, sizeof h);
  }
};

// The same for processors with avx512_bf16.
struct NativeBFloat16 : BFloat16 {
  static CT_INLINE void store(T *p, Vec v) {
    Halves h;
    asm("vcvtneps2bf16 %1, %0" : "=v"(h) : "v"(v));
    std::memcpy(p, &h, sizeof h);
  }
};

// Whether images are in channels-last order, and in no other.
inline bool last_is_channels(const at::Tensor &x) { return !x.is_contiguous() && x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast); }

// Runs f on all items, on the threads of libtorch's operators: a tensor iterator over one byte per item, which nobody touches, shares
// them out.
template <class F>
void share(int64_t items, const F &f) {
  const at::Tensor places = at::empty({items}, at::kByte);
  const auto *base = static_cast<const char *>(places.data_ptr());
  auto iter = at::TensorIteratorConfig().check_all_same_dtype(false).resize_outputs(false).add_output(places).build();
  iter.for_each(
      [&](char **data, const int64_t *, int64_t n) {
        const int64_t from = data[0] - base;
        f(from, from + n);
      },
      /*grain_size=*/1);
}

}  // namespace

}  // namespace ct
