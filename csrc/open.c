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

// wait_briefly has the workers of OpenMP's runtime, which reads the environment when it is loaded, spin for a moment only before they
// sleep. Its own 300,000 turns suit an idle machine, where the next operator is there before they are over; where other
// processes want the cores too, workers that spin keep the one they wait for from running, which makes everything several times slower.
// What the user has set holds.
static void wait_briefly(void) {
  static const char *const given[] = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"};
  for (size_t i = 0; i < sizeof given / sizeof *given; i++)
    if (getenv(given[i])) return;
  setenv("GOMP_SPINCOUNT", "20000", 1);
}

char *ct_open(const char *path, const char *source, int *other) {
  *other = 0;
  wait_briefly();
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
