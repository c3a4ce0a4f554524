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
