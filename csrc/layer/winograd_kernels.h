// The kernels of Winograd's convolutions for the levels of processors.
#pragma once

#include "winograd.h"
#include "winograd_int16.h"

namespace ct {

namespace {

namespace winograd {

struct Kernels {
  void (*steps)(const Weights &, float *step);  // nullptr: u is of floats, not in steps
  void (*weights)(const Weights &, int64_t from, int64_t to);
  void (*convolve)(const Convolution &, float *scratch, int64_t from, int64_t to);
  void (*tiles)(const Gradient &, int64_t from, int64_t to);
  void (*products)(const Gradient &, int64_t from, int64_t to);
  void (*gradient)(const Gradient &, int64_t from, int64_t to);
};

// Products keep 6 rows of V vectors in registers: 24 of 32, and 6 pairs of 16.
#define CT_LEVEL(level, arch, V)                                                                                                           \
  namespace level {                                                                                                                        \
  __attribute__((target(arch), noinline)) void multiply(const Product &p) { winograd::multiply<V>(p); }                                    \
  __attribute__((target(arch))) void weights(const Weights &j, int64_t from, int64_t to) { transform_weights(j, from, to); }               \
  __attribute__((target(arch))) void products(const Gradient &j, int64_t from, int64_t to) { gradient_products(j, from, to, multiply); }   \
  __attribute__((target(arch))) void gradient(const Gradient &j, int64_t from, int64_t to) { gradient_weights(j, from, to); }              \
  }

// The kernels of a level for images of type E.
#define CT_IMAGES(name, level, arch, E)                                                                                                    \
  namespace name {                                                                                                                         \
  __attribute__((target(arch))) void convolve(const Convolution &j, float *scratch, int64_t from, int64_t to) {                            \
    winograd::convolve<E>(j, scratch, from, to, level::multiply);                                                                          \
  }                                                                                                                                        \
  __attribute__((target(arch))) void tiles(const Gradient &j, int64_t from, int64_t to) { gradient_tiles<E>(j, from, to); }                \
  constexpr Kernels kernels = {nullptr, level::weights, convolve, tiles, level::products, level::gradient};                                \
  }

// The kernels in 16-bit integers.
#define CT_INT16(name, level, arch, E)                                                                                                     \
  namespace name {                                                                                                                         \
  __attribute__((target(arch), noinline)) void multiply(const Int16Product &p) { multiply_int16(p); }                                      \
  __attribute__((target(arch))) void steps(const Weights &j, float *step) { winograd::steps(j, step); }                                    \
  __attribute__((target(arch))) void weights(const Weights &j, int64_t from, int64_t to) { transform_weights_int16(j, from, to); }         \
  __attribute__((target(arch))) void convolve(const Convolution &j, float *scratch, int64_t from, int64_t to) {                            \
    convolve_int16<E>(j, scratch, from, to, multiply);                                                                                     \
  }                                                                                                                                        \
  __attribute__((target(arch))) void tiles(const Gradient &j, int64_t from, int64_t to) { gradient_tiles<E>(j, from, to); }                \
  constexpr Kernels kernels = {steps, weights, convolve, tiles, level::products, level::gradient};                                         \
  }

#if CT_VECTORS
CT_LEVEL(v4, "arch=x86-64-v4", 4)
CT_LEVEL(v3, "arch=x86-64-v3", 1)
CT_IMAGES(v4_float, v4, "arch=x86-64-v4", Float)
CT_IMAGES(v3_float, v3, "arch=x86-64-v3", Float)
CT_INT16(int16, v4, "arch=x86-64-v4,avx512vnni,avx512bf16", NativeBFloat16)
CT_IMAGES(v4_bfloat16, v4, "arch=x86-64-v4", BFloat16)
CT_IMAGES(v3_bfloat16, v3, "arch=x86-64-v3", BFloat16)

// The kernels for this processor and images in float32 or bfloat16, or nullptr: without wide vectors libtorch's convolutions are as good, and with
// AMX, which computes products of bfloat16 eight times as fast as vectors do, they are better in bfloat16.
const Kernels *kernels(bool half) {
  static const bool v4 = __builtin_cpu_supports("x86-64-v4"), v3 = __builtin_cpu_supports("x86-64-v3"), amx = __builtin_cpu_supports("amx-bf16"),
                    integers = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  if (!v3 || (half && amx)) return nullptr;
  if (!half) return v4 ? &v4_float::kernels : &v3_float::kernels;
  return !v4 ? &v3_bfloat16::kernels : integers ? &int16::kernels : &v4_bfloat16::kernels;
}
#else
const Kernels *kernels(bool) { return nullptr; }
#endif

}  // namespace winograd

}  // namespace

}  // namespace ct
