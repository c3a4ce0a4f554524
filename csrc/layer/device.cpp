// The process: versions, threads, generators, CUDA opened at run time.
#include "guard.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Version.h>
#include <ATen/core/Generator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>

using namespace ct;

namespace ct {

std::atomic<int32_t> wanted_threads{0};

void apply_threads() {
  const int32_t n = wanted_threads.load(std::memory_order_relaxed);
  if (n > 0) at::set_num_threads(n);
  applied_threads = n;
}

}  // namespace ct

namespace {

c10::GeneratorImpl *gen(ct_generator g) { return reinterpret_cast<c10::GeneratorImpl *>(g); }

at::Generator borrow_gen(ct_generator g) {
  return at::Generator(c10::intrusive_ptr<c10::GeneratorImpl>::reclaim_copy(gen(g)));
}

std::string folder_of_libtorch() {
  Dl_info info;
  // A function of libtorch_cpu itself: headers' inline functions would name this binary.
  if (!dladdr(reinterpret_cast<void *>(&at::get_cpu_capability), &info) || !info.dli_fname) return "";
  return info.dli_fname;
}

c10::DeviceAllocator *cuda_allocator() { return c10::getDeviceAllocator(c10::kCUDA); }

}  // namespace

extern "C" {

int32_t ct_init(const char **reason) {
  static std::once_flag once;
  static int32_t opened = 0;
  static std::string why;
  std::call_once(once, [] {
    // The driver first: without it CUDA cannot work, and opening libtorch_cuda costs a second and a gigabyte of mappings.
    if (!dlopen("libcuda.so.1", RTLD_LAZY | RTLD_GLOBAL)) {
      why = std::string("no NVIDIA driver: ") + dlerror();
      return;
    }
    std::string path = folder_of_libtorch();
    const auto slash = path.rfind('/');
    path = (slash == std::string::npos ? std::string() : path.substr(0, slash + 1)) + "libtorch_cuda.so";
    if (!dlopen(path.c_str(), RTLD_LAZY | RTLD_GLOBAL)) {
      why = std::string("libtorch_cuda did not load: ") + dlerror();
      return;
    }
    opened = 1;
  });
  *reason = why.c_str();
  return opened;
}

const char *ct_compiled_version(void) {
#define ONESTEP_STR2(x) #x
#define ONESTEP_STR(x) ONESTEP_STR2(x)
  return ONESTEP_STR(TORCH_VERSION_MAJOR) "." ONESTEP_STR(TORCH_VERSION_MINOR) "." ONESTEP_STR(TORCH_VERSION_PATCH);
}

const char *ct_version(void) {
  // at::show_config begins "PyTorch built with:" and names no version of its own; the config lists TORCH_VERSION.
  static std::string v;
  static std::once_flag once;
  std::call_once(once, [] {
    try {
      const std::string config = at::show_config();
      const std::string key = "TORCH_VERSION=";
      const auto at = config.find(key);
      if (at != std::string::npos) {
        const auto from = at + key.size();
        v = config.substr(from, config.find_first_of(", \n", from) - from);
      }
    } catch (...) {
      v.clear();
    }
  });
  return v.c_str();
}

const char *ct_library_path(void) {
  static std::string path = folder_of_libtorch();
  return path.c_str();
}

const char *ct_cpu_capability(void) {
  static std::string c = at::get_cpu_capability();
  return c.c_str();
}

void ct_set_threads(int32_t n) { wanted_threads.store(n, std::memory_order_relaxed); }

int32_t ct_get_threads(void) {
  if (applied_threads != wanted_threads.load(std::memory_order_relaxed)) apply_threads();
  return at::get_num_threads();
}

ct_error *ct_generator_new(int32_t device, uint64_t seed, ct_generator *out) {
  return guarded(0, [&] {
    at::Generator g;
    if (device < 0)
      g = at::detail::createCPUGenerator(seed);
    else
      g = at::globalContext().getAcceleratorHooksInterface(c10::kCUDA).getNewGenerator(static_cast<c10::DeviceIndex>(device));
    if (device >= 0) g.set_current_seed(seed);
    *out = reinterpret_cast<ct_generator>(c10::intrusive_ptr<c10::GeneratorImpl>(g.getIntrusivePtr()).release());
  });
}

void ct_generator_free(ct_generator g) {
  if (g) c10::intrusive_ptr<c10::GeneratorImpl>::reclaim(gen(g));
}

ct_error *ct_generator_seed(ct_generator g, uint64_t seed) {
  return guarded(0, [&] {
    at::Generator h = borrow_gen(g);
    std::lock_guard<std::mutex> lock(h.mutex());
    h.set_current_seed(seed);
  });
}

ct_error *ct_generator_state(ct_generator g, ct_tensor *out) {
  return guarded(0, [&] {
    at::Generator h = borrow_gen(g);
    std::lock_guard<std::mutex> lock(h.mutex());
    *out = give(h.get_state());
  });
}

ct_error *ct_generator_set_state(ct_generator g, ct_tensor state) {
  return guarded(0, [&] {
    at::Generator h = borrow_gen(g);
    std::lock_guard<std::mutex> lock(h.mutex());
    h.set_state(borrow(state));
  });
}

int32_t ct_cuda_count(void) {
  const char *reason;
  if (!ct_init(&reason)) return 0;
  try {
    return static_cast<int32_t>(at::detail::getCUDAHooks().deviceCount());
  } catch (...) {
    return 0;
  }
}

ct_error *ct_cuda_synchronize(int32_t device) {
  return guarded(0, [&] { at::accelerator::synchronizeDevice(static_cast<c10::DeviceIndex>(device)); });
}

ct_error *ct_cuda_empty_cache(void) {
  return guarded(0, [&] { cuda_allocator()->emptyCache(); });
}

ct_error *ct_cuda_memory(int32_t device, int64_t *stats) {
  return guarded(0, [&] {
    const auto d = static_cast<c10::DeviceIndex>(device);
    const auto s = cuda_allocator()->getDeviceStats(d);
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    stats[0] = s.allocated_bytes[all].current;
    stats[1] = s.allocated_bytes[all].peak;
    stats[2] = s.reserved_bytes[all].current;
    stats[3] = s.reserved_bytes[all].peak;
    const auto m = at::accelerator::getMemoryInfo(d);
    stats[4] = static_cast<int64_t>(m.first);
    stats[5] = static_cast<int64_t>(m.second);
  });
}

ct_error *ct_cuda_reset_peak(int32_t device) {
  return guarded(0, [&] { cuda_allocator()->resetPeakStats(static_cast<c10::DeviceIndex>(device)); });
}

void ct_cuda_allow_tf32(int32_t on) {
  at::globalContext().setAllowTF32CuBLAS(on != 0);
  at::globalContext().setAllowTF32CuDNN(on != 0);
}

void ct_cuda_benchmark(int32_t on) { at::globalContext().setBenchmarkCuDNN(on != 0); }

void ct_deterministic(int32_t on) {
  at::globalContext().setDeterministicAlgorithms(on != 0, true);
  at::globalContext().setDeterministicCuDNN(on != 0);
}

}  // extern "C"
