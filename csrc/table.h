// What a compiled layer hands to the program: the addresses of ct.h's functions, under the name CT_LAYER. Beside it, under
// CT_SOURCE, is the sum of the sources that it was compiled from: another layer's table may have another shape.
#ifndef ONESTEP_TABLE_H
#define ONESTEP_TABLE_H

#include "ct.h"

struct ct_table {
#define FUNCTION(result, name, parameters, arguments) result(*name) parameters;
#include "functions.h"
#undef FUNCTION
};

#define CT_LAYER "onestep_layer"
#define CT_SOURCE "onestep_layer_source"

#endif
