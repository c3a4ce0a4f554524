// ct.h's functions in the program: each calls through the table of the layer that ct_open has opened. That is one jump.
#include "open.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

static void not_open(void) {
  fputs("onestep: libtorch is used before it was opened: a fault of package torch\n", stderr);
  abort();
}

static struct ct_table layer = {
#define FUNCTION(result, name, parameters, arguments) (result(*) parameters) not_open,
#include "functions.h"
#undef FUNCTION
};

#define FUNCTION(result, name, parameters, arguments) \
  result name parameters { return layer.name arguments; }
#include "functions.h"
#undef FUNCTION

char *ct_open(const char *path, const char *source, int *other) {
  *other = 0;
  void *file = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
  if (!file) return strdup(dlerror());
  const char *made_from = dlsym(file, CT_SOURCE);
  const struct ct_table *table = dlsym(file, CT_LAYER);
  if (!made_from || !table) return strdup("not a layer of onestep");
  if (strcmp(made_from, source) != 0) {
    *other = 1;
    return strdup("made from other sources");
  }
  layer = *table;
  return NULL;
}
