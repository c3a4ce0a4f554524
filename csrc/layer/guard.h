// What every entry point shares: handles, modes, and the one place where C++ exceptions become ct_errors.
#pragma once

#include "torch_version.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <string>

#include "../ct.h"

// A thread's variable without the function call that each use costs in a library that is opened at run time. The room for such
// variables is small: numbers and pointers only.
#define CT_THREAD_LOCAL thread_local __attribute__((tls_model("initial-exec")))

namespace ct {

inline at::TensorImpl *impl(ct_tensor t) { return reinterpret_cast<at::TensorImpl *>(t); }

// A borrowed tensor as an owning at::Tensor (one reference count up).
inline at::Tensor borrow(ct_tensor t) {
  return at::Tensor(c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>::reclaim_copy(impl(t)));
}

// A tensor seen for the length of one expression, without counting references: the caller's handle keeps it alive.
struct Borrowed {
  explicit Borrowed(ct_tensor h) : t(c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>::reclaim(impl(h))) {}
  ~Borrowed() { t.unsafeReleaseTensorImpl(); }
  Borrowed(const Borrowed &) = delete;
  Borrowed &operator=(const Borrowed &) = delete;
  at::Tensor t;
};

inline ct_tensor give(at::Tensor &&t) {
  if (!t.defined()) return nullptr;
  return reinterpret_cast<ct_tensor>(std::move(t).unsafeReleaseTensorImpl());
}
inline ct_tensor give(const at::Tensor &t) { return give(at::Tensor(t)); }

ct_error *make_error(int32_t kind, const std::string &msg);

// Thrown by this layer itself for arguments that do not fit a schema.
struct ArgumentError {
  std::string msg;
};

// Whether t carries a tangent of forward-mode derivatives.
bool carries_tangent(const at::Tensor &t);
inline bool carries_tangent(const std::optional<at::Tensor> &t) { return t && carries_tangent(*t); }

extern std::atomic<int32_t> wanted_threads;
void apply_threads();
inline CT_THREAD_LOCAL int32_t applied_threads = 0;

// Thread-local libtorch state for the length of one call.
struct Mode {
  explicit Mode(uint32_t mode) {
    if (mode & CT_INFERENCE)
      inference.emplace(true);
    else if (mode & CT_NO_GRAD)
      grad.emplace(false);
    else if (!c10::GradMode::is_enabled())
      grad.emplace(true);  // inside a backward pass libtorch has it off; a checkpoint's function runs there
  }
  std::optional<c10::AutoGradMode> grad;
  std::optional<c10::InferenceMode> inference;
};

template <class F>
inline ct_error *guarded(uint32_t mode, F &&f) noexcept {
  try {
    if (applied_threads != wanted_threads.load(std::memory_order_relaxed)) apply_threads();
    Mode guard(mode);
    f();
    return nullptr;
  } catch (const ArgumentError &e) {
    return make_error(CT_ERR_ARGUMENT, e.msg);
  } catch (const c10::OutOfMemoryError &e) {
    return make_error(CT_ERR_OUT_OF_MEMORY, e.what_without_backtrace());
  } catch (const c10::NotImplementedError &e) {
    return make_error(CT_ERR_NOT_IMPLEMENTED, e.what_without_backtrace());
  } catch (const c10::AcceleratorError &e) {
    return make_error(CT_ERR_DEVICE, e.what_without_backtrace());
  } catch (const c10::Error &e) {
    return make_error(CT_ERR_OTHER, e.what_without_backtrace());
  } catch (const std::bad_alloc &) {
    return make_error(CT_ERR_OUT_OF_MEMORY, "out of host memory");
  } catch (const std::exception &e) {
    return make_error(CT_ERR_OTHER, e.what());
  } catch (...) {
    return make_error(CT_ERR_OTHER, "unknown C++ exception");
  }
}

}  // namespace ct
