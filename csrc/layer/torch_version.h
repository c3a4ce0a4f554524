// Refuses to compile against a libtorch that onestep is not tested with. internal/libtorch/versions is the list; a test in
// tests/ keeps the two alike.
#pragma once

#include <torch/version.h>

#define ONESTEP_TORCH_IS(major, minor, patch) \
  (TORCH_VERSION_MAJOR == major && TORCH_VERSION_MINOR == minor && TORCH_VERSION_PATCH == patch)

#if !ONESTEP_TORCH_IS(2, 11, 0) && !ONESTEP_TORCH_IS(2, 15, 0)
#error onestep supports libtorch 2.11.0 and 2.15.0, and this is another one: go run ./scripts/setup fetches one, or set LIBTORCH to one of them first
#endif
