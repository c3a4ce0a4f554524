// Refuses a libtorch that this code was not tested with; scripts/libtorch-versions is the list for the set-up.
#pragma once

#include <torch/version.h>

#if !(TORCH_VERSION_MAJOR == 2 && (TORCH_VERSION_MINOR == 11 || TORCH_VERSION_MINOR == 15))
#error "onestep supports libtorch 2.11.0 and 2.15.0, and this is another version: run `make libtorch`, or point LIBTORCH at one of them"
#endif
