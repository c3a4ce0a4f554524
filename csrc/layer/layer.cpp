// All that the library exports; see table.h.
#include "../table.h"

#include "torch_version.h"

#ifndef ONESTEP_SOURCE
#error compile this with scripts/setup, which says what the sources are
#endif

extern "C" {

__attribute__((visibility("default"))) extern const struct ct_table onestep_layer;
__attribute__((visibility("default"))) extern const char onestep_layer_source[];

const struct ct_table onestep_layer = {
#define FUNCTION(result, name, parameters, arguments) name,
#include "../functions.h"
#undef FUNCTION
};

const char onestep_layer_source[] = ONESTEP_SOURCE;

}  // extern "C"
