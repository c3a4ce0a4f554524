#ifndef ONESTEP_OPEN_H
#define ONESTEP_OPEN_H

// Opens the layer in a file; from then on ct.h's functions work. Returns NULL, or a message to be freed with free. *other is
// set to 1 when there is a layer in the file, made from other sources than `source`. Not for two threads at once.
char *ct_open(const char *path, const char *source, int *other);

#endif
