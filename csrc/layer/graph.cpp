// CUDA graphs: the work of a GPU, recorded once and started again as a whole.
//
// libtorch's class for it, at::cuda::CUDAGraph, is in libtorch_cuda, which the layer is not linked against, and its header needs headers of
// CUDA that pip does not install. So its functions are found by their names. These hold the types of the parameters: a libtorch whose
// functions take others has no such names, and then there are no graphs. A test reads the names in this file and looks them up.
#include "guard.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>

#include <memory>
#include <utility>

using namespace ct;

namespace {

struct Functions {
  void (*construct)(void *graph, bool keep);
  void (*destroy)(void *graph);
  // pool: of memory, {0, 0} for one of its own; mode: cudaStreamCaptureMode
  void (*begin)(void *graph, std::pair<unsigned long long, unsigned long long> pool, int mode);
  void (*end)(void *graph);
  void (*replay)(void *graph);
};

// Other threads may go on using the GPU while one records.
constexpr int kThreadLocal = 1;  // cudaStreamCaptureModeThreadLocal

const Functions &functions() {
  static const Functions found = [] {
    const char *reason;
    if (!ct_init(&reason)) throw ArgumentError{std::string("CUDA is not in use: ") + reason};
    Functions f;
    const auto find = [](auto &function, const char *name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(RTLD_DEFAULT, name));
      if (!function) throw ArgumentError{std::string("this libtorch has no CUDA graphs that onestep knows: there is no ") + name};
    };
    find(f.construct, "_ZN2at4cuda9CUDAGraphC1Eb");
    find(f.destroy, "_ZN2at4cuda9CUDAGraphD1Ev");
    find(f.begin, "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
    find(f.end, "_ZN2at4cuda9CUDAGraph11capture_endEv");
    find(f.replay, "_ZN2at4cuda9CUDAGraph6replayEv");
    return f;
  }();
  return found;
}

class Graph {
 public:
  // A recording is of one stream other than the default one. What was started before has to be done first, since recorded work does not wait
  // for it.
  explicit Graph(int32_t device) : device_(c10::kCUDA, static_cast<c10::DeviceIndex>(device)), f_(functions()) {
    at::accelerator::synchronizeDevice(device_.index());
    stream_ = std::make_unique<c10::StreamGuard>(c10::impl::VirtualGuardImpl(c10::kCUDA).getStreamFromGlobalPool(device_));
    f_.construct(room_, false);
    try {
      f_.begin(room_, {0, 0}, kThreadLocal);
    } catch (...) {
      f_.destroy(room_);
      throw;
    }
  }
  Graph(const Graph &) = delete;
  Graph &operator=(const Graph &) = delete;

  ~Graph() {
    if (stream_) try {  // it is freed while it records: what was to be recorded failed
        end();
      } catch (...) {
      }
    f_.destroy(room_);
  }

  void end() {
    const auto leave = std::move(stream_);  // also if it fails
    f_.end(room_);
  }

  void replay() {
    const c10::DeviceGuard guard(device_);
    f_.replay(room_);
  }

 private:
  const c10::Device device_;
  const Functions &f_;
  std::unique_ptr<c10::StreamGuard> stream_;  // while it records
  alignas(64) unsigned char room_[4096] = {};  // for the object, which has less than 300 bytes
};

Graph *of(ct_graph g) { return reinterpret_cast<Graph *>(g); }

}  // namespace

extern "C" {

ct_error *ct_graph_begin(int32_t device, ct_graph *out) {
  return guarded(0, [&] { *out = reinterpret_cast<ct_graph>(new Graph(device)); });
}

ct_error *ct_graph_end(ct_graph g) {
  return guarded(0, [&] { of(g)->end(); });
}

ct_error *ct_graph_replay(ct_graph g) {
  return guarded(0, [&] { of(g)->replay(); });
}

void ct_graph_free(ct_graph g) { delete of(g); }

}  // extern "C"
